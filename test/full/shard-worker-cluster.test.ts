import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import calculateSlot from 'cluster-key-slot';
import { startRedisCluster } from '../../dev/local/redis-cluster.ts';
import { loadConfig } from '../../src/config.ts';
import { createEnqueuer } from '../../src/queue/enqueuer.ts';
import { createProducerConnection, firstConnection } from '../../src/queue/redis.ts';
import { paymentQueues, shardOf } from '../../src/queue/shards.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { eventually, testGateway, testWorker } from '../support/relay.ts';
import { freshDatabase, freshPrefix } from '../support/services.ts';

const SHARDS = 3;
const PLACES = 6;

/** A shard on each of three masters without replicas, and nothing that works on them. */
async function onThreeMasters() {
  // The first shard will be lost. The home must stay: a process that starts reads there.
  let prefix = freshPrefix();
  while (calculateSlot(prefix) < 16_384 / SHARDS) prefix = freshPrefix();
  const queues = paymentQueues({ name: 'payments', prefix, shards: SHARDS });
  const cluster = await startRedisCluster({ prefixes: queues.shards.map((shard) => shard.prefix), replicas: 0 });
  atTestEnd(() => cluster.dispose());
  const gateway = await testGateway({ delayMs: 10 });
  const env = {
    ...cluster.env,
    DURABILITY: 'disk',
    DATABASE_URL: await freshDatabase(),
    GATEWAY_PRIMARY_URL: gateway.url,
    GATEWAY_FALLBACK_URL: gateway.url,
    PAYMENT_QUEUE_MAX_CONCURRENCY: String(PLACES),
    QUEUE_SHARDS: String(SHARDS),
  };
  const redis = createProducerConnection(loadConfig(env).redis);
  redis.on('error', () => {});
  atTestEnd(() => redis.disconnect());
  await firstConnection(redis);
  const enqueuers = queues.shards.map((queue) =>
    createEnqueuer({ redis, queue, maxSize: 1e6, shards: SHARDS, serverCheck: { fault: undefined } }),
  );
  async function enqueue(shard: number, count: number): Promise<string[]> {
    const ids: string[] = [];
    while (ids.length < count) {
      const id = randomUUID();
      if (shardOf(id, SHARDS) === shard) ids.push(id);
    }
    const jobs = ids.map((id) => ({ id, data: JSON.stringify({ correlationId: id, amount: 19.9 }) }));
    await Promise.all(jobs.map((job) => enqueuers[shard]!.enqueue(job)));
    return ids;
  }
  const arePaid = (ids: readonly string[]) => eventually(() => ids.every((id) => gateway.payments.has(id)), 20_000);
  return { cluster, gateway, enqueue, arePaid, work: () => testWorker(env, prefix) };
}

describe('shards on a Redis Cluster that loses a master', function () {
  this.timeout(90_000);

  for (const loss of ['ends', 'hangs'] as const) {
    it(`pays the others' payments with all places while one ${loss}, and its own when it is back`, async () => {
      const { cluster, gateway, enqueue, arePaid, work } = await onThreeMasters();
      await work();
      // All places are in use for the shard that is lost.
      const own = await enqueue(0, 600);
      await gateway.waitFor(({ payments }) => payments.size > 50, 20_000);
      const master = await cluster.primary();
      if (loss === 'ends') await master.kill();
      else master.signal('SIGSTOP');
      const others = [...(await enqueue(1, 150)), ...(await enqueue(2, 150))];
      let most = 0;
      await gateway.waitFor(({ requests, payments }) => {
        most = Math.max(most, requests.inFlight);
        return others.some((id) => payments.has(id));
      }, 20_000);
      most = 0;
      await gateway.waitFor(({ requests, payments }) => {
        most = Math.max(most, requests.inFlight);
        return others.every((id) => payments.has(id));
      }, 20_000);
      expect(most).to.equal(PLACES);
      expect(own.every((id) => gateway.payments.has(id))).to.equal(false);
      if (loss === 'ends') await master.start();
      else master.signal('SIGCONT');
      await arePaid(own);
      const again = [...(await enqueue(0, 20)), ...(await enqueue(1, 20)), ...(await enqueue(2, 20))];
      await arePaid(again);
    });
  }

  it('takes the payments of the others when it starts meanwhile', async () => {
    const { cluster, enqueue, arePaid, work } = await onThreeMasters();
    const own = await enqueue(0, 20);
    const others = [...(await enqueue(1, 20)), ...(await enqueue(2, 20))];
    const { close } = await work();
    await arePaid(own.slice(0, 1));
    await close();
    const later = await enqueue(1, 20);
    const master = await cluster.primary();
    await master.kill();
    await work();
    await arePaid([...others, ...later]);
    await master.start();
    await arePaid(own);
  });
});
