import pg from 'pg';
import { atTestEnd } from './cleanup.ts';
import { eventually } from './relay.ts';
import { sql } from './services.ts';

/** The process ids of the backends whose COMMIT waits for a standby. */
export async function waitingCommits(url: string): Promise<number[]> {
  const rows = await sql<{ pid: number }>(url, "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'");
  return rows.map(({ pid }) => pid);
}

/** The process id of the first backend whose COMMIT waits for a standby. */
export const waitingCommit = (url: string) => eventually(async () => (await waitingCommits(url))[0]);

/**
 * Makes every COMMIT of this server wait for these standbys; '' for none. Resolves when COMMITs do so: some time after the
 * setting has changed, a process of PostgreSQL notices.
 */
export async function setSynchronousStandbys(url: string, names: string): Promise<void> {
  await sql(url, `ALTER SYSTEM SET synchronous_standby_names = '${names}'`);
  await sql(url, 'SELECT pg_reload_conf()');
  if (names === '') await eventually(async () => (await waitingCommits(url)).length === 0);
  else await eventually(() => waitsForStandby(url));
}

/** Whether a COMMIT waits for a standby. Without one it leaves no waiting backend behind. */
async function waitsForStandby(url: string): Promise<boolean> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  atTestEnd(() => client.end());
  const {
    rows: [row],
  } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
  let isCommitted = false;
  const committed = client.query("SELECT pg_logical_emit_message(true, 'test', '')").then(
    () => {
      isCommitted = true;
    },
    () => undefined,
  );
  const waits = await eventually(async () => {
    if (isCommitted) return 'no';
    return (await waitingCommits(url)).includes(row!.pid) ? 'yes' : undefined;
  });
  await sql(url, 'SELECT pg_terminate_backend($1)', [row!.pid]);
  await committed;
  return waits === 'yes';
}
