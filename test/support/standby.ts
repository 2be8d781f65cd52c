import { spawnSync } from 'node:child_process';
import { chownSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import pg from 'pg';
import { startPostgres } from '../../dev/local/postgres.ts';
import type { ManagedServer } from '../../dev/local/processes.ts';
import { sql } from './services.ts';

/**
 * A hot standby that streams from `primary`, at `port` when something stands between them. It is made by PostgreSQL's
 * low-level backup, because the binaries of the tests bring no pg_basebackup. `primary` must keep its log meanwhile
 * (`wal_keep_size`).
 */
export function startStandby(
  primary: ManagedServer,
  { name, port = primary.port }: { name: string; port?: number },
): Promise<ManagedServer> {
  return startPostgres({
    settings: {
      fsync: 'off',
      primary_conninfo: `host=127.0.0.1 port=${port} user=postgres application_name=${name}`,
      // The copied data may have those of the primary. Once promoted, it has no standby.
      synchronous_standby_names: '',
    },
    fill: (dataDir) => copyOf(primary, dataDir),
  });
}

async function copyOf(primary: ManagedServer, dataDir: string): Promise<void> {
  const client = new pg.Client({ connectionString: primary.url });
  await client.connect();
  try {
    // The backup belongs to this session.
    await client.query("SELECT pg_backup_start('standby', true)");
    const { rows } = await client.query<{ data_directory: string }>('SHOW data_directory');
    // Files may disappear while they are copied. What the copy lacks is in the log.
    spawnSync('cp', ['-a', `${rows[0]!.data_directory}/.`, dataDir]);
    for (const own of ['postmaster.pid', 'postmaster.opts']) rmSync(join(dataDir, own), { force: true });
    const stopped = await client.query<{ labelfile: string }>('SELECT labelfile FROM pg_backup_stop(false)');
    const { uid, gid } = statSync(dataDir);
    for (const [file, text] of [
      ['backup_label', stopped.rows[0]!.labelfile],
      ['standby.signal', ''],
    ] as const) {
      writeFileSync(join(dataDir, file), text);
      chownSync(join(dataDir, file), uid, gid);
    }
  } finally {
    await client.end();
  }
}

/** Resolves when the standby is a primary. */
export async function promote(standby: ManagedServer): Promise<void> {
  const [row] = await sql<{ promoted: boolean }>(standby.url, 'SELECT pg_promote() AS promoted');
  if (!row!.promoted) throw new Error('the standby was not promoted');
}
