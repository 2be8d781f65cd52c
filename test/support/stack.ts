import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { Redis } from 'ioredis';
import { audit, type Book, type Breaches, readLedger } from '../../dev/audit.ts';
import type { ManagedServer } from '../../dev/local/processes.ts';
import { startRedis } from '../../dev/local/redis.ts';
import type { RedisTopology } from '../../dev/local/redis-topology.ts';
import type { ServiceProcess } from '../../dev/local/service.ts';
import type { SimulatedGateway, SimulatedGatewayOptions } from '../../dev/simulated-gateway/simulated-gateway.ts';
import { createServices, type Server } from '../../dev/stack.ts';
import { createTcpProxy, type TcpProxy } from '../../dev/tcp-proxy.ts';
import { loadConfig } from '../../src/config.ts';
import { queueKey } from '../../src/queue/bullmq-layout.ts';
import { createWorkerConnection } from '../../src/queue/redis.ts';
import { paymentQueues } from '../../src/queue/shards.ts';
import { atTestEnd } from './cleanup.ts';
import { exchange } from './http-client.ts';
import { aPayment, eventually, type TestEnv, testGateway } from './relay.ts';
import { freshDatabase, sharedPostgres, sharedRedis, startTestPostgres } from './services.ts';
import { countShards, failedIn } from './shards.ts';

/** How long anything may take on a busy machine. Tests measure separately what must be quick. */
export const PATIENCE_MS = 30_000;

export interface StackOptions {
  /** API processes at the start. Default 1. */
  apis?: number;
  /** Worker processes at the start. Default 1. `startWorker` starts more. */
  workers?: number;
  /** For API and workers. */
  env?: TestEnv;
  /** Servers behind a proxy, which can inject the faults of a network. */
  through?: readonly Server[];
  /** Servers of the test's own, because it stops, hangs or fills them. */
  own?: readonly ('redis' | 'postgres')[];
  /** In the place of one Redis. */
  topology?: RedisTopology;
  primary?: SimulatedGatewayOptions;
}

/** An API or a worker, with all that it has logged. */
export interface TestProcess extends ServiceProcess {
  /** Its lines as they are: those of Node itself are no JSON. */
  readonly log: readonly string[];
  /** Whether it has logged a line with these fields. The message is none of them: its wording is for people. */
  hasLogged(fields: LogFields): boolean;
  /** Resolves when it has logged a line with these fields, now or before. */
  logged(fields: LogFields): Promise<unknown>;
}

export type LogFields = Readonly<Record<string, unknown>> & { readonly message?: never };

export interface Settled {
  readonly primary: Book;
  readonly fallback: Book;
}

export type TestStack = Awaited<ReturnType<typeof startTestStack>>;

/**
 * Payrelay as real processes: API and workers are children, started as in production; the gateways are in this process,
 * so that a test can wait for what happens at them. All of it ends after the test.
 */
