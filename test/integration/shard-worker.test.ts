import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import type { SimulatedGatewayOptions } from '../../dev/simulated-gateway/simulated-gateway.ts';
import { createEnqueuer } from '../../src/queue/enqueuer.ts';
import { paymentQueues, shardOf } from '../../src/queue/shards.ts';
import { eventually, type TestEnv, testGateway, testRedis, testWorker } from '../support/relay.ts';
import { freshDatabase, freshPrefix, sql } from '../support/services.ts';
import { countPayments } from '../support/shards.ts';

const SHARDS = 4;
const PLACES = 4;

/** Four shards on one Redis, with a gateway that takes 20 ms for a payment. Nothing works on them before `work`. */
async function sharded(options: SimulatedGatewayOptions = { delayMs: 20 }) {
  const [prefix, redis, databaseUrl, gateway] = [
    freshPrefix(),
    await testRedis(),
    await freshDatabase(),
    await testGateway(options),
  ];
  const queues = paymentQueues({ name: 'payments', prefix, shards: SHARDS });
  const enqueuers = queues.shards.map((queue) =>
    createEnqueuer({ redis, queue, maxSize: 1e6, shards: SHARDS, serverCheck: { fault: undefined } }),
  );
  const work = (env: TestEnv = {}) =>
    testWorker(
      {
        DATABASE_URL: databaseUrl,
        GATEWAY_PRIMARY_URL: gateway.url,
        GATEWAY_FALLBACK_URL: gateway.url,
        PAYMENT_QUEUE_MAX_CONCURRENCY: String(PLACES),
        QUEUE_SHARDS: String(SHARDS),
        ...env,
      },
      prefix,
    );
  return {
    gateway,
    work,
    redis,
    shards: queues.shards,
    /** Enqueues so many payments of one shard. @returns their ids */
    async enqueue(shard: number, count = 1): Promise<string[]> {
      const ids = Array.from({ length: count }, () => idOf(shard));
      await Promise.all(
        ids.map((id) => enqueuers[shard]!.enqueue({ id, data: JSON.stringify({ correlationId: id, amount: 19.9 }) })),
      );
      return ids;
    },
    /** Resolves when so many are paid. @returns the most that were at the gateway at once */
    async paid(count: number): Promise<number> {
      let most = 0;
      await gateway.waitFor(({ requests, payments }) => {
        most = Math.max(most, requests.inFlight + requests.queued);
        return payments.size === count;
      }, 20_000);
      return most;
    },
    recorded: (count: number) =>
      eventually(async () => {
        const [row] = await sql<{ count: string }>(databaseUrl, 'SELECT count(*) FROM payments');
        return Number(row!.count) === count;
      }, 20_000),
    isEmpty: async () => {
      const counts = await Promise.all(queues.shards.map((queue) => countPayments(redis, queue)));
      return counts.every(({ size, inFlight }) => size + inFlight === 0);
    },
  };
}

function idOf(shard: number): string {
  for (;;) {
    const id = randomUUID();
    if (shardOf(id, SHARDS) === shard) return id;
  }
}

describe('the worker of several shards', function () {
  this.timeout(40_000);

  it('pays and records all, once each, with no more at the gateway at once than its places', async () => {
    const { gateway, work, enqueue, paid, recorded, isEmpty } = await sharded();
    const ids = (await Promise.all([0, 1, 2, 3].map((shard) => enqueue(shard, 60)))).flat();
    await work();
    expect(await paid(ids.length)).to.equal(PLACES);
    await recorded(ids.length);
    await eventually(isEmpty);
    expect(gateway.requests.total).to.equal(ids.length);
  });

  it('gives all places to the only shard that has payments', async () => {
    const { work, enqueue, paid } = await sharded();
    await enqueue(2, 60);
    await work();
    expect(await paid(60)).to.equal(PLACES);
  });

  it('pays a payment of an idle shard among the next, however many wait in another one', async () => {
    const { gateway, work, enqueue, paid } = await sharded();
    await enqueue(0, 2_000);
    await work();
    await paid(100);
    for (const shard of [1, 2, 3]) {
      const before = gateway.payments.size;
      const [id] = await enqueue(shard);
      await gateway.waitFor(({ payments }) => payments.has(id!));
      // Each place pays one until it is given away, and some until the worker has heard of the payment.
      expect(gateway.payments.size - before).to.be.at.most(6 * PLACES);
    }
  });

  it('pays those of all shards by turns when it has fewer places than shards', async () => {
    const { gateway, work, enqueue, paid, isEmpty } = await sharded({ delayMs: 2 });
    for (const shard of [0, 1, 2, 3]) await enqueue(shard, 100);
    await work({ PAYMENT_QUEUE_MAX_CONCURRENCY: '1' });
    expect(await paid(200)).to.equal(1);
    const ofShards = [0, 0, 0, 0];
    for (const id of gateway.payments.keys()) ofShards[shardOf(id, SHARDS)]! += 1;
    for (const count of ofShards) expect(count).to.be.within(40, 60);
    await paid(400);
    await eventually(isEmpty);
  });

  it('goes on with payments that come while it works on all shards', async () => {
    const { work, enqueue, recorded, isEmpty } = await sharded({ delayMs: 1 });
    await work();
    for (let round = 0; round < 30; round += 1) {
      await Promise.all([0, 1, 2, 3].map((shard) => enqueue(shard, 1 + ((round + shard) % 4))));
    }
    await recorded(300);
    await eventually(isEmpty);
  });

  it('takes nothing with another number of shards than the relay has, and says so', async () => {
    const { work, enqueue, shards, redis, gateway } = await sharded();
    const { close } = await work();
    await enqueue(0);
    await gateway.waitFor(({ payments }) => payments.size === 1);
    await close();
    await enqueue(0, 3);
    const { entries } = await work({ QUEUE_SHARDS: '2' });
    await eventually(() => entries.some(({ code }) => code === 'other_shards'));
    expect(await countPayments(redis, shards[0]!)).to.deep.equal({ size: 3, inFlight: 0 });
    expect(gateway.requests.total).to.equal(1);
  });
});
