import { spawnSync } from 'node:child_process';
import { accessSync, constants, existsSync, mkdirSync } from 'node:fs';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort } from './ports.ts';
import { type ManagedServer, managedServer, temporaryDirectory } from './processes.ts';

/** The project's configuration of Redis. */
export const REDIS_CONFIGURATION = fileURLToPath(new URL('../../docker/redis.conf', import.meta.url));

/** The Redis-compatible servers we know. The first on the PATH is used. */
const REDIS_COMMANDS = ['redis-server', 'valkey-server'];

/**
 * The path of a Redis server: the one that REDIS_SERVER names, or the first on the PATH. Where there is none, the system's package
 * manager installs one.
 * @throws an Error when that fails, or when REDIS_SERVER names no program
 */
export function ensureRedis(say: (line: string) => void): string {
  const given = process.env['REDIS_SERVER'] || undefined;
  if (given !== undefined && !isExecutable(given)) {
    throw new Error(`REDIS_SERVER must be the path of a Redis server (got "${given}")`);
  }
  const found = given ?? findRedis();
  if (found) return found;
  const [installer, packages] = existsSync('/usr/bin/apt-get')
    ? ['apt-get', ['install', '-y', '--no-install-recommends', 'redis-server']]
    : ['brew', ['install', 'redis']];
  const isRoot = userInfo().uid === 0;
  const needsSudo = installer === 'apt-get' && !isRoot;
  const run = (args: readonly string[]) => {
    const command = needsSudo ? ['sudo', installer, ...args] : [installer, ...args];
    say(`no Redis found; running: ${command.join(' ')}`);
    const { status, error } = spawnSync(command[0]!, command.slice(1), {
      stdio: ['ignore', 'ignore', 'inherit'],
      env: {
        ...process.env,
        DEBIAN_FRONTEND: 'noninteractive',
        // Otherwise the package starts a server of its own on Redis' usual port.
        RUNLEVEL: '1',
      },
    });
    return status === 0 && !error;
  };
  const installed =
    installer === 'apt-get' ? run(['update', '-qq']) && run(packages as string[]) : run(packages as string[]);
  const path = installed ? findRedis() : undefined;
  if (!path) {
    throw new Error(
      'Redis is needed and could not be installed: install redis-server (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis), or name one with REDIS_URL.',
    );
  }
  return path;
}

function findRedis(): string | undefined {
  const dirs = [...(process.env['PATH'] ?? '').split(':'), '/usr/bin', '/usr/local/bin', '/opt/homebrew/bin'];
  return REDIS_COMMANDS.flatMap((command) => dirs.map((dir) => join(dir, command))).find(isExecutable);
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/**
 * Starts a private Redis with the project's configuration (docker/redis.conf). `args` come last, so they win. `keepIn` is the
 * directory of data that stay; without it they are removed with the server. `command` is the path of another server.
 */
export async function startRedis({
  command,
  args = [],
  keepIn,
  say = () => {},
}: {
  command?: string | undefined;
  args?: readonly string[];
  keepIn?: string | undefined;
  say?: (line: string) => void;
} = {}): Promise<ManagedServer> {
  const path = command ?? ensureRedis(say);
  const port = await freePort();
  const dir = keepIn ?? temporaryDirectory('redis');
  mkdirSync(dir, { recursive: true });
  const server = managedServer({
    url: `redis://127.0.0.1:${port}`,
    port,
    dir,
    isKept: keepIn !== undefined,
    stopSignal: 'SIGTERM',
    process: () => ({
      command: path,
      args: [
        REDIS_CONFIGURATION,
        ...['--port', String(port), '--bind', '127.0.0.1', '--dir', dir, '--daemonize', 'no', '--logfile', ''],
        ...args,
      ],
      readyWhen: /Ready to accept connections/,
    }),
  });
  await server.start();
  return server;
}
