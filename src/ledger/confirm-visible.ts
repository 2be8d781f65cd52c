import type { Knex } from 'knex';
import { query } from './db.ts';

/** The key of an advisory lock in two parts. The first is the word `paid` in ASCII. */
const LOCK_KEY = [0x70616964, 1];

/**
 * Writes something and waits for its COMMIT. `pg_logical_emit_message` writes to the log of PostgreSQL and to no table.
 *
 * Without a standby each call leaves a backend that waits, and does not notice when we drop the connection. Because of the
 * lock there is only one: the calls after it fail at the lock timeout.
 */
const CONFIRM_SQL = `SELECT pg_advisory_xact_lock(${LOCK_KEY}), pg_logical_emit_message(true, 'payrelay', '')`;

/**
 * Resolves once all rows that were visible before the call are on the synchronous standby, if the server has one.
 *
 * Others see a row when its COMMIT has returned. That is usually after the standby has it. It is not when the wait was
 * cancelled, its connection ended by an operator, or PostgreSQL restarted meanwhile: then the row is on one machine. A
 * statement that only finds the row writes nothing, so PostgreSQL does not wait either.
 * @throws LedgerUnavailableError, PoolBusyError as {@link query} does
 */
export async function confirmVisible(db: Knex): Promise<void> {
  await query(db, CONFIRM_SQL);
}
