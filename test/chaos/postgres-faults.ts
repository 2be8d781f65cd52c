import { spawnSync } from 'node:child_process';
import pg from 'pg';
import { sql } from '../support/services.ts';
import { type Fault, lasting, networkFault, type Stage } from './faults.ts';

/** PostgreSQL is restarted, killed or locked, hangs, or loses its connections. */
export function postgresFaults(stage: Stage): Fault[] {
  const { databaseUrl } = stage.stack;
  const postgres = stage.stack.postgres!;
  const onPostgres = (name: string, run: () => Promise<void>): Fault => ({
    name: `postgres ${name}`,
    on: 'postgres',
    run,
  });

  return [
    onPostgres('is restarted (18)', async () => {
      await postgres.stop();
      await lasting(stage, 0, 3);
      await postgres.start();
    }),
    onPostgres('is killed (18)', async () => {
      await postgres.kill();
      await lasting(stage, 0, 2);
      await postgres.start();
    }),
    onPostgres('hangs (18)', async () => {
      const pids = stopAll(postgres.pid);
      const goOn = () => continueAll(pids);
      // Its backends are not our children. Stopped, they would outlive this process.
      process.once('exit', goOn);
      await lasting(stage, 0.5, 4);
      goOn();
      process.off('exit', goOn);
    }),
    onPostgres('has its table locked (18)', async () => {
      const client = new pg.Client({ connectionString: databaseUrl });
      await client.connect();
      try {
        await client.query('BEGIN');
        await client.query('LOCK TABLE payments IN ACCESS EXCLUSIVE MODE');
        await lasting(stage, 1, 6);
      } finally {
        await client.end();
      }
    }),
    onPostgres('has its backends terminated (19)', async () => {
      await sql(
        databaseUrl,
        'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname IS NOT NULL',
      );
    }),
    networkFault(stage, 'postgres', 'loses its replies (19)', { kind: 'cut_replies' }, [0.2, 1]),
    networkFault(stage, 'postgres', 'is a black hole (18)', { kind: 'black_hole' }, [0.5, 4]),
  ];
}

/** SIGSTOPs PostgreSQL and all its backends, each of which has a session of its own. @returns their pids */
function stopAll(postmaster: number): number[] {
  // The postmaster first, so that no new backend starts.
  process.kill(postmaster, 'SIGSTOP');
  const { stdout } = spawnSync('pgrep', ['-P', String(postmaster)], { encoding: 'utf8' });
  const pids = [postmaster, ...stdout.split('\n').filter(Boolean).map(Number)];
  for (const pid of pids) signalIfThere(pid, 'SIGSTOP');
  return pids;
}

function continueAll(pids: readonly number[]): void {
  for (const pid of pids.toReversed()) signalIfThere(pid, 'SIGCONT');
}

function signalIfThere(pid: number, signal: NodeJS.Signals): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}
