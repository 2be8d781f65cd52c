import type { Knex } from 'knex';
import type { GatewayName } from '../payment.ts';
import { confirmVisible } from './confirm-visible.ts';
import { query } from './db.ts';
import { insertDeadLetters, timestamp } from './dead-letter-rows.ts';
import { fromGatewayColumn, type GatewayColumn } from './gateway-column.ts';

/**
 * Dead letters: payments that the service cannot make. Each stays here until an operator decides. The service never deletes
 * a row.
 *
 * | state        | means                                                    | the next state                            |
 * |--------------|----------------------------------------------------------|-------------------------------------------|
 * | open         | no run of the payment is expected                        | queued_again: a run looks its id up       |
 * | queued_again | a later post or a retry of this id is in the queue       | paid; open: it died again                 |
 * | paid         | a gateway was paid later (set by a trigger)              | final                                     |
 * | discarded    | an operator does not want it paid                        | final                                     |
 * | recorded     | an operator recorded it by hand                          | final                                     |
 *
 * The row is committed before the job ends, under the key (job_id, accepted_at). So a crash between the two repeats the
 * run, which finds and opens the same row again: the payment is always in the queue, in an open row, or paid.
 *
 * An open or queued-again row with a gateway ties its id to that gateway, because an attempt there may have been paid.
 */
export const DEAD_LETTER_CODES = ['invalid_payment', 'rejected', 'payload_missing'] as const;

export type DeadLetterCode = (typeof DEAD_LETTER_CODES)[number];

export interface DeadLetter {
  readonly jobId: string;
  readonly correlationId: string | undefined;
  readonly amountText: string | undefined;
  /** The posted JSON text, unchanged. */
  readonly payload: string | undefined;
  readonly code: DeadLetterCode;
  /** Text for people, without the code. */
  readonly reason: string;
  /** The gateway that rejected the payment, or at which an attempt may have been paid. The row ties the id to it. */
  readonly gateway: GatewayName | undefined;
  /** Number of started runs. */
  readonly attempts: number;
  readonly acceptedAt: Date;
}

/** A dead letter with an earlier time of death: an older worker left it in Redis. */
export type EarlierDeadLetter = DeadLetter & { readonly diedAt?: Date | undefined };

/** `beyond_bound`: the invalid payment was not kept, because DEAD_LETTERS_MAX_INVALID of them are open. */
export type BuryResult = 'kept' | 'beyond_bound';

/** What the ledger knows about an id before the first attempt. */
export interface LookUp {
  readonly isRecorded: boolean;
  /** The only gateway that may receive this id. */
  readonly tiedTo: GatewayName | undefined;
}

/** The part of a dead letter that a retry needs. */
export interface StoredDeadLetter {
  readonly payload: string | undefined;
  /** The payload is only a part of what was posted. */
  readonly isCut: boolean;
}

export type DeadLetterKey = Pick<DeadLetter, 'jobId' | 'acceptedAt'>;

export interface DeadLetters {
  /**
   * Keeps dead letters, at most {@link MAX_BURIED} at once. Existing rows become open again, unless they are closed. A row
   * that PostgreSQL rejects is kept without its payload. Resolves with the results, in order, once the rows are committed.
   * @throws LedgerUnavailableError after which some rows may be committed.
   */
  bury(deadLetters: readonly EarlierDeadLetter[]): Promise<readonly BuryResult[]>;
  /**
   * Looks ids up among payments, archived ones included, and dead letters. Rows of an unpaid id become `queued_again`, because
   * the caller is the next run of that payment. A payment counts as recorded when its row is on the synchronous standby, too,
   * if PostgreSQL has one.
   * @throws LedgerUnavailableError
   */
  lookUp(correlationIds: readonly string[]): Promise<ReadonlyMap<string, LookUp>>;
  /** Which of these dead payments have a row, in another state than `queued_again`. @throws LedgerUnavailableError */
  areBuried(keys: readonly DeadLetterKey[]): Promise<readonly boolean[]>;
  /**
   * A page, ordered by id, of the rows that have been `queued_again` for at least {@link SETTLED_AFTER_MS}.
   * @throws LedgerUnavailableError
   */
  queuedAgain(afterId: string, limit: number): Promise<readonly { readonly id: string; readonly jobId: string }[]>;
  /** Makes these rows open again if they are still `queued_again`. @throws LedgerUnavailableError */
  reopen(ids: readonly string[]): Promise<void>;
  /** How many are open, by code. @throws LedgerUnavailableError */
  countOpen(): Promise<Readonly<Record<DeadLetterCode, number>>>;
  /** @throws LedgerUnavailableError */
  find(key: DeadLetterKey): Promise<StoredDeadLetter | undefined>;
}

