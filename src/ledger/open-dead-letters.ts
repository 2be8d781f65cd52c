import type { Knex } from 'knex';
import { LedgerUnavailableError } from '../errors.ts';
import type { GatewayName } from '../payment.ts';
import { query } from './db.ts';
import { conditionOf, type DeadLetterFilter, type ListPlace, rangesOf } from './dead-letter-filter.ts';
import type { DeadLetterCode } from './dead-letters.ts';
import { fromGatewayColumn, type GatewayColumn } from './gateway-column.ts';

export interface OpenDeadLetter extends ListPlace {
  readonly jobId: string;
  readonly correlationId: string | undefined;
  readonly amountText: string | undefined;
  readonly code: DeadLetterCode;
  readonly reason: string;
  readonly gateway: GatewayName | undefined;
  readonly attempts: number;
  readonly acceptedAt: Date;
  /** The beginning of what the row keeps, {@link SHOWN_CHARACTERS} at most. */
  readonly payloadStart: string | undefined;
  /** Of the payload as it was posted. */
  readonly payloadBytes: number | undefined;
}

/** The part of an open dead letter that an action needs. */
export interface WalkedDeadLetter {
  readonly id: string;
  readonly jobId: string;
  readonly correlationId: string | undefined;
  readonly acceptedAt: Date;
  readonly payload: string | undefined;
  /** The payload is only a part of what was posted. */
  readonly isCut: boolean;
}

/** A piece of a walk over the letters of a filter, in the order of their ids. */
export interface WalkedPiece {
  /** May be empty before the end. */
  readonly letters: readonly WalkedDeadLetter[];
  /** Where the next piece begins. */
  readonly reachedId: string;
  readonly isEnd: boolean;
}

/** One row in any state. */
export interface WholeDeadLetter extends OpenDeadLetter {
  readonly state: string;
  readonly stateAt: Date;
  readonly stateBy: string;
  readonly payload: string | undefined;
}

export interface LetterCounts {
  readonly byCode: Readonly<Record<DeadLetterCode, number>>;
  /** False: there may be more, because a count ends at {@link MAX_COUNTED} of one reason and gateway, or took too long. */
  readonly isComplete: boolean;
}

/** The open dead letters as operators see and treat them. No statement reads more rows than its bound. */
export interface OpenDeadLetters {
  /** A page, the newest first, beginning after a place. @throws LedgerUnavailableError */
  list(filter: DeadLetterFilter, page: { after?: ListPlace | undefined; limit: number }): Promise<OpenDeadLetter[]>;
  /** How many fit. Without `ids` it reads the index of open letters alone. Counts none when it takes too long. */
  count(filter: DeadLetterFilter): Promise<LetterCounts>;
  /**
   * The next letters after an id, `limit` at most. Reads {@link WINDOW} open rows at most.
   * @throws LedgerUnavailableError
   */
  walk(filter: DeadLetterFilter, piece: { afterId: string; limit: number }): Promise<WalkedPiece>;
  /** Those of these ids that have a payment in the ledger. @throws LedgerUnavailableError */
  paidOf(correlationIds: readonly string[]): Promise<ReadonlySet<string>>;
  /** Discards those of these rows that are open and died before `to`. @returns how many. @throws LedgerUnavailableError */
  discard(ids: readonly string[], by: { to: Date; who: string }): Promise<number>;
  /** @throws LedgerUnavailableError */
  find(id: string): Promise<WholeDeadLetter | undefined>;
  /** The time of the clock that stamps deaths. @throws LedgerUnavailableError */
  now(): Promise<Date>;
}

/** Characters of a payload in a list. Enough for an id and an amount. */
const SHOWN_CHARACTERS = 200;

/** Open rows that one piece of a walk looks at. It takes some milliseconds. */
const WINDOW = 1_000;

/**
 * A count takes 0.1 s for a million letters when PostgreSQL has vacuumed them, and more than a second after a flood, when it has
 * to read the rows, too. So that it always ends in time, it ends here.
 */
const MAX_COUNTED = 100_000;

interface Row {
  id: string;
  job_id: string;
  correlation_id: string | null;
  amount_text: string | null;
  payload: string | null;
  payload_bytes: number | null;
  reason_code: DeadLetterCode;
  reason: string;
  gateway: GatewayColumn | null;
  attempts: number;
  accepted_at: Date;
  died_at: Date;
  state: string;
  state_at: Date;
  state_by: string;
}