export async function startTestStack({
  apis: apiCount = 1,
  workers: workerCount = 1,
  env = {},
  through = [],
  own = [],
  topology,
  primary: primaryOptions = {},
}: StackOptions = {}) {
  const redisServer = own.includes('redis') ? await ownRedis() : await sharedRedis();
  const postgresServer = own.includes('postgres') ? await ownPostgres() : await sharedPostgres();
  const redisUrl = own.includes('redis') ? redisServer.url : freshRedisDatabase(redisServer);
  const databaseUrl = await freshDatabase(postgresServer);
  const primary = await testGateway(primaryOptions);
  const fallback = await testGateway();

  const redis = topology ? connectTo(topology) : new Redis(redisUrl, { maxRetriesPerRequest: null });
  redis.on('error', () => {});
  atTestEnd(() => redis.disconnect());
  await redis.flushdb();

  const shardsOf = (count: number) => paymentQueues({ name: 'payments', shards: count }).shards;
  let shards = shardsOf(Number(env['QUEUE_SHARDS'] ?? 1));

  const proxies: Partial<Record<Server, TcpProxy>> = {};
  const services = await createServices({
    servers: { redis: redisUrl, postgres: databaseUrl, primary: primary.url, fallback: fallback.url },
    async through(server, port) {
      if (!through.includes(server)) return port;
      const proxy = await createTcpProxy(port);
      atTestEnd(() => proxy.close());
      proxies[server] = proxy;
      return proxy.port;
    },
    env: {
      LOG_LEVEL: 'debug',
      // The default follows the machine's cores.
      PAYMENT_QUEUE_MAX_CONCURRENCY: '16',
      ...topology?.env,
      ...env,
    },
    nodeArgs: ['--import', new URL('../chaos/clock-shift.ts', import.meta.url).href],
  });

  const apis: TestProcess[] = [];
  const workers: TestProcess[] = [];
  async function start(role: 'startApi' | 'startWorker', extraEnv: TestEnv): Promise<TestProcess> {
    const log: string[] = [];
    const service = await services[role]({ env: extraEnv, onLine: (line) => log.push(line) });
    atTestEnd(() => service.kill());
    const hasLogged = (fields: LogFields) => log.some((line) => hasFields(line, fields));
    const logged = (fields: LogFields) => eventually(() => hasLogged(fields), PATIENCE_MS);
    // Not spread: its pid and its end change with every start.
    return Object.assign(service, { log, hasLogged, logged });
  }
  const startApi = async (extraEnv: TestEnv = {}) => {
    const api = await start('startApi', extraEnv);
    apis.push(api);
    return api;
  };
  const startWorker = async (extraEnv: TestEnv = {}) => {
    const worker = await start('startWorker', extraEnv);
    workers.push(worker);
    return worker;
  };
  await Promise.all([
    ...Array.from({ length: apiCount }, () => startApi()),
    ...Array.from({ length: workerCount }, () => startWorker()),
  ]);

  const agent = new Agent({ keepAlive: true, maxSockets: 200 });
  atTestEnd(() => agent.destroy());
  /** The amount of the first post, in cents, by id. No other amount may be paid. */
  const posted = new Map<string, number>();
  const accepted = new Set<string>();
  const unknown = new Set<string>();
  let posts = 0;

  /** Posts to one API after the other, or to this one, and notes the response. @returns its status, undefined without a response */
  async function post(payment = aPayment(anAmount()), api?: TestProcess): Promise<number | undefined> {
    const { correlationId, amount } = payment;
    if (!posted.has(correlationId)) posted.set(correlationId, Math.round(amount * 100));
    const { url } = api ?? apis[posts++ % apis.length]!;
    const response = await exchange(`${url}/payments`, { agent, body: JSON.stringify(payment) }).catch(() => undefined);
    if (response?.status === 204) accepted.add(correlationId);
    // Only a full queue says for certain that nothing was stored.
    else if (!response?.text.includes('queue_full')) unknown.add(correlationId);
    return response?.status;
  }

  /** Posts some hundred payments a second. @returns a function that ends the load and resolves after the last response */
  function startLoad(): () => Promise<void> {
    let isOver = false;
    const clients = Array.from({ length: 4 }, async () => {
      while (!isOver) {
        await post();
        await sleep(5);
      }
    });
    return async () => {
      isOver = true;
      await Promise.all(clients);
    };
  }

  const countQueue = () => countShards(redis, shards);

  async function isQueueEmpty(): Promise<boolean> {
    const { size, inFlight } = await countQueue();
    return size + inFlight === 0;
  }

  /** Resolves with what breaks a guarantee, as soon as the queue is empty and no gateway has a request. */
  async function breachesAtRest(timeoutMs = PATIENCE_MS): Promise<Breaches> {
    await eventually(isQueueEmpty, timeoutMs);
    for (const gateway of [primary, fallback]) {
      await gateway.waitFor(({ requests }) => requests.inFlight + requests.queued === 0, PATIENCE_MS);
    }
    const gateways = { primary: bookOf(primary), fallback: bookOf(fallback) };
    return audit({ accepted, unknown, deadLetters: new Set(), gateways, ledger: await readLedger(databaseUrl) });
  }

  /**
   * Resolves when the queue is empty and every guarantee was kept: the ledger has the ids, amounts and times that the gateways
   * have on record, each id once. There is no dead letter, and no process logged an error.
   */
  async function settled(timeoutMs = PATIENCE_MS): Promise<Settled> {
    const breaches = await breachesAtRest(timeoutMs);
    const gateways = { primary: bookOf(primary), fallback: bookOf(fallback) };
    expect(breaches).to.deep.equal({ lost: [], paidTwice: [], unrecorded: [], unpaid: [], phantom: [] });
    const wrong = [...gateways.primary, ...gateways.fallback].filter(
      ([id, onRecord]) => onRecord.amountCents !== posted.get(id),
    );
    expect(wrong, 'paid with another amount').to.deep.equal([]);
    expect(await failedIn(redis, shards), 'dead letters').to.deep.equal([]);
    const errors = [...apis, ...workers].flatMap(({ log }) =>
      log.filter((line) => hasFields(line, { level: 'error' })),
    );
    expect(errors).to.deep.equal([]);
    return gateways;
  }

  return {
    redis,
    redisUrl,
    redisServer,
    postgresServer,
    databaseUrl,
    proxies: proxies as Record<Server, TcpProxy>,
    primary,
    fallback,
    /** All that were started so far. */
    apis: apis as readonly TestProcess[],
    workers: workers as readonly TestProcess[],
    startApi,
    startWorker,
    post,
    /** Posts again what was posted with this id. */
    postAgain: (correlationId: string, api?: TestProcess) =>
      post({ correlationId, amount: posted.get(correlationId)! / 100 }, api),
    /** Posts so many payments at once. @returns their ids */
    async postMany(count: number): Promise<string[]> {
      const payments = Array.from({ length: count }, () => aPayment(anAmount()));
      await Promise.all(payments.map((payment) => post(payment)));
      return payments.map(({ correlationId }) => correlationId);
    },
    /** Ids with a 204. */
    accepted: accepted as ReadonlySet<string>,
    /** Ids without a response, or with one that does not say whether the payment is stored. */
    unknown: unknown as ReadonlySet<string>,
    startLoad,
    breachesAtRest,
    settled,
    countQueue,
    isQueueEmpty,
    recorded: () => readLedger(databaseUrl),
    /** From now on the payments are in so many shards. */
    useShards(count: number): void {
      shards = shardsOf(count);
    },
    /** A key of the first shard. */
    queueKey: (type: string) => queueKey(shards[0]!, type),
  };
}

