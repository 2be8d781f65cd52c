import type { DeadLetter } from '../../src/ledger/dead-letters.ts';
import { sql } from './services.ts';

export interface LetterOptions {
  readonly code?: 'invalid_payment' | 'rejected' | 'payload_missing';
  readonly gateway?: 'default' | 'fallback' | null;
  readonly diedAt?: string;
  /** Default: a valid payment of this id. */
  readonly payload?: ((correlationId: string) => string | null) | undefined;
  /** Default: that of the payload. */
  readonly payloadBytes?: number;
}

interface NewRow {
  id: string;
  correlation_id: string;
}

/** Inserts open dead letters whose jobs Redis does not have any more. @returns their rows, the oldest first */
export async function insertLetters(
  databaseUrl: string,
  count: number,
  {
    code = 'rejected',
    gateway = 'default',
    diedAt = '2026-01-02T03:04:05Z',
    payload,
    payloadBytes,
  }: LetterOptions = {},
): Promise<NewRow[]> {
  const rows = await sql<NewRow>(
    databaseUrl,
    `INSERT INTO dead_letters (job_id, correlation_id, amount_text, payload, payload_bytes, reason_code, reason, gateway,
       attempts, accepted_at, died_at, state_by)
     SELECT id::text, id, '19.9', payload, coalesce($5::int, octet_length(payload)), $2, 'HTTP 400', $3, 3,
       '2026-01-01T00:00:00Z', $4::timestamptz, 'worker'
     FROM (
       SELECT id, '{"correlationId":"' || id || '","amount":19.9}' AS payload
       FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, $1)) AS ids
     ) AS made
     RETURNING id, correlation_id`,
    [count, code, gateway, diedAt, payloadBytes ?? null],
  );
  rows.sort((a, b) => Number(a.id) - Number(b.id));
  if (payload === undefined) return rows;
  for (const { id, correlation_id } of rows) {
    const text = payload(correlation_id);
    await sql(
      databaseUrl,
      'UPDATE dead_letters SET payload = $2, payload_bytes = coalesce($3::int, $4::int) WHERE id = $1',
      [id, text, payloadBytes ?? null, text === null ? null : Buffer.byteLength(text)],
    );
  }
  return rows;
}

/** How many rows are in each state. */
export async function statesOf(databaseUrl: string): Promise<Record<string, number>> {
  const rows = await sql<{ state: string; count: string }>(
    databaseUrl,
    'SELECT state, count(*) FROM dead_letters GROUP BY state',
  );
  return Object.fromEntries(rows.map(({ state, count }) => [state, Number(count)]));
}

/** A payment that the primary has rejected, as a worker buries it. */
export function rejectedLetter(correlationId: string): DeadLetter {
  return {
    jobId: correlationId,
    correlationId,
    amountText: '19.9',
    payload: '{}',
    code: 'rejected',
    reason: 'HTTP 400',
    gateway: 'primary',
    attempts: 1,
    acceptedAt: new Date(),
  };
}
