import { readdir } from 'node:fs/promises';
import type { Knex } from 'knex';
import { LedgerUnavailableError } from '../errors.ts';
import { type QueryOptions, query, sqlStateOf } from './db.ts';
import { MIGRATIONS } from './migrations.ts';

const NO_RIGHT = '42501';
const NO_TABLE = '42P01';

/**
 * Resolves when PostgreSQL responds and every migration of this version has run. A later version may have run more.
 * @throws LedgerUnavailableError as {@link query} does, and when migrations are missing
 */
export async function expectSchema(db: Knex, options: QueryOptions): Promise<void> {
  const done = await migrationsDone(db, options);
  if (done === undefined) return;
  const missing = (await readdir(MIGRATIONS)).filter((name) => name.endsWith('.ts') && !done.has(name));
  if (missing.length === 0) return;
  const what = done.size === 0 ? 'PostgreSQL has no schema' : `PostgreSQL lacks the migration ${missing.join(', ')}`;
  throw new LedgerUnavailableError(`${what}: run \`npm run db:migrate\``);
}

/** Undefined when the user may not read which migrations have run. */
async function migrationsDone(db: Knex, options: QueryOptions): Promise<ReadonlySet<string> | undefined> {
  try {
    const rows = await query<{ name: string }>(db, 'SELECT name FROM knex_migrations', [], options);
    return new Set(rows.map(({ name }) => name));
  } catch (error) {
    const code = sqlStateOf(error);
    if (code === NO_TABLE) return new Set();
    if (code !== NO_RIGHT) throw error;
    // Without the right to connect this fails for the same reason.
    await query(db, 'SELECT 1', [], options);
    return undefined;
  }
}