export function createOpenDeadLetters(db: Knex): OpenDeadLetters {
  return {
    async list(filter, { after, limit }) {
      const ranges = rangesOf(filter, after);
      // Each range is one stretch of the index. Their newest are merged. The gateway is the same in the whole stretch, but of
      // a NULL the planner does not know that, and would sort.
      const parts = ranges.map(
        ({ where }) =>
          `(SELECT * FROM dead_letters WHERE ${where} ORDER BY gateway DESC, died_at DESC, id DESC LIMIT ?)`,
      );
      const rows = await query<Row>(
        db,
        `SELECT id, job_id, correlation_id, amount_text, left(payload, ${SHOWN_CHARACTERS}) AS payload, payload_bytes,
           reason_code, reason, gateway, attempts, accepted_at, died_at
         FROM (SELECT * FROM (${parts.join(' UNION ALL ')}) AS part ORDER BY died_at DESC, id DESC LIMIT ?) AS page
         ORDER BY died_at DESC, id DESC`,
        [...ranges.flatMap(({ bindings }) => [...bindings, limit]), limit],
      );
      return rows.map(toOpen);
    },

    async count(filter) {
      const parts = filter.ids === undefined ? rangesOf(filter) : [conditionOf(filter)];
      const byCode: Record<DeadLetterCode, number> = { invalid_payment: 0, rejected: 0, payload_missing: 0 };
      const rows = await query<{ code: DeadLetterCode; count: string }>(
        db,
        parts
          .map(
            ({ where }) => `SELECT reason_code AS code, count(*)
              FROM (SELECT reason_code FROM dead_letters WHERE ${where} LIMIT ${MAX_COUNTED}) AS counted GROUP BY reason_code`,
          )
          .join(' UNION ALL '),
        parts.flatMap(({ bindings }) => bindings),
      ).catch((error: unknown) => {
        // Until PostgreSQL has vacuumed, the index also has the letters that a large action has just closed.
        if (error instanceof LedgerUnavailableError) return undefined;
        throw error;
      });
      if (rows === undefined) return { byCode, isComplete: false };
      for (const { code, count } of rows) byCode[code] += Number(count);
      return { byCode, isComplete: rows.every(({ count }) => Number(count) < MAX_COUNTED) };
    },

    async walk(filter, { afterId, limit }) {
      const fits = conditionOf(filter);
      // Ids select few rows of many.
      const window = conditionOf({ ids: filter.ids });
      const next = `FROM dead_letters WHERE ${window.where} AND id > ? ORDER BY id LIMIT ${WINDOW}`;
      const rows = await query<Row>(
        db,
        `SELECT id, job_id, correlation_id, accepted_at, payload, payload_bytes
         FROM (SELECT * ${next}) AS letter
         WHERE ${fits.where} ORDER BY id LIMIT ?`,
        [...window.bindings, afterId, ...fits.bindings, limit],
      );
      const letters = rows.map(toWalked);
      if (letters.length === limit) return { letters, reachedId: letters.at(-1)!.id, isEnd: false };
      // Most of the window did not fit.
      const [seen] = await query<{ last_id: string | null; count: string }>(
        db,
        `SELECT max(id) AS last_id, count(*) FROM (SELECT id ${next}) AS letter`,
        [...window.bindings, afterId],
      );
      return { letters, reachedId: seen!.last_id ?? afterId, isEnd: Number(seen!.count) < WINDOW };
    },

    async paidOf(correlationIds) {
      if (correlationIds.length === 0) return new Set();
      const rows = await query<{ correlation_id: string }>(
        db,
        'SELECT correlation_id FROM recorded_payments WHERE correlation_id = ANY(?::uuid[])',
        [[...correlationIds]],
      );
      return new Set(rows.map(({ correlation_id }) => correlation_id));
    },

    async discard(ids, { to, who }) {
      const rows = await query(
        db,
        `UPDATE dead_letters SET state = 'discarded', state_at = clock_timestamp(), state_by = ?
         WHERE id IN (
           SELECT id FROM dead_letters WHERE id = ANY(?::bigint[]) AND state = 'open' AND died_at <= ?::timestamptz
           ORDER BY id FOR UPDATE
         ) RETURNING id`,
        [who, [...ids], to.toISOString()],
      );
      return rows.length;
    },

    async find(id) {
      const [row] = await query<Row>(db, 'SELECT * FROM dead_letters WHERE id = ?::bigint', [id]);
      if (row === undefined) return undefined;
      const { state, state_at, state_by, payload } = row;
      return { ...toOpen(row), state, stateAt: state_at, stateBy: state_by, payload: payload ?? undefined };
    },

    async now() {
      const [row] = await query<{ now: Date }>(db, 'SELECT clock_timestamp() AS now');
      return row!.now;
    },
  };
}

function toOpen(row: Row): OpenDeadLetter {
  return {
    id: row.id,
    jobId: row.job_id,
    correlationId: row.correlation_id ?? undefined,
    amountText: row.amount_text ?? undefined,
    code: row.reason_code,
    reason: row.reason,
    gateway: row.gateway === null ? undefined : fromGatewayColumn(row.gateway),
    attempts: row.attempts,
    acceptedAt: row.accepted_at,
    diedAt: row.died_at,
    payloadStart: row.payload?.slice(0, SHOWN_CHARACTERS),
    payloadBytes: row.payload_bytes ?? undefined,
  };
}

function toWalked(row: Row): WalkedDeadLetter {
  return {
    id: row.id,
    jobId: row.job_id,
    correlationId: row.correlation_id ?? undefined,
    acceptedAt: row.accepted_at,
    payload: row.payload ?? undefined,
    isCut: Buffer.byteLength(row.payload ?? '') < (row.payload_bytes ?? 0),
  };
}
