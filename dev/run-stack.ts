import { isIPv6 } from 'node:net';
import { join, resolve } from 'node:path';
import { RUN_DIRECTORY, type RunState } from '../src/commands/run-state.ts';
import { type Config, loadConfig } from '../src/config.ts';
import { createDb } from '../src/ledger/db.ts';
import { createLedger } from '../src/ledger/ledger.ts';
import { migrateToLatest } from '../src/ledger/migrations.ts';
import { createQueueAdmin } from '../src/queue/queue-admin.ts';
import { paymentQueues } from '../src/queue/shards.ts';
import { createBreaker } from './breakage.ts';
import { keepRunning } from './keep-running.ts';
import { startPostgres } from './local/postgres.ts';
import { type ManagedServer, temporaryDirectory } from './local/processes.ts';
import { startRedis } from './local/redis.ts';
import { type ServiceProcess, startService } from './local/service.ts';
import { listenForCommands } from './run-control.ts';
import type { RunSettings } from './run-settings.ts';
import { startGateway } from './stack.ts';
import type { Status } from './status-line.ts';
import { createTcpProxy, type TcpProxy } from './tcp-proxy.ts';

export interface RunStackOptions {
  readonly settings: RunSettings;
  readonly say: (line: string) => void;
  /** Every line that API and worker log. */
  readonly onLine: (service: string, line: string) => void;
  /** The worker started again: `state` has its new pid. */
  readonly onRestart: () => void;
  /** A part ended for good. */
  readonly onEnd: () => void;
}

export interface RunningStack {
  state(): RunState;
  readonly apiUrl: string;
  /** Where the worker serves its metrics. */
  readonly workerUrl: string;
  /** Who may see the dashboard, for people. */
  readonly dashboard: string;
  /** What was accepted and paid. @throws an Error while Redis or PostgreSQL does not respond */
  readonly status: () => Promise<Status>;
  /** Stops everything in reverse order of the start. */
  stop(): Promise<void>;
}

/** Starts what `make run` consists of, in order of need. When one part fails, it stops the others and throws the part's error. */
export async function startRunStack(options: RunStackOptions): Promise<RunningStack> {
  const { settings, say, onRestart, onEnd } = options;
  await using starting = new AsyncDisposableStack();
  const servers = await startServers(settings, starting, say);
  const env = environment(settings, servers);
  const config = loadConfig(env);
  const { names: migrations } = await migrateToLatest(config.database);
  say(`migrations   ${migrations.length === 0 ? 'up to date' : migrations.length}`);

  const gateways = await startGateways(settings, starting);
  const { primary, fallback } = config.gateways;
  const kind = settings.starts.gateways ? ' (simulated)' : '';
  say(`gateways     primary ${shown(primary.url)}, fallback ${shown(fallback.url)}${kind}`);

  const { api, worker } = await startServices(config, throughProxies(env, servers), options, starting);
  const keptWorker = keepRunning({ service: worker, say, onStart: onRestart, onEnd });
  starting.defer(() => keptWorker.pause());
  const proxies = { redis: servers.redis?.proxy, postgres: servers.postgres?.proxy };
  const breaker = createBreaker({ gatewayUrls: gatewayUrls(settings), proxies, worker, keptWorker });
  starting.defer(breaker.close);
  const control = join(temporaryDirectory('run'), 'control');
  starting.defer((await listenForCommands(control, breaker)).close);
  const books = openBooks(config);
  starting.defer(books.close);
  const apiUrl = `http://${callableHost(config.host)}:${config.port}`;
  const workerUrl = `http://${callableHost(config.host)}:${settings.workerPort}`;
  say(`API          ${apiUrl}; workers: 1`);

  const running = starting.move();
  let isStopping = false;
  for (const { name, exited } of [api, ...gateways]) {
    void exited.then((code) => {
      if (isStopping) return;
      say(`${name} ended with code ${code}`);
      onEnd();
    });
  }
  return {
    state: () => ({
      pids: {
        run: process.pid,
        ...(servers.redis && { redis: servers.redis.server.pid }),
        ...(servers.postgres && { postgres: servers.postgres.server.pid }),
        ...Object.fromEntries([...gateways, api, worker].map(({ name, pid }) => [name, pid])),
      },
      apiUrl,
      control,
      ...withoutSecrets(env),
    }),
    apiUrl,
    workerUrl,
    dashboard: settings.services['DASHBOARD_USER'] === undefined ? 'user admin, password admin' : 'login as set',
    status: books.read,
    stop() {
      isStopping = true;
      return running.disposeAsync();
    },
  };
}

/** A server of our own, and the proxy between it and the services, which `npm run break` breaks. */
interface ProxiedServer {
  readonly server: ManagedServer;
  readonly proxy: TcpProxy;
}

/** Undefined: the settings name one. */
type Servers = Readonly<Record<'redis' | 'postgres', ProxiedServer | undefined>>;

async function startServers(
  { starts, keepsData }: RunSettings,
  starting: AsyncDisposableStack,
  say: RunStackOptions['say'],
): Promise<Servers> {
  const keepIn = (name: string) => (keepsData ? resolve(RUN_DIRECTORY, 'data', name) : undefined);
  const proxied = async (server: ManagedServer): Promise<ProxiedServer> => {
    starting.defer(server.dispose);
    const proxy = await createTcpProxy(server.port);
    starting.defer(proxy.close);
    return { server, proxy };
  };
  const redis = starts.redis ? await proxied(await startRedis({ say, keepIn: keepIn('redis') })) : undefined;
  say(`Redis        ${redis?.server.url ?? 'as set'}`);
  const postgres = starts.postgres ? await proxied(await startPostgres({ keepIn: keepIn('postgres') })) : undefined;
  say(`PostgreSQL   ${postgres?.server.url ?? 'as set'}`);
  if (keepsData) say(`data         kept in ${join(RUN_DIRECTORY, 'data')}`);
  return { redis, postgres };
}