/** How often each of these payments was sent to the gateway. */
export function sends(gateway: SimulatedGateway, ids: Iterable<string>): number[] {
  return [...ids].map((id) => gateway.requests.receivedAt(id).length);
}

function hasFields(line: string, fields: LogFields): boolean {
  if (!line.startsWith('{')) return false;
  const entry = JSON.parse(line) as Record<string, unknown>;
  return Object.entries(fields).every(([name, value]) => entry[name] === value);
}

function bookOf({ payments }: SimulatedGateway): Book {
  return new Map(
    [...payments].map(([id, { amount, requestedAt }]) => [id, { amountCents: Math.round(amount * 100), requestedAt }]),
  );
}

/** Random, so that a test notices when one payment is paid with the amount of another. */
function anAmount(): number {
  return Math.ceil(Math.random() * 1_000_000) / 100;
}

/** Follows the primary. What a cluster's client cannot do, no test does with it. */
function connectTo({ env }: RedisTopology): Redis {
  return createWorkerConnection(loadConfig({ ...env, DATABASE_URL: 'postgres://localhost/none' }).redis) as Redis;
}

async function ownRedis(): Promise<ManagedServer> {
  const server = await startRedis();
  atTestEnd(server.dispose);
  return server;
}

async function ownPostgres(): Promise<ManagedServer> {
  const server = await startTestPostgres();
  atTestEnd(server.dispose);
  return server;
}

let databases = 0;

/** A database of the shared Redis, because processes always use the same key prefix. Database 0 is for tests with prefixes. */
function freshRedisDatabase({ url }: ManagedServer): string {
  databases = (databases % 15) + 1;
  return `${url}/${databases}`;
}
