import { setTimeout as sleep } from 'node:timers/promises';
import type { Knex } from 'knex';
import { BusyError, LedgerUnavailableError, PoolBusyError } from '../errors.ts';
import type { GatewayName, Payment } from '../payment.ts';
import { inTransaction, poolSizeOf, query, sqlStateOf } from './db.ts';
import { fromGatewayColumn, type GatewayColumn, toGatewayColumn } from './gateway-column.ts';
import type { SummaryRange } from './summary-range.ts';
import { segmentsOf } from './summary-segments.ts';
import { createWaitingLine } from './waiting-line.ts';

/** A payment that a gateway holds, as the ledger records it. */
export interface PaidPayment extends Payment {
  readonly gateway: GatewayName;
  /** What the gateway holds, not what we meant to send. */
  readonly requestedAt: Date;
}

export interface GatewayTotals {
  readonly totalRequests: number;
  readonly totalAmountCents: number;
}

export type Summary = Readonly<Record<GatewayName, GatewayTotals>>;

/** The payments that are paid, and the totals made of them. */
export interface Ledger {
  /**
   * Records payments in one statement. One that is there already stays as it is, so repeating is harmless.
   * @throws LedgerUnavailableError after which they may have been recorded.
   */
  insertPayments(payments: readonly PaidPayment[]): Promise<void>;
  /**
   * Waits for a connection of our own pool, in the order of the calls.
   * @throws LedgerUnavailableError when PostgreSQL gives no usable response, and BusyError when it is only that too many are
   *   under way in this process: then the ledger says nothing, neither that it is down nor what it holds.
   */
  summarise(range: SummaryRange): Promise<Summary>;
  /**
   * Empties the ledger and the dead letters, after `beforeCommit`: when that fails they stay as they are, and its error is
   * thrown. Summaries and recordings wait meanwhile, for 1.5 s at most.
   * @throws LedgerUnavailableError when it could not be done within 30 s; only after a COMMIT that failed may they be empty.
   */
  purge(beforeCommit?: () => Promise<void>): Promise<void>;
  /** Asks for an answer, whatever it is. @throws LedgerUnavailableError */
  ping(): Promise<void>;
}

/** For the probes, which are asked every few seconds and answer for the moment. */
const PING_TIMEOUT_MS = 800;

/**
 * Summaries that run or wait for a connection at most. One takes a few milliseconds, so the last of so many waits well below a
 * second, and no longer than a statement's time-out while PostgreSQL hangs.
 */
const MAX_SUMMARIES = 64;

/**
 * A purge waits for all who read or write. Its lock time-out is above PostgreSQL's deadlock_timeout (1 s), after which PostgreSQL
 * ends an autovacuum that is in the way, and below that of the statements that queue up behind it (1.5 s). Its statement
 * time-out is for the disk: millions of payments are large files.
 */
const PURGE_LIMITS = { lockTimeoutMs: 1_200, statementTimeoutMs: 30_000 };

/** How long a purge tries again, and the pause in which those who queued up behind it have their turn. */
const PURGE_PATIENCE_MS = 30_000;
const PURGE_PAUSE_MS = 300;

/**
 * The one order in which locks on the ledger's tables are taken: payments first. An INSERT follows it by its trigger, a summary by
 * the order of its parts. A purge in another order and a summary can wait for each other.
 */
const LOCK_LEDGER = 'LOCK TABLE payments, payment_totals, dead_letters IN ACCESS EXCLUSIVE MODE';

const NO_TOTALS: GatewayTotals = { totalRequests: 0, totalAmountCents: 0 };

/** What a summary of no payments says. */
export const EMPTY_SUMMARY: Summary = { primary: NO_TOTALS, fallback: NO_TOTALS };

/**
 * One statement, so that it sees payments and totals at one moment. The laterals keep the planner at one range of an index
 * for each segment. The payments come before their totals, see LOCK_LEDGER.
 */
const SUMMARY_SQL = `
  SELECT gateway, sum(payments) AS count, sum(cents) AS cents
  FROM unnest(?::integer[], ?::timestamptz[], ?::timestamptz[]) AS segment (width, from_at, to_at), LATERAL (
    SELECT gateway, 1 AS payments, amount_cents AS cents FROM payments
    WHERE segment.width = 0 AND requested_at >= segment.from_at AND requested_at < segment.to_at
    UNION ALL
    SELECT gateway, payments, amount_cents FROM payment_totals
    WHERE width_seconds = segment.width AND start >= segment.from_at AND start < segment.to_at
  ) AS part
  GROUP BY gateway HAVING sum(payments) > 0`;

/** ISO 8601 has four digits for a year; what lies beyond the last of them is as good as for ever. */
const END_OF_TIME_MS = Date.parse('9999-12-31T23:59:59.999Z');

function timestamp(ms: number): string {
  if (ms === Number.NEGATIVE_INFINITY) return '-infinity';
  return ms > END_OF_TIME_MS ? 'infinity' : new Date(ms).toISOString();
}

export function createLedger(db: Knex): Ledger {
  // One connection is left to the probes: a crowd of summaries is no outage.
  const summaries = createWaitingLine({
    places: Math.max(1, poolSizeOf(db) - 1),
    maxUnderWay: MAX_SUMMARIES,
    failsWaitingToo: isForAll,
  });

  async function readSummary(bindings: Knex.RawBinding[]) {
    try {
      return await query<{ gateway: GatewayColumn; count: string; cents: string }>(db, SUMMARY_SQL, bindings);
    } catch (error) {
      if (!(error instanceof PoolBusyError)) throw error;
      throw new BusyError(error.message, { cause: error, retryAfterSeconds: 1 });
    }
  }

  return {
    async insertPayments(payments) {
      await query(
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
    },
    async summarise(range) {
      const segments = segmentsOf(range);
      const bindings = [
        segments.map(({ widthSeconds }) => widthSeconds),
        segments.map(({ fromMs }) => timestamp(fromMs)),
        segments.map(({ toMs }) => timestamp(toMs)),
      ];
      const rows = await summaries.run(() => readSummary(bindings));
      const summary = { ...EMPTY_SUMMARY };
      for (const { gateway, count, cents } of rows) {
        summary[fromGatewayColumn(gateway)] = { totalRequests: Number(count), totalAmountCents: Number(cents) };
      }
      return summary;
    },
    async purge(beforeCommit = async () => {}) {
      const startedAt = performance.now();
      for (;;) {
        try {
          return await inTransaction(db, PURGE_LIMITS, async (run) => {
            await run(LOCK_LEDGER);
            await run('TRUNCATE payments, dead_letters');
            await beforeCommit();
          });
        } catch (error) {
          if (!isLockConflict(error) || performance.now() - startedAt > PURGE_PATIENCE_MS) throw error;
        }
        await sleep(PURGE_PAUSE_MS);
      }
    },
    async ping() {
      await query(db, 'SELECT 1', [], { timeoutMs: PING_TIMEOUT_MS });
    },
  };
}

/** Whether a summary failed for a reason that the others would meet as well, and not by a deadlock or a lost connection of its own. */
function isForAll(error: unknown): boolean {
  return error instanceof LedgerUnavailableError && !/^(40|57P01)/.test(sqlStateOf(error) ?? '');
}

/** Whether others were in the way, in PostgreSQL (deadlock, lock time-out) or in our own pool. Nothing was done then. */
function isLockConflict(error: unknown): boolean {
  return (
    error instanceof PoolBusyError ||
    (error instanceof LedgerUnavailableError && /^(40|55P03)/.test(sqlStateOf(error) ?? ''))
  );
}