/** The settings of API and worker with the defaults of `make run`, over the servers themselves. */
function environment(settings: RunSettings, { redis, postgres }: Servers): Record<string, string> {
  const { services: given } = settings;
  const simulated = gatewayUrls(settings);
  return {
    HOST: '127.0.0.1',
    NODE_ENV: 'production',
    LOG_LEVEL: 'info',
    ALLOW_PURGE: 'true',
    WORKER_PORT: String(settings.workerPort),
    ...(given['DASHBOARD_USER'] === undefined && { DASHBOARD_USER: 'admin', DASHBOARD_PASSWORD: 'admin' }),
    // Our own Redis writes to disk. About a Redis that the settings name we know nothing.
    ...(redis && { REDIS_URL: redis.server.url, DURABILITY: 'disk' }),
    ...(postgres && { DATABASE_URL: postgres.server.url }),
    ...(simulated && {
      GATEWAY_PRIMARY_URL: simulated.primary,
      GATEWAY_FALLBACK_URL: simulated.fallback,
      // The simulated gateway responds so when it fails on purpose, before it charges.
      GATEWAY_EMPTY_500: 'refused',
    }),
    ...given,
  };
}

function throughProxies(env: Readonly<Record<string, string>>, { redis, postgres }: Servers): Record<string, string> {
  return {
    ...env,
    ...(redis && { REDIS_URL: withPort(redis.server.url, redis.proxy.port) }),
    ...(postgres && { DATABASE_URL: withPort(postgres.server.url, postgres.proxy.port) }),
  };
}

/** Of the simulated gateways; undefined when the settings name others. */
function gatewayUrls({ starts, gatewayPorts: { primary, fallback } }: RunSettings) {
  if (!starts.gateways) return undefined;
  return { primary: `http://127.0.0.1:${primary}`, fallback: `http://127.0.0.1:${fallback}` };
}

async function startGateways(
  { starts, gatewayPorts }: RunSettings,
  starting: AsyncDisposableStack,
): Promise<ServiceProcess[]> {
  if (!starts.gateways) return [];
  const primary = await startGateway('primary', gatewayPorts.primary, 0.05);
  starting.defer(async () => void (await primary.stop()));
  const fallback = await startGateway('fallback', gatewayPorts.fallback, 0.15);
  starting.defer(async () => void (await fallback.stop()));
  return [primary, fallback];
}

async function startServices(
  { port }: Config,
  env: Readonly<Record<string, string>>,
  { onLine }: RunStackOptions,
  starting: AsyncDisposableStack,
): Promise<{ api: ServiceProcess; worker: ServiceProcess }> {
  const start = async (name: 'api' | 'worker', own: { port?: number }) => {
    const service = await startService({
      name,
      script: 'src/main.ts',
      env: { ...env, APP_ROLE: name },
      onLine: (line) => onLine(name, line),
      ...own,
    });
    starting.defer(async () => void (await service.stop()));
    return service;
  };
  return { api: await start('api', { port }), worker: await start('worker', {}) };
}

/** Reads queue and ledger past the proxies, so that the figures stay true while `npm run break` has broken one. */
function openBooks(config: Config): { read(): Promise<Status>; close(): Promise<void> } {
  const db = createDb(config.database);
  const ledger = createLedger(db);
  const queueAdmin = createQueueAdmin(config.redis, paymentQueues(config.queue));
  return {
    async read() {
      const types = ['active', 'failed', 'waiting', 'delayed', 'prioritized'] as const;
      const counts = await Promise.all((await queueAdmin.queues()).map((queue) => queue.getJobCounts(...types)));
      const sumOf = (type: (typeof types)[number]) => counts.reduce((sum, count) => sum + (count[type] ?? 0), 0);
      const { primary, fallback } = await ledger.summarise({});
      const queued = sumOf('waiting') + sumOf('delayed') + sumOf('prioritized');
      return { queued, inFlight: sumOf('active'), dead: sumOf('failed'), primary, fallback };
    },
    async close() {
      await queueAdmin.close();
      await db.destroy();
    },
  };
}

/** A password, or a URL that carries one. No command needs the dashboard's login or a token of the API. */
function withoutSecrets(env: Readonly<Record<string, string>>): Pick<RunState, 'settings' | 'withheld'> {
  const isSecret = ([name, value]: readonly [string, string]) =>
    /_PASSWORD$/.test(name) || (/_URL$/.test(name) && hasPassword(value));
  const entries = Object.entries(env).filter(([name]) => !/^DASHBOARD_|_TOKEN$/.test(name));
  return {
    settings: Object.fromEntries(entries.filter((entry) => !isSecret(entry))),
    withheld: entries.filter(isSecret).map(([name]) => name),
  };
}

function hasPassword(url: string): boolean {
  return (URL.parse(url)?.password ?? '') !== '' || /[?&]password=/.test(url);
}

function shown(url: string): string {
  const { origin, pathname } = new URL(url);
  return `${origin}${pathname === '/' ? '' : pathname}`;
}

function withPort(url: string, port: number): string {
  const changed = new URL(url);
  changed.port = String(port);
  return changed.href;
}

/** A host that can be called: a wildcard means this machine, an IPv6 address needs brackets. */
function callableHost(host: string): string {
  if (host === '0.0.0.0' || host === '::') return '127.0.0.1';
  return isIPv6(host) ? `[${host}]` : host;
}
