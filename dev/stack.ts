import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { loadConfig } from '../src/config.ts';
import { migrateToLatest } from '../src/ledger/migrations.ts';
import { freePort } from './local/ports.ts';
import { startPostgres } from './local/postgres.ts';
import { type ManagedServer, type StartedProcess, startProcess } from './local/processes.ts';
import { startRedis } from './local/redis.ts';

const projectDir = fileURLToPath(new URL('..', import.meta.url));

/** One of the project's own programs, running as a child process. */
export interface ServiceProcess {
  readonly name: string;
  /** Where it listens, for those that do. */
  readonly url: string | undefined;
  readonly pid: number;
  readonly exited: Promise<number | null>;
  /** Starts it again after its end; `env` is added to its environment for this start. */
  start(env?: Readonly<Record<string, string>>): Promise<void>;
  /** Sends SIGTERM and resolves with the exit code. */
  stop(): Promise<number | null>;
  kill(): Promise<void>;
  signal(signal: NodeJS.Signals): void;
}

export interface ServiceOptions {
  name: string;
  script: string;
  env: Readonly<Record<string, string>>;
  port?: number;
  readyWhen: RegExp;
  onLine?: ((line: string) => void) | undefined;
  nodeArgs?: readonly string[];
}

/** Starts a program of ours under the very Node that runs this one, with nothing in its environment but what it needs. */
export async function startService(options: ServiceOptions): Promise<ServiceProcess> {
  const { name, script, env, port, readyWhen, onLine, nodeArgs = [] } = options;
  let current: StartedProcess;

  async function start(extraEnv: Readonly<Record<string, string>> = {}): Promise<void> {
    current = await startProcess({
      command: process.execPath,
      args: [...nodeArgs, join(projectDir, script)],
      cwd: projectDir,
      env: { PATH: process.env['PATH'], ...env, ...(port !== undefined && { PORT: String(port) }), ...extraEnv },
      readyWhen,
      onLine,
    });
  }
  async function end(signal: NodeJS.Signals): Promise<number | null> {
    current.child.kill(signal);
    current.child.kill('SIGCONT');
    return current.exited;
  }

  await start();
  return {
    name,
    url: port === undefined ? undefined : `http://127.0.0.1:${port}`,
    get pid() {
      return current.child.pid!;
    },
    get exited() {
      return current.exited;
    },
    start,
    stop: () => end('SIGTERM'),
    async kill() {
      await end('SIGKILL');
    },
    signal(signal) {
      current.child.kill(signal);
    },
  };
}

/** A simulated gateway as a process of its own. */
export function startGateway(name: string, port: number, fee: number): Promise<ServiceProcess> {
  return startService({
    name,
    script: 'dev/simulated-gateway/main.ts',
    env: { HOST: '127.0.0.1', TRANSACTION_FEE: String(fee) },
    port,
    readyWhen: /listening|http:\/\//i,
  });
}

/** Brings the schema up to date. @returns the migrations that were run. */
export async function migrate(databaseUrl: string): Promise<string[]> {
  const { names } = await migrateToLatest(loadConfig({ DATABASE_URL: databaseUrl }).database);
  return names;
}

export interface StackOptions {
  /** Ports of the API nodes; their number is the number of nodes. */
  apiPorts: readonly number[];
  workers: number;
  gatewayPorts?: readonly [number, number];
  /** For API and workers. */
  env?: Readonly<Record<string, string>>;
  redisArgs?: readonly string[];
  /** Puts something, a faulty network for one, between the services and a server: gets its port and gives the one to use. */
  through?: (server: 'redis' | 'postgres' | 'primary' | 'fallback', port: number) => Promise<number>;
  /** Arguments for the Node of API and workers. */
  nodeArgs?: readonly string[];
  /** Services that are there already; nothing is started for them. */
  redisUrl?: string | undefined;
  databaseUrl?: string | undefined;
  say?: (line: string) => void;
  /** Every line that API and workers log. */
  onLine?: (service: string, line: string) => void;
}

