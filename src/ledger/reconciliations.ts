import type { Knex } from 'knex';
import type { GatewayName } from '../payment.ts';
import { query } from './db.ts';
import type { SummaryRange } from './summary-range.ts';

/** What a gateway had on record, minus what the ledger had. */
export interface GatewayDifference {
  readonly payments: number;
  readonly amountCents: number;
}

/** The result of one complete comparison of the ledger with both gateways. */
export interface Reconciliation {
  readonly range: SummaryRange;
  readonly differences: Readonly<Record<GatewayName, GatewayDifference>>;
}

/** The results of all comparisons. The service never deletes one. */
export interface Reconciliations {
  /** @throws LedgerUnavailableError, also when the schema is older than this table */
  add(reconciliation: Reconciliation): Promise<void>;
  /** The latest; undefined when there was none. @throws LedgerUnavailableError */
  last(): Promise<(Reconciliation & { readonly endedAt: Date }) | undefined>;
}

interface Row {
  readonly ended_at: Date;
  readonly range_from: Date | null;
  readonly range_to: Date | null;
  // PostgreSQL's bigint comes as text.
  readonly default_payments: string;
  readonly default_amount_cents: string;
  readonly fallback_payments: string;
  readonly fallback_amount_cents: string;
}

export function createReconciliations(db: Knex): Reconciliations {
  return {
    async add({ range, differences: { primary, fallback } }) {
      await query(
        db,
        `INSERT INTO reconciliations
           (range_from, range_to, default_payments, default_amount_cents, fallback_payments, fallback_amount_cents)
         VALUES (?::timestamptz, ?::timestamptz, ?, ?, ?, ?)`,
        [
          range.from?.toISOString() ?? null,
          range.to?.toISOString() ?? null,
          primary.payments,
          primary.amountCents,
          fallback.payments,
          fallback.amountCents,
        ] as Knex.RawBinding[],
      );
    },
    async last() {
      const [row] = await query<Row>(db, 'SELECT * FROM reconciliations ORDER BY id DESC LIMIT 1');
      if (row === undefined) return undefined;
      return {
        endedAt: row.ended_at,
        range: { ...(row.range_from && { from: row.range_from }), ...(row.range_to && { to: row.range_to }) },
        differences: {
          primary: { payments: Number(row.default_payments), amountCents: Number(row.default_amount_cents) },
          fallback: { payments: Number(row.fallback_payments), amountCents: Number(row.fallback_amount_cents) },
        },
      };
    },
  };
}
