import type { Knex } from 'knex';
import { LedgerUnavailableError } from '../errors.ts';
import { beginningOf } from '../payment.ts';
import { query } from './db.ts';
import type { EarlierDeadLetter } from './dead-letters.ts';
import { toGatewayColumn } from './gateway-column.ts';

/** How much of an invalid payment's payload a row keeps, in bytes. Enough to see what is wrong with it. */
const MAX_INVALID_PAYLOAD_BYTES = 2 * 1024;

/** Longest reason or amount, in characters. Both may quote what a client sent. */
const MAX_TEXT = 1_000;

/** The statement has no name, so PostgreSQL plans each call for the size the tables have at that moment. */
const INSERT_SQL = `INSERT INTO dead_letters AS kept (job_id, correlation_id, amount_text, payload, payload_bytes, reason_code, reason,
    gateway, unresolved_at, attempts, accepted_at, died_at, state, state_by)
  SELECT job_id, correlation_id, amount_text, payload, payload_bytes, reason_code, reason,
    gateway, unresolved_at, attempts, accepted_at, coalesce(died_at, clock_timestamp()),
    CASE WHEN EXISTS (SELECT FROM recorded_payments AS payment WHERE payment.correlation_id = buried.correlation_id)
      THEN 'paid' ELSE 'open' END, 'worker'
  FROM unnest(?::text[], ?::uuid[], ?::text[], ?::text[], ?::integer[], ?::text[], ?::text[],
    ?::text[], ?::text[], ?::integer[], ?::timestamptz[], ?::timestamptz[])
    AS buried (job_id, correlation_id, amount_text, payload, payload_bytes, reason_code, reason,
      gateway, unresolved_at, attempts, accepted_at, died_at)
  ORDER BY job_id, accepted_at
  ON CONFLICT (job_id, accepted_at) DO UPDATE SET
    correlation_id = coalesce(excluded.correlation_id, kept.correlation_id),
    amount_text = coalesce(kept.amount_text, excluded.amount_text),
    payload = coalesce(kept.payload, excluded.payload),
    payload_bytes = coalesce(kept.payload_bytes, excluded.payload_bytes),
    reason_code = excluded.reason_code,
    reason = excluded.reason,
    gateway = coalesce(excluded.gateway, kept.gateway),
    unresolved_at = coalesce(excluded.unresolved_at, kept.unresolved_at),
    attempts = excluded.attempts,
    died_at = excluded.died_at,
    state = excluded.state,
    state_at = clock_timestamp(),
    state_by = excluded.state_by
  WHERE kept.state NOT IN ('paid', 'recorded', 'discarded')`;

/**
 * Commits the rows of dead letters with different keys. A row that exists already becomes open again, unless it is closed.
 * A row that PostgreSQL rejects is committed without its payload and with its texts in ASCII.
 * @throws LedgerUnavailableError after which some rows may be committed.
 * @throws PostgreSQL's own error when it rejects a row without its payload, too.
 */
export function insertDeadLetters(db: Knex, letters: readonly EarlierDeadLetter[]): Promise<void> {
  return insertRows(db, letters.map(toRow));
}

/** A dead letter within the bounds of its columns. */
interface Row extends EarlierDeadLetter {
  /** Size of the whole payload. The row may keep less of it. */
  readonly payloadBytes: number | undefined;
  /** Whether the payload was left out after PostgreSQL had rejected the row. */
  readonly isBare: boolean;
}

async function insertRows(db: Knex, rows: readonly Row[]): Promise<void> {
  const [first] = rows;
  if (first === undefined) return;
  try {
    await query(db, INSERT_SQL, [
      rows.map(({ jobId }) => jobId),
      rows.map(({ correlationId }) => correlationId ?? null),
      rows.map(({ amountText }) => amountText ?? null),
      rows.map(({ payload }) => payload ?? null),
      rows.map(({ payloadBytes }) => payloadBytes ?? null),
      rows.map(({ code }) => code),
      rows.map(({ reason }) => reason),
      rows.map(({ gateway }) => (gateway === undefined ? null : toGatewayColumn(gateway))),
      rows.map(({ code, gateway }) => (code === 'rejected' || gateway === undefined ? null : toGatewayColumn(gateway))),
      rows.map(({ attempts }) => attempts),
      rows.map(({ acceptedAt }) => timestamp(acceptedAt)),
      rows.map(({ diedAt }) => (diedAt === undefined ? null : timestamp(diedAt))),
    ]);
  } catch (error) {
    if (error instanceof LedgerUnavailableError) throw error;
    // PostgreSQL rejected the statement. One row at fault must not hold up the others.
    if (rows.length > 1) for (const row of rows) await insertRows(db, [row]);
    else if (first.isBare) throw error;
    else await insertRows(db, [bare(first)]);
  }
}

function toRow(letter: EarlierDeadLetter): Row {
  const { payload, code, amountText, reason } = letter;
  return {
    ...letter,
    amountText: amountText === undefined ? undefined : plain(amountText),
    reason: plain(reason),
    payload:
      code === 'invalid_payment' && payload !== undefined ? beginningOf(payload, MAX_INVALID_PAYLOAD_BYTES) : payload,
    payloadBytes: payload === undefined ? undefined : Buffer.byteLength(payload),
    isBare: false,
  };
}

/** A row that every PostgreSQL accepts: without its payload, and with its texts in ASCII, which every encoding has. */
function bare(row: Row): Row {
  const ascii = (text: string) => text.replaceAll(/[^\x20-\x7e]/g, '?');
  const { amountText, reason } = row;
  return {
    ...row,
    amountText: amountText === undefined ? undefined : ascii(amountText),
    reason: ascii(reason),
    payload: undefined,
    isBare: true,
  };
}

/** Replaces zero bytes, the one character that PostgreSQL's text cannot store. */
function plain(text: string): string {
  return text.slice(0, MAX_TEXT).replaceAll('\0', '\uFFFD');
}

const LAST_TIMESTAMP_MS = Date.parse('9999-12-31T23:59:59.999Z');

/** For the columns. A time that is garbage in the job becomes the epoch, so that it does not keep the row out. */
export function timestamp(date: Date): string {
  const ms = date.getTime();
  return new Date(ms >= 0 && ms <= LAST_TIMESTAMP_MS ? ms : 0).toISOString();
}
