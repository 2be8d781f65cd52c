import { setTimeout as sleep } from 'node:timers/promises';
import type { Knex } from 'knex';
import { BusyError, LedgerUnavailableError, PoolBusyError } from '../errors.ts';
import type { GatewayName, Payment } from '../payment.ts';
import { confirmVisible } from './confirm-visible.ts';
import { inTransaction, isLockConflict, poolSizeOf, query, sqlStateOf, write } from './db.ts';
import { expectSchema } from './expect-schema.ts';
import { findInLedger, type PaymentInLedger } from './find-payment.ts';
import { fromGatewayColumn, type GatewayColumn, toGatewayColumn } from './gateway-column.ts';
import type { SummaryRange } from './summary-range.ts';
import { segmentsOf } from './summary-segments.ts';
import { createWaitingLine } from './waiting-line.ts';

/** A payment that a gateway has on record, as the ledger records it. */
export interface PaidPayment extends Payment {
  readonly gateway: GatewayName;
  /** The time that the gateway has on record. It may differ from the time of our last attempt. */
  readonly requestedAt: Date;
}

export interface GatewayTotals {
  readonly totalRequests: number;
  readonly totalAmountCents: number;
}

export interface Summary extends Readonly<Record<GatewayName, GatewayTotals>> {
  /**
   * The `requestedAt` of the latest archived payment, when the range begins before it. The totals include archived payments, so
   * they are exact all the same.
   */
  readonly archivedUntil?: Date;
}

/** The paid payments and their totals. */
export interface Ledger {
  /**
   * Records payments in one statement. A payment that is recorded already stays as it is, so repeating is safe. Resolves when
   * all of them are committed, also on the synchronous standby, if PostgreSQL has one.
   * @throws LedgerUnavailableError after which they may have been recorded.
   */
  insertPayments(payments: readonly PaidPayment[]): Promise<void>;
  /**
   * Adds up the payments of a range. Calls wait for a connection of our own pool, in the order of their arrival.
   * @throws LedgerUnavailableError when PostgreSQL gives no usable response.
   * @throws BusyError when too many summaries run or wait in this process. It says nothing about PostgreSQL.
   */
  summarise(range: SummaryRange): Promise<Summary>;
  /**
   * What it has on each of these ids, at one moment. Calls share the connections of {@link summarise}.
   * @param correlationIds in lower case, each once
   * @throws LedgerUnavailableError, BusyError as `summarise` does
   */
  find(correlationIds: readonly string[]): Promise<ReadonlyMap<string, PaymentInLedger>>;
  /**
   * Empties the ledger and the dead letters, after `beforeCommit`. When that fails, both stay as they are and its error is
   * rethrown. Summaries and recordings wait meanwhile, for 1.5 s at most.
   * @throws LedgerUnavailableError when the purge did not succeed within 30 s. The tables are unchanged, except perhaps after
   *   a failed COMMIT.
   */
  purge(beforeCommit?: () => Promise<void>): Promise<void>;
  /**
   * Resolves when PostgreSQL responds and has the schema of this version.
   * @throws LedgerUnavailableError, or PoolBusyError, which says nothing about PostgreSQL
   */
  ping(): Promise<void>;
}

/** Short, because health checks come every few seconds and are about the present moment. */
const PING_TIMEOUT_MS = 800;

/**
 * Upper bound on reads, nearly all of them summaries, that run or wait for a connection. A summary takes a few milliseconds,
 * so the last one waits well below a second. While PostgreSQL hangs, it waits no longer than the timeout of one statement.
 */
const MAX_READS = 64;

/**
 * A purge waits until no other statement reads or writes the tables. Its lock timeout is above PostgreSQL's deadlock_timeout
 * (1 s), after which PostgreSQL cancels an autovacuum that blocks it, and below the lock timeout of the statements that queue
 * up behind it (1.5 s). Its statement timeout is for the disk: millions of payments are large files.
 */
const PURGE_LIMITS = { lockTimeoutMs: 1_200, statementTimeoutMs: 30_000 };

/** How long a purge retries, and the pause between two tries. In the pause the statements run that queued up behind it. */
const PURGE_PATIENCE_MS = 30_000;
const PURGE_PAUSE_MS = 300;

/**
 * Every statement locks the ledger's tables in this order, payments first: an INSERT by its triggers, a summary by the order of
 * its parts. A purge in another order could deadlock with a summary.
 */
const LOCK_LEDGER = 'LOCK TABLE payments, payment_totals, payments_archive, dead_letters IN ACCESS EXCLUSIVE MODE';

const NO_TOTALS: GatewayTotals = { totalRequests: 0, totalAmountCents: 0 };

/** The summary of no payments. */
export const EMPTY_SUMMARY: Summary = { primary: NO_TOTALS, fallback: NO_TOTALS };

