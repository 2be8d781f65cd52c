import type { Knex } from 'knex';
import { inTransaction, query, type SessionLimits } from './db.ts';

/**
 * The archive of old payments, a table with the same columns. It keeps the table of the others, its indexes and its vacuum small.
 * An archived payment still counts everywhere: see the migration `create_payments_archive`.
 *
 * A payment is old when both its `requestedAt` and its record are before a bound. By its `requestedAt` alone a payment of long ago
 * that was recorded a moment ago would be one.
 */
export interface Archive {
  /**
   * Counts the payments that are old, by a scan of the table.
   * @throws LedgerUnavailableError
   */
  measure(before: Date): Promise<ArchiveSize>;
  /**
   * Moves old payments, the oldest first, in one transaction: all of them or none. Any number of processes may call it at once:
   * they take turns. It passes over rows that others have locked; it waits only for changes of totals of the same hour.
   * @param from where the batch before has ended. Without it each batch would read what earlier ones have deleted.
   * @returns undefined when no old payment is left from there on
   * @throws LedgerUnavailableError. Only after a failed COMMIT the batch may have moved.
   */
  moveBatch(bounds: { readonly from: Date | undefined; readonly before: Date }): Promise<MovedBatch | undefined>;
  /** The latest bound that is allowed, by PostgreSQL's clock: {@link MIN_AGE_HOURS} ago. @throws LedgerUnavailableError */
  latestBound(): Promise<Date>;
}

export interface ArchiveSize {
  readonly oldPayments: number;
  readonly payments: number;
  /** What the old payments take with their share of the indexes, by the average of the table. */
  readonly oldBytes: number;
}

export interface MovedBatch {
  readonly payments: number;
  /** The `requestedAt` of the last one. */
  readonly until: Date;
}

/**
 * A move rewrites the totals of its second, minute and hour. A day later nothing records there any more, but for payments that
 * waited so long, so no record waits for a batch.
 */
export const MIN_AGE_HOURS = 24;

/** Rows of one transaction. It takes some tens of milliseconds; the record of a payment that is being moved waits for it. */
const BATCH = 1_000;

/** No service waits for a batch, but a disk that is slow must not hold its locks for long. */
const LIMITS: SessionLimits = { statementTimeoutMs: 10_000, lockTimeoutMs: 1_500 };

/** Counting a hundred million rows takes minutes. */
const MEASURE_LIMITS: SessionLimits = { statementTimeoutMs: 3_600_000, lockTimeoutMs: 1_500 };

/** One statement, so that at no moment a payment is in neither table, or in both. */
const MOVE_SQL = `
  WITH old AS (
    SELECT correlation_id FROM payments
    WHERE requested_at >= ?::timestamptz AND requested_at < ?::timestamptz AND recorded_at < ?::timestamptz
    ORDER BY requested_at LIMIT ${BATCH} FOR UPDATE SKIP LOCKED
  ), moved AS (
    DELETE FROM payments USING old WHERE payments.correlation_id = old.correlation_id RETURNING payments.*
  ), archived AS (
    INSERT INTO payments_archive SELECT * FROM moved ORDER BY requested_at RETURNING requested_at
  )
  SELECT count(*) AS payments, max(requested_at) AS until FROM archived`;

export function createArchive(db: Knex): Archive {
  return {
    measure: (before) =>
      inTransaction(db, MEASURE_LIMITS, async (run) => {
        const at = before.toISOString();
        const [row] = await run<{ old: string; all: string; bytes: string }>(
          `SELECT count(*) FILTER (WHERE requested_at < ?::timestamptz AND recorded_at < ?::timestamptz) AS old,
             count(*) AS all, pg_total_relation_size('payments') AS bytes FROM payments`,
          [at, at],
        );
        const [oldPayments, payments] = [Number(row!.old), Number(row!.all)];
        const oldBytes = payments === 0 ? 0 : Math.round((Number(row!.bytes) * oldPayments) / payments);
        return { oldPayments, payments, oldBytes };
      }),

    moveBatch: ({ from, before }) =>
      inTransaction(db, LIMITS, async (run) => {
        await run(`SELECT pg_advisory_xact_lock(hashtextextended('payrelay archive', 0))`);
        // In the order of LOCK_LEDGER: payments first.
        await run('LOCK TABLE payments IN ROW EXCLUSIVE MODE');
        const at = before.toISOString();
        const [moved] = await run<{ payments: string; until: Date | null }>(MOVE_SQL, [
          from?.toISOString() ?? '-infinity',
          at,
          at,
        ]);
        const { payments, until } = moved!;
        return until === null ? undefined : { payments: Number(payments), until };
      }),

    async latestBound() {
      const [row] = await query<{ at: Date }>(
        db,
        `SELECT clock_timestamp() - make_interval(hours => ?::integer) AS at`,
        [MIN_AGE_HOURS],
      );
      return row!.at;
    },
  };
}
