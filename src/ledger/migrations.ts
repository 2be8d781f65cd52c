import { fileURLToPath } from 'node:url';
import knex, { type Knex } from 'knex';
import type { DatabaseConfig } from '../config.ts';
import { knexConfig } from './db.ts';

/**
 * A migration may take as long as the ledger is large. It must not wait long for a lock: all statements on that table would queue up
 * behind it, so it fails instead and changes nothing.
 */
const LIMITS = { statementTimeoutMs: 0, lockTimeoutMs: 5_000 };

/** Tables whose rows exist nowhere else. The totals are made of the payments. */
const TABLES = ['payments', 'dead_letters'];

/** How to run migrations over this database, for knex. */
export function migrationConfig(database: DatabaseConfig): Knex.Config {
  return {
    ...knexConfig(database, LIMITS),
    migrations: {
      directory: fileURLToPath(new URL('../../migrations', import.meta.url)),
      extension: 'ts',
      loadExtensions: ['.ts'],
    },
  };
}

/**
 * Brings the schema up to date. Any number of processes may do so at once: they take turns, and the later ones find nothing to do.
 * @returns the batch and the migrations that ran.
 */
export function migrateToLatest(database: DatabaseConfig): Promise<{ batch: number; names: string[] }> {
  return alone(database, async (db) => {
    const [batch, names] = await db.migrate.latest();
    return { batch, names };
  });
}

/** What a rollback did, or the rows it would have dropped. */
export type Rollback = { readonly batch: number; readonly names: string[] } | { readonly rowsAtStake: RowCounts };

type RowCounts = Readonly<Record<string, number>>;

/** Takes back the last batch of migrations. Does nothing while the ledger has rows, unless they may be dropped. */
export function rollBack(database: DatabaseConfig, rows: 'keep' | 'drop'): Promise<Rollback> {
  return alone(database, async (db) => {
    if (rows === 'keep') {
      const rowsAtStake = await countRows(db);
      if (Object.keys(rowsAtStake).length > 0) return { rowsAtStake };
    }
    const [batch, names] = await db.migrate.rollback();
    return { batch, names };
  });
}

/** The tables that have rows, with their number. */
async function countRows(db: Knex): Promise<RowCounts> {
  const counts: Record<string, number> = {};
  for (const table of TABLES) {
    const [{ exists }] = (await db.raw('SELECT to_regclass(?) IS NOT NULL AS exists', [table])).rows;
    if (!exists) continue;
    const [{ count }] = (await db.raw('SELECT count(*) FROM ??', [table])).rows;
    if (Number(count) > 0) counts[table] = Number(count);
  }
  return counts;
}

/**
 * Runs `work` while no other process migrates this database. knex's own lock cannot do this: its table is made by the first migration,
 * and whoever does not get the lock fails.
 *
 * The lock lives in a transaction of its own, not in the session: behind a pooler a session's lock would stay with a connection that
 * others get. It ends with the process that holds it.
 */
async function alone<T>(database: DatabaseConfig, work: (db: Knex) => Promise<T>): Promise<T> {
  const db = knex(migrationConfig(database));
  try {
    return await db.transaction(async (lock) => {
      await lock.raw('SET LOCAL lock_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0');
      await lock.raw(`SELECT pg_advisory_xact_lock(hashtextextended('payrelay migrations', 0))`);
      return work(db);
    });
  } finally {
    await db.destroy();
  }
}
