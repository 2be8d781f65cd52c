import { randomUUID } from 'node:crypto';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import { startRedis } from '../../dev/local/redis.ts';
import { JOB_OPTIONS } from '../../src/queue/payment-queue.ts';
import { median, type Result } from './measure.ts';
import { connectedEnqueuer, flush, newJob, note, REQUESTS, ROUNDS } from './stage.ts';

/** Payments a second from the batcher to Redis and back, without HTTP, beside BullMQ's addBulk of 500 jobs. */
export async function enqueue(): Promise<Result[]> {
  const redis = await startRedis();
  const { producer, enqueuer } = await connectedEnqueuer(redis.url);
  const connection = new Redis(redis.url, { maxRetriesPerRequest: null });
  const queue = new Queue('bulk', { connection });
  await queue.waitUntilReady();
  const rate = new Map<string, number[]>();
  const bulk = async () => {
    for (let added = 0; added < REQUESTS; added += 500) {
      await queue.addBulk(
        Array.from({ length: 500 }, () => {
          const id = randomUUID();
          return { name: 'payment', data: { correlationId: id, amount: 19.9 }, opts: { ...JOB_OPTIONS, jobId: id } };
        }),
      );
    }
  };
  const batched = async () => {
    let left = REQUESTS;
    await Promise.all(
      Array.from({ length: 500 }, async () => {
        while (left > 0) {
          left -= 1;
          await enqueuer.enqueue(newJob());
        }
      }),
    );
  };
  for (let round = 0; round <= ROUNDS; round += 1) {
    for (const [name, run] of [
      ['bulk', bulk],
      ['batched', batched],
    ] as const) {
      const startedAt = performance.now();
      await run();
      if (round > 0) note(rate, name, REQUESTS / ((performance.now() - startedAt) / 1000));
    }
    await flush(redis.url);
  }
  producer.disconnect();
  await queue.close();
  connection.disconnect();
  await redis.dispose();
  const of = (name: string) => median(rate.get(name)!);
  return [
    {
      what: 'enqueue: payments a second, batcher to Redis and back, beside addBulk of 500',
      ours: `${of('batched').toFixed(0)}/s`,
      baseline: `${of('bulk').toFixed(0)}/s`,
      ratio: of('batched') / of('bulk'),
      budget: 0.9,
      atLeast: true,
    },
  ];
}
