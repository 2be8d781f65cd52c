import type pg from 'pg';
import type { GatewayName } from '../payment.ts';

/** What operators have released, by the trail. */
export interface Releases {
  /** The payments that were released, or may have been: a crash leaves a row without its outcome. */
  readonly ids: readonly string[];
  /** What to add to a line about a payment that a gateway has on record: who has declared that it has not. '' for nobody. */
  describe(id: string, gateway: GatewayName): string;
}

const NO_SUCH_TABLE = '42P01';

/** @returns no releases when the schema is older than the trail */
export async function readReleases(client: pg.Client): Promise<Releases> {
  const rows = await query(client);
  const lines = new Map<string, string>();
  for (const { id, gateway, who, at } of rows) {
    lines.set(`${id} ${gateway}`, `; released from ${gateway} by ${who} at ${at.toISOString()}`);
  }
  return {
    ids: [...new Set(rows.map(({ id }) => id))],
    describe: (id, gateway) => lines.get(`${id} ${gateway}`) ?? '',
  };
}

async function query(client: pg.Client) {
  try {
    const { rows } = await client.query<{ id: string; gateway: string; who: string; at: Date }>(
      `SELECT target->>'correlationId' AS id, coalesce(outcome->>'gateway', target->>'gateway') AS gateway, who, at
       FROM operator_actions WHERE action = 'payment.release' AND state <> 'refused' ORDER BY at`,
    );
    return rows;
  } catch (error) {
    if ((error as { code?: string }).code === NO_SUCH_TABLE) return [];
    throw error;
  }
}
