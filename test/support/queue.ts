import { Queue, Worker } from 'bullmq';
import { queueKey } from '../../src/queue/bullmq-layout.ts';
import { createWorkerConnection } from '../../src/queue/redis.ts';
import { atTestEnd } from './cleanup.ts';
import { http } from './http-client.ts';
import { eventually, type TestApi, type TestEnv, testApi, testRedis } from './relay.ts';
import { sharedRedis } from './services.ts';

/** For an API without a queue: nothing listens on this port. */
export const NO_REDIS = { REDIS_URL: 'redis://127.0.0.1:1' };

/** For an API without a ledger: nothing listens on this port. */
export const NO_DATABASE = { DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none' };

/** `testApi` without a ledger. Resolves when it is connected to its Redis, as it responds 503 before. */
export async function connectedApi(env: TestEnv = {}): Promise<TestApi> {
  const api = await testApi({ ...NO_DATABASE, ...env });
  await eventually(async () => (await http(api.url).get('/health')).status === 200);
  return api;
}

/** Reads the queue `payments` from Redis itself, without any code of ours. */
export async function lookInto(prefix: string, redisUrl?: string) {
  const redis = await testRedis(redisUrl);
  const key = (type: string) => queueKey({ name: 'payments', prefix }, type);
  return {
    redis,
    key,
    job: (id: string) => redis.hgetall(key(id)),
    isStored: async (id: string) => (await redis.exists(key(id))) === 1,
    /** The ids that wait, the next first. */
    waiting: async () => (await redis.lrange(key('wait'), 0, -1)).reverse(),
    /** Every key of the queue, without their common start. */
    keys: async () => (await redis.keys(`${key('')}*`)).map((name) => name.slice(key('').length)).sort(),
  };
}

/** BullMQ's own producer for the queue, closed after the test. */
export async function bullQueue(prefix: string, redisUrl?: string): Promise<Queue> {
  const queue = new Queue('payments', { connection: await testRedis(redisUrl), prefix });
  await queue.waitUntilReady();
  atTestEnd(() => queue.close());
  return queue;
}

/** BullMQ's own worker, closed after the test. Without a processor it takes a job only when `getNextJob` is called. */
export async function bullWorker(
  prefix: string,
  processor: ConstructorParameters<typeof Worker>[1] = null,
  redisUrl?: string,
): Promise<Worker> {
  const connection = createWorkerConnection({ url: redisUrl ?? (await sharedRedis()).url, clusterNodes: [] });
  atTestEnd(() => connection.disconnect());
  const worker = new Worker('payments', processor, { connection, prefix, removeOnComplete: { count: 0 } });
  worker.on('error', () => {});
  await worker.waitUntilReady();
  atTestEnd(() => worker.close(true));
  return worker;
}
