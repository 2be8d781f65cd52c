import pg from 'pg';
import { atTestEnd } from './cleanup.ts';
import { eventually } from './relay.ts';
import { sql } from './services.ts';

/** How long a statement may take to come, on a busy machine. */
const PATIENCE_MS = 30_000;

/**
 * Blocks every statement on the ledger's table until `release`, so that a worker stops at a known point.
 * `blocked` resolves when a statement that begins so is blocked.
 */
export async function holdLedger(databaseUrl: string) {
  const client = new pg.Client({ connectionString: databaseUrl });
  client.on('error', () => {});
  await client.connect();
  await client.query('BEGIN');
  await client.query('LOCK TABLE payments IN ACCESS EXCLUSIVE MODE');
  const blocked = `FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE $1`;
  let released: Promise<void> | undefined;
  const release = () => {
    released ??= client.end();
    return released;
  };
  atTestEnd(release);
  return {
    blocked: (statement: 'SELECT' | 'INSERT') =>
      eventually(
        async () => (await sql(databaseUrl, `SELECT pid ${blocked}`, [`${statement}%`])).length > 0,
        PATIENCE_MS,
      ),
    /** Ends the connections whose statement is blocked, so that it never runs. */
    drop: (statement: 'SELECT' | 'INSERT') =>
      sql(databaseUrl, `SELECT pg_terminate_backend(pid) ${blocked}`, [`${statement}%`]),
    release,
  };
}