/**
 * One statement, so that it sees payments and totals of the same moment. Because of the laterals the planner reads one range
 * of an index for each segment. The payments come before their totals, see LOCK_LEDGER. The totals include archived payments.
 * It has a row without a gateway when no payment is in the range, because the range may be of archived time all the same.
 */
const SUMMARY_SQL = `
  SELECT gateway, count, cents, archived_until FROM (
    SELECT gateway, sum(payments) AS count, sum(cents) AS cents
    FROM unnest(?::integer[], ?::timestamptz[], ?::timestamptz[]) AS segment (width, from_at, to_at), LATERAL (
      SELECT gateway, 1 AS payments, amount_cents AS cents FROM payments
      WHERE segment.width = 0 AND requested_at >= segment.from_at AND requested_at < segment.to_at
      UNION ALL
      SELECT gateway, payments, amount_cents FROM payment_totals
      WHERE width_seconds = segment.width AND start >= segment.from_at AND start < segment.to_at
      UNION ALL
      SELECT gateway, 1, amount_cents FROM payments_archive
      WHERE segment.width = 0 AND requested_at >= segment.from_at AND requested_at < segment.to_at
    ) AS part
    GROUP BY gateway HAVING sum(payments) > 0
  ) AS paid RIGHT JOIN (SELECT max(requested_at) AS archived_until FROM payments_archive) AS archive ON true`;

/** The last instant that ISO 8601 can write with a four-digit year. A later one counts as infinity. */
const END_OF_TIME_MS = Date.parse('9999-12-31T23:59:59.999Z');

function timestamp(ms: number): string {
  if (ms === Number.NEGATIVE_INFINITY) return '-infinity';
  return ms > END_OF_TIME_MS ? 'infinity' : new Date(ms).toISOString();
}

export function createLedger(db: Knex): Ledger {
  // Leaves one connection to the health checks, so that many reads do not look like an outage.
  const reads = createWaitingLine({
    places: Math.max(1, poolSizeOf(db) - 1),
    maxUnderWay: MAX_READS,
    failsWaitingToo: isForAll,
  });

  /** Runs `work` when it is its turn. */
  function read<T>(work: () => Promise<T>): Promise<T> {
    return reads.run(async () => {
      try {
        return await work();
      } catch (error) {
        if (!(error instanceof PoolBusyError)) throw error;
        throw new BusyError(error.message, { cause: error, retryAfterSeconds: 1 });
      }
    });
  }

  return {
    async insertPayments(payments) {
      const inserted = await write(
        db,
        `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
         SELECT * FROM unnest(?::uuid[], ?::text[], ?::bigint[], ?::timestamptz[])
         ON CONFLICT (correlation_id) DO NOTHING`,
        [
          payments.map(({ correlationId }) => correlationId),
          payments.map(({ gateway }) => toGatewayColumn(gateway)),
          payments.map(({ amountCents }) => amountCents),
          payments.map(({ requestedAt }) => requestedAt.toISOString()),
        ],
        { name: 'insert_payments' },
      );
      if (inserted < payments.length) await confirmVisible(db);
    },
    async summarise(range) {
      const segments = segmentsOf(range);
      const bindings = [
        segments.map(({ widthSeconds }) => widthSeconds),
        segments.map(({ fromMs }) => timestamp(fromMs)),
        segments.map(({ toMs }) => timestamp(toMs)),
      ];
      const rows = await read(() =>
        query<{ gateway: GatewayColumn | null; count: string; cents: string; archived_until: Date | null }>(
          db,
          SUMMARY_SQL,
          bindings,
        ),
      );
      const archivedUntil = rows[0]!.archived_until;
      const isOfArchivedTime = archivedUntil !== null && (range.from === undefined || range.from <= archivedUntil);
      const summary = { ...EMPTY_SUMMARY, ...(isOfArchivedTime && { archivedUntil }) };
      for (const { gateway, count, cents } of rows) {
        if (gateway !== null)
          summary[fromGatewayColumn(gateway)] = { totalRequests: Number(count), totalAmountCents: Number(cents) };
      }
      return summary;
    },
    find: (correlationIds) => read(() => findInLedger(db, correlationIds)),
    async purge(beforeCommit = async () => {}) {
      const startedAt = performance.now();
      for (;;) {
        try {
          return await inTransaction(db, PURGE_LIMITS, async (run) => {
            await run(LOCK_LEDGER);
            await run('TRUNCATE payments, payments_archive, dead_letters');
            await beforeCommit();
          });
        } catch (error) {
          if (!isLockConflict(error) || performance.now() - startedAt > PURGE_PATIENCE_MS) throw error;
        }
        await sleep(PURGE_PAUSE_MS);
      }
    },
    ping: () => expectSchema(db, { timeoutMs: PING_TIMEOUT_MS }),
  };
}

/** Whether waiting reads would fail in the same way. False for a deadlock or a lost connection of this one alone. */
function isForAll(error: unknown): boolean {
  return error instanceof LedgerUnavailableError && !/^(40|57P01)/.test(sqlStateOf(error) ?? '');
}