/** Rows of one statement. With payloads of 64 KiB, the maximum, that is 6.4 MB. */
export const MAX_BURIED = 100;

/** After this time a run that looked its id up has a job in the queue, or has ended. */
const SETTLED_AFTER_MS = 60_000;

/** Maximum age of the count of open invalid payments. A count of 100,000 takes milliseconds, but a flood has many batches. */
const COUNT_AGE_MS = 1_000;

const LOOK_UP_SQL = `SELECT correlation_id, true AS is_recorded, NULL::bigint AS id, NULL AS gateway, NULL AS state
  FROM payments WHERE correlation_id = ANY(?::uuid[])
  UNION ALL
  SELECT correlation_id, is_recorded, id, gateway, state FROM known_elsewhere(?::uuid[])`;

/** Also closes rows of paid ids. Such a row exists when payment and row were committed so close together that neither saw the other. */
const QUEUED_AGAIN_SQL = `UPDATE dead_letters SET state_at = clock_timestamp(), state_by = 'worker',
    state = CASE WHEN EXISTS (SELECT FROM recorded_payments AS payment WHERE payment.correlation_id = dead_letters.correlation_id)
      THEN 'paid' ELSE 'queued_again' END
  WHERE id IN (
    SELECT id FROM dead_letters WHERE id = ANY(?::bigint[]) AND state IN ('open', 'queued_again') ORDER BY id FOR UPDATE
  )`;

