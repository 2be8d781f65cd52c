import { loadConfig } from '../src/config.ts';
import { migrateToLatest } from '../src/ledger/migrations.ts';
import { freePort } from './local/ports.ts';
import { startPostgres } from './local/postgres.ts';
import type { ManagedServer } from './local/processes.ts';
import { startRedis } from './local/redis.ts';
import { type ServiceProcess, startService } from './local/service.ts';

/** A simulated gateway as a process of its own. */
export function startGateway(name: string, port: number, fee: number): Promise<ServiceProcess> {
  return startService({
    name,
    script: 'dev/simulated-gateway/main.ts',
    env: { HOST: '127.0.0.1', TRANSACTION_FEE: String(fee) },
    port,
  });
}

/** Brings the schema up to date. @returns the migrations that were run. */
export async function migrate(databaseUrl: string): Promise<string[]> {
  const { names } = await migrateToLatest(loadConfig({ DATABASE_URL: databaseUrl }).database);
  return names;
}

/** What API and workers need. */
export type Server = 'redis' | 'postgres' | 'primary' | 'fallback';

export interface ServicesOptions {
  /** The URL of each. */
  servers: Readonly<Record<Server, string>>;
  /** Puts a proxy, or nothing, between the services and a server. Takes the server's port, returns the port to connect to. */
  through?: (server: Server, port: number) => Promise<number>;
  env?: Readonly<Record<string, string | undefined>>;
  /** Arguments for their Node. */
  nodeArgs?: readonly string[];
  /** Every line that they log. */
  onLine?: (service: string, line: string) => void;
}

export interface StartOptions {
  env?: Readonly<Record<string, string | undefined>>;
  onLine?: (line: string) => void;
}

/** API and workers over existing servers. */
export interface Services {
  /** Those started so far. */
  readonly apis: readonly ServiceProcess[];
  readonly workers: readonly ServiceProcess[];
  startApi(options?: StartOptions & { port?: number }): Promise<ServiceProcess>;
  startWorker(options?: StartOptions): Promise<ServiceProcess>;
  /** Stops the workers, then the API nodes, in reverse order of their start. */
  stop(): Promise<void>;
}

/** Sets up the ways to the servers. It starts no service yet. */
export async function createServices(options: ServicesOptions): Promise<Services> {
  const { servers, through = async (_, port) => port, env = {}, nodeArgs = [], onLine } = options;
  const apis: ServiceProcess[] = [];
  const workers: ServiceProcess[] = [];
  let apiCount = 0;
  let workerCount = 0;

  async function route(server: Server): Promise<string> {
    const routed = new URL(servers[server]);
    routed.port = String(await through(server, Number(routed.port)));
    return routed.href;
  }
  const serviceEnv = {
    LOG_LEVEL: 'info',
    HOST: '127.0.0.1',
    REDIS_URL: await route('redis'),
    DATABASE_URL: await route('postgres'),
    GATEWAY_PRIMARY_URL: await route('primary'),
    GATEWAY_FALLBACK_URL: await route('fallback'),
    ...env,
  };

  function start(role: 'api' | 'worker', name: string, own: StartOptions, port?: number): Promise<ServiceProcess> {
    return startService({
      name,
      script: 'src/main.ts',
      env: { ...serviceEnv, APP_ROLE: role, ...own.env },
      ...(port !== undefined && { port }),
      onLine(line) {
        own.onLine?.(line);
        onLine?.(name, line);
      },
      nodeArgs,
    });
  }

  return {
    apis,
    workers,
    async startApi({ port, ...own } = {}) {
      apiCount += 1;
      const api = await start('api', `app${apiCount}`, own, port ?? (await freePort()));
      apis.push(api);
      return api;
    },
    async startWorker(own = {}) {
      workerCount += 1;
      const worker = await start('worker', `worker${workerCount}`, own);
      workers.push(worker);
      return worker;
    },
    async stop() {
      for (const service of [...apis, ...workers].toReversed()) await service.stop();
    },
  };
}

export interface StackOptions {
  /** One API node starts for each port. */
  apiPorts: readonly number[];
  workers: number;
  gatewayPorts?: readonly [number, number];
  /** For API and workers. */
  env?: Readonly<Record<string, string>>;
  redisArgs?: readonly string[];
  through?: ServicesOptions['through'];
  /** Arguments for the Node of API and workers. */
  nodeArgs?: readonly string[];
  /** A server that exists already. Without it a private one starts. */
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
  /** Undefined when the options name a server. */
  readonly redis: ManagedServer | undefined;
  readonly postgres: ManagedServer | undefined;
  readonly primary: ServiceProcess;
  readonly fallback: ServiceProcess;
  readonly apis: readonly ServiceProcess[];
  readonly workers: readonly ServiceProcess[];
  /** Stops everything in reverse order. May be called again. */
  stop(): Promise<void>;
}

/** Starts everything in order of need. When one part fails, it stops the others and throws the part's error. */
export async function startStack(options: StackOptions): Promise<Stack> {
  const { apiPorts, workers, env = {}, say = () => {}, onLine, nodeArgs = [] } = options;
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

    const services = await createServices({
      servers: { redis: redisUrl, postgres: databaseUrl, primary: primary.url!, fallback: fallback.url! },
      ...(options.through && { through: options.through }),
      env: {
        NODE_ENV: 'production',
        // The simulated gateway responds so when it fails on purpose, before it charges.
        GATEWAY_EMPTY_500: 'refused',
        // Our own Redis writes to disk. About a Redis that the options name we know nothing.
        ...(redis !== undefined && { DURABILITY: 'disk' }),
        ...env,
      },
      nodeArgs,
      ...(onLine && { onLine }),
    });
    stops.push(services.stop);
    for (const port of apiPorts) await services.startApi({ port });
    for (let index = 1; index <= workers; index += 1) await services.startWorker();
    const { apis, workers: workerProcesses } = services;
    say(`API          ${apis.map(({ url }) => url).join(', ')}; workers: ${workers}`);
    return { redisUrl, databaseUrl, redis, postgres, primary, fallback, apis, workers: workerProcesses, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}
