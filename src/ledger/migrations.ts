import { fileURLToPath } from 'node:url';
import knex, { type Knex } from 'knex';
import type { DatabaseConfig } from '../config.ts';
import { knexConfig } from './db.ts';

/**
 * The duration of a migration grows with the ledger, so it has no limit. Its wait for a lock has one, because all statements
 * on that table queue up behind it. After the timeout the migration fails and changes nothing.
 */
const LIMITS = { statementTimeoutMs: 0, lockTimeoutMs: 5_000 };

/** The files of this version's migrations. knex notes their names in the table `knex_migrations`. */
export const MIGRATIONS = fileURLToPath(new URL('../../migrations', import.meta.url));

/** Tables whose rows exist nowhere else. The totals can be calculated from the payments. */
const TABLES = ['payments', 'payments_archive', 'dead_letters', 'reconciliations', 'operator_actions'];

/** The migrations of this database as a configuration of knex. */
export function migrationConfig(database: DatabaseConfig): Knex.Config {
  return {
    ...knexConfig(database, LIMITS),
    migrations: {
      directory: MIGRATIONS,
      extension: 'ts',
      loadExtensions: ['.ts'],
    },
  };
}

/**
 * Brings the schema up to date. Any number of processes may call it at once: they take turns, and the later ones have nothing
 * to do.
 * @returns the batch and the migrations that ran
 */
export function migrateToLatest(database: DatabaseConfig): Promise<{ batch: number; names: string[] }> {
  return alone(database, async (db) => {
    const [batch, names] = await db.migrate.latest();
    return { batch, names };
  });
}

/** The result of a rollback: the migrations it reverted, or the rows for whose sake it reverted none. */
export type Rollback = { readonly batch: number; readonly names: string[] } | { readonly rowsAtStake: RowCounts };

type RowCounts = Readonly<Record<string, number>>;

/** Reverts the last batch of migrations. Does nothing while the ledger has rows, unless `rows` is `drop`. */
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

/** The number of rows of each table that has any. */
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
 * Runs `work` while no other process migrates this database. knex's own lock is not enough: the first migration creates its
 * table, and a process that does not get the lock fails instead of waiting.
 *
 * The lock belongs to a transaction, not to the session: behind a pooler a session's lock would stay with a connection that
 * other clients use next. It ends with this process at the latest.
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
