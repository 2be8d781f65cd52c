import { runTool } from '../src/process/run-tool.ts';
import { startPostgres } from './local/postgres.ts';
import { stopOnSignal } from './local/processes.ts';
import { startRedis } from './local/redis.ts';

/**
 * `make services`: a private Redis and PostgreSQL and nothing else, until Ctrl-C. Prints their URLs as `export` lines, for the
 * shell in which API, worker or a single command are started by hand. It removes their data when it ends.
 */
async function main(): Promise<void> {
  const say = (line: string) => console.error(line);
  const [redis, postgres] = await Promise.all([startRedis({ say }), startPostgres()]);
  stopOnSignal(async () => {
    await Promise.all([redis.dispose(), postgres.dispose()]);
  });
  console.log(`export REDIS_URL=${redis.url}`);
  console.log(`export DATABASE_URL=${postgres.url}`);
  say('Then, for example: npm run db:migrate && npm run dev. Ctrl-C stops both servers and removes their data.');
}

runTool(import.meta, main);