/** @param maxInvalid DEAD_LETTERS_MAX_INVALID. Several workers may together exceed it by the rows of {@link COUNT_AGE_MS}. */
export function createDeadLetters(db: Knex, { maxInvalid }: { maxInvalid: number }): DeadLetters {
  let room = { invalid: 0, countedAtMs: Number.NEGATIVE_INFINITY };

  /** How many more invalid payments may have a row. */
  async function roomForInvalid(): Promise<number> {
    if (performance.now() - room.countedAtMs > COUNT_AGE_MS) {
      const [row] = await query<{ count: string }>(
        db,
        `SELECT count(*) FROM dead_letters WHERE state = 'open' AND reason_code = 'invalid_payment'`,
        [],
      );
      room = { invalid: Math.max(0, maxInvalid - Number(row!.count)), countedAtMs: performance.now() };
    }
    return room.invalid;
  }

  return {
    async bury(deadLetters) {
      // A worker may have taken a job twice, after it had lost the lock. One statement accepts a key only once.
      const byKey = new Map(deadLetters.map((letter) => [keyOf(letter), letter]));
      const invalid = [...byKey.values()].filter(({ code }) => code === 'invalid_payment');
      const beyondBound = new Set(
        (invalid.length > 0 ? invalid.slice(await roomForInvalid()) : []).map((letter) => keyOf(letter)),
      );
      await insertDeadLetters(
        db,
        [...byKey].filter(([key]) => !beyondBound.has(key)).map(([, letter]) => letter),
      );
      room.invalid -= invalid.length - beyondBound.size;
      return deadLetters.map((letter) => (beyondBound.has(keyOf(letter)) ? 'beyond_bound' : 'kept'));
    },

    async lookUp(correlationIds) {
      const ids = [...correlationIds];
      interface Row {
        correlation_id: string;
        is_recorded: boolean;
        id: string | null;
        gateway: GatewayColumn | null;
        state: 'open' | 'queued_again' | null;
      }
      const rows = await query<Row>(db, LOOK_UP_SQL, [ids, ids], { name: 'look_up' });
      const recorded = new Set(
        rows.filter(({ is_recorded }) => is_recorded).map(({ correlation_id }) => correlation_id),
      );
      // Their jobs will end.
      if (recorded.size > 0) await confirmVisible(db);
      const letters = rows.filter(({ is_recorded }) => !is_recorded);
      const changed = letters.filter(({ correlation_id, state }) => state === 'open' || recorded.has(correlation_id));
      if (changed.length > 0) await query(db, QUEUED_AGAIN_SQL, [changed.map(({ id }) => id)]);
      // Sorted by row, because the latest tie counts.
      const ties = new Map(
        letters
          .filter(({ gateway }) => gateway !== null)
          .sort((a, b) => (BigInt(a.id!) < BigInt(b.id!) ? -1 : 1))
          .map(({ correlation_id, gateway }) => [correlation_id, fromGatewayColumn(gateway!)]),
      );
      return new Map(ids.map((id) => [id, { isRecorded: recorded.has(id), tiedTo: ties.get(id) }]));
    },

    async areBuried(keys) {
      if (keys.length === 0) return [];
      const rows = await query<{ ordinality: string }>(
        db,
        `SELECT ordinality FROM unnest(?::text[], ?::timestamptz[]) WITH ORDINALITY AS asked (job_id, accepted_at)
         JOIN dead_letters USING (job_id, accepted_at) WHERE state <> 'queued_again'`,
        [keys.map(({ jobId }) => jobId), keys.map(({ acceptedAt }) => timestamp(acceptedAt))],
      );
      const found = new Set(rows.map(({ ordinality }) => Number(ordinality) - 1));
      // Their jobs may be removed.
      if (found.size > 0) await confirmVisible(db);
      return keys.map((_key, index) => found.has(index));
    },

    async queuedAgain(afterId, limit) {
      const rows = await query<{ id: string; job_id: string }>(
        db,
        `SELECT id, job_id FROM dead_letters
         WHERE state = 'queued_again' AND state_at < clock_timestamp() - make_interval(secs => ?) AND id > ?
         ORDER BY id LIMIT ?`,
        [SETTLED_AFTER_MS / 1_000, afterId, limit],
      );
      return rows.map(({ id, job_id }) => ({ id, jobId: job_id }));
    },

    async reopen(ids) {
      await query(
        db,
        `UPDATE dead_letters SET state = 'open', state_at = clock_timestamp(), state_by = 'worker'
         WHERE id = ANY(?::bigint[]) AND state = 'queued_again'`,
        [[...ids]],
      );
    },

    async countOpen() {
      const rows = await query<{ code: DeadLetterCode; count: string }>(
        db,
        `SELECT reason_code AS code, count(*) FROM dead_letters WHERE state = 'open' GROUP BY reason_code`,
      );
      const counts = new Map(rows.map(({ code, count }) => [code, Number(count)]));
      return Object.fromEntries(DEAD_LETTER_CODES.map((code) => [code, counts.get(code) ?? 0])) as Record<
        DeadLetterCode,
        number
      >;
    },

    async find({ jobId, acceptedAt }) {
      const [row] = await query<{ payload: string | null; payload_bytes: number | null }>(
        db,
        'SELECT payload, payload_bytes FROM dead_letters WHERE job_id = ? AND accepted_at = ?::timestamptz',
        [jobId, timestamp(acceptedAt)],
      );
      if (row === undefined) return undefined;
      const payload = row.payload ?? undefined;
      return { payload, isCut: Buffer.byteLength(payload ?? '') < (row.payload_bytes ?? 0) };
    },
  };
}

function keyOf({ jobId, acceptedAt }: DeadLetterKey): string {
  return `${timestamp(acceptedAt)} ${jobId}`;
}