/** All of Payrelay as processes on this machine. */
export interface Stack {
  readonly redisUrl: string;
  readonly databaseUrl: string;
  /** Undefined where the service was named and not started. */
  readonly redis: ManagedServer | undefined;
  readonly postgres: ManagedServer | undefined;
  readonly primary: ServiceProcess;
  readonly fallback: ServiceProcess;
  readonly apis: readonly ServiceProcess[];
  readonly workers: readonly ServiceProcess[];
  /** Stops everything in reverse order. May be called again, and while the stack is still starting. */
  stop(): Promise<void>;
}

/** Starts everything, in order of need. When one part fails, those already started are stopped. */
export async function startStack(options: StackOptions): Promise<Stack> {
  const {
    apiPorts,
    workers,
    env = {},
    say = () => {},
    onLine,
    nodeArgs = [],
    through = async (_, port) => port,
  } = options;
  const stops: (() => Promise<unknown>)[] = [];
  let stopping: Promise<void> | undefined;
  const stop = () => {
    stopping ??= (async () => {
      for (const end of stops.toReversed()) await end();
    })();
    return stopping;
  };

  try {
    let redis: ManagedServer | undefined;
    if (options.redisUrl === undefined) {
      redis = await startRedis({ say, args: options.redisArgs ?? [] });
      stops.push(redis.dispose);
    }
    const redisUrl = options.redisUrl ?? redis!.url;
    say(`Redis        ${redisUrl}`);

    let postgres: ManagedServer | undefined;
    if (options.databaseUrl === undefined) {
      postgres = await startPostgres();
      stops.push(postgres.dispose);
    }
    const databaseUrl = options.databaseUrl ?? postgres!.url;
    say(`PostgreSQL   ${databaseUrl.replace(/:[^:@/]*@/, ':…@')}`);
    const migrations = await migrate(databaseUrl);
    say(`migrations   ${migrations.length === 0 ? 'up to date' : migrations.length}`);

    const [primaryPort, fallbackPort] = options.gatewayPorts ?? [await freePort(), await freePort()];
    const primary = await startGateway('primary', primaryPort, 0.05);
    stops.push(primary.stop);
    const fallback = await startGateway('fallback', fallbackPort, 0.15);
    stops.push(fallback.stop);
    say(`gateways     primary ${primary.url}, fallback ${fallback.url} (simulated)`);

    const route = async (server: Parameters<typeof through>[0], url: string) => {
      const routed = new URL(url);
      routed.port = String(await through(server, Number(routed.port)));
      return routed.href;
    };
    const serviceEnv = {
      NODE_ENV: 'production',
      // The simulated gateway fails on purpose so, before it charges.
      GATEWAY_EMPTY_500: 'refused',
      LOG_LEVEL: 'info',
      HOST: '127.0.0.1',
      REDIS_URL: await route('redis', redisUrl),
      // Of a Redis that was named we know nothing; our own is set up for it.
      ...(redis !== undefined && { DURABILITY: 'disk' }),
      DATABASE_URL: await route('postgres', databaseUrl),
      GATEWAY_PRIMARY_URL: await route('primary', primary.url!),
      GATEWAY_FALLBACK_URL: await route('fallback', fallback.url!),
      ...env,
    };
    const started = (name: string, role: 'api' | 'worker', port?: number) =>
      startService({
        name,
        script: 'src/main.ts',
        env: { ...serviceEnv, APP_ROLE: role },
        ...(port !== undefined && { port }),
        readyWhen: role === 'api' ? /"message":"listening"/ : /"message":"working"/,
        onLine: onLine && ((line) => onLine(name, line)),
        nodeArgs,
      });
    const apis: ServiceProcess[] = [];
    for (const [index, port] of apiPorts.entries()) {
      const api = await started(`app${index + 1}`, 'api', port);
      stops.push(api.stop);
      apis.push(api);
    }
    const workerProcesses: ServiceProcess[] = [];
    for (let index = 1; index <= workers; index += 1) {
      const worker = await started(`worker${index}`, 'worker');
      stops.push(worker.stop);
      workerProcesses.push(worker);
    }
    say(`API          ${apis.map(({ url }) => url).join(', ')}; workers: ${workers}`);
    return { redisUrl, databaseUrl, redis, postgres, primary, fallback, apis, workers: workerProcesses, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
