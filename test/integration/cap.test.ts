import { Agent } from 'node:http';
import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import { queueKey } from '../../src/queue/bullmq-layout.ts';
import { QUEUE_PREFIX } from '../../src/queue/payment-queue.ts';
import { paymentQueues, shardOf } from '../../src/queue/shards.ts';
import { startApiProcess } from '../support/api-process.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange, http } from '../support/http-client.ts';
import { bullQueue, bullWorker, connectedApi, lookInto } from '../support/queue.ts';
import { aPayment, type TestEnv, testRedis } from '../support/relay.ts';

/** Connections to each node, all in use at the same time. */
const CONNECTIONS = 200;

interface Outcome {
  readonly accepted: string[];
  readonly notAccepted: string[];
}

/**
 * Posts so many payments with ids of their own to the nodes, over {@link CONNECTIONS} to each.
 * A response other than the two that the cap allows fails the test.
 */
async function postToAll(urls: readonly string[], count: number): Promise<Outcome> {
  const outcome: Outcome = { accepted: [], notAccepted: [] };
  let left = count;
  const lane = async (url: string, agent: Agent) => {
    while (left > 0) {
      left -= 1;
      const payment = aPayment();
      const { status, text, headers } = await exchange(`${url}/payments`, { body: JSON.stringify(payment), agent });
      if (status === 204) {
        outcome.accepted.push(payment.correlationId);
      } else {
        expect([status, text, headers['retry-after']]).to.deep.equal([503, '{"error":"queue_full"}', '1']);
        outcome.notAccepted.push(payment.correlationId);
      }
    }
  };
  await Promise.all(
    urls.map(async (url) => {
      const agent = new Agent({ keepAlive: true, maxSockets: CONNECTIONS });
      await Promise.all(Array.from({ length: CONNECTIONS }, () => lane(url, agent)));
      agent.destroy();
    }),
  );
  return outcome;
}

/** API processes over one Redis, and no worker. */
async function nodesOf(settings: TestEnv, count = 2) {
  const redis = await startRedis();
  atTestEnd(() => redis.dispose());
  const env = { REDIS_URL: redis.url, ...settings };
  const nodes = await Promise.all(Array.from({ length: count }, () => startApiProcess(env)));
  return {
    urls: nodes.map(({ url }) => url),
    queue: await lookInto(QUEUE_PREFIX, redis.url),
    redisUrl: redis.url,
    worker: () => bullWorker(QUEUE_PREFIX, null, redis.url),
  };
}

describe('the cap on the queue', () => {
  it('is exact with two processes and 200 connections to each, and so is the room that comes later', async () => {
    const { urls, queue, worker } = await nodesOf({ PAYMENT_QUEUE_MAX_SIZE: '1000' });
    const first = await postToAll(urls, 2_000);
    expect(first.accepted).to.have.length(1_000);
    expect(first.notAccepted).to.have.length(1_000);
    expect((await queue.waiting()).sort()).to.deep.equal(first.accepted.sort());
    for (const id of first.notAccepted.slice(0, 20)) expect(await queue.isStored(id)).to.equal(false);

    // Jobs in flight no longer count, and neither do completed ones.
    const bull = await worker();
    const taken = [];
    for (let i = 0; i < 10; i += 1) taken.push((await bull.getNextJob('token'))!);
    const second = await postToAll(urls, 1_000);
    expect(second.accepted).to.have.length(10);
    for (const job of taken) await job.moveToCompleted(undefined, 'token', false);
    expect((await postToAll(urls, 400)).accepted).to.have.length(0);
    expect(await queue.waiting()).to.have.length(1_000);
    // Two processes and 3,400 requests: a busy machine takes its time.
  }).timeout(30_000);

  it('is exact with four shards and three processes: each shard has its part', async () => {
    const { urls, redisUrl } = await nodesOf({ PAYMENT_QUEUE_MAX_SIZE: '1003', QUEUE_SHARDS: '4' }, 3);
    const { accepted, notAccepted } = await postToAll(urls, 3_000);
    expect(accepted).to.have.length(1_000);
    expect(notAccepted).to.have.length(2_000);
    const redis = await testRedis(redisUrl);
    const { shards } = paymentQueues({ name: 'payments', shards: 4 });
    for (const [index, shard] of shards.entries()) {
      const own = accepted.filter((id) => shardOf(id, 4) === index);
      expect((await redis.lrange(queueKey(shard, 'wait'), 0, -1)).sort()).to.deep.equal(own.sort());
      expect(own).to.have.length(250);
    }
  }).timeout(30_000);

  it('accepts everything with PAYMENT_QUEUE_MAX_SIZE=infinity', async () => {
    const { url, prefix } = await connectedApi({ PAYMENT_QUEUE_MAX_SIZE: 'infinity' });
    const queue = await lookInto(prefix);
    // More than the default cap would leave room for.
    await queue.redis.rpush(queue.key('wait'), ...Array(60_000).fill('0'));
    expect((await postToAll([url], 200)).accepted).to.have.length(200);
    expect(await queue.redis.llen(queue.key('wait'))).to.equal(60_200);
  });

  it('is 50,000 by default', async () => {
    const { url, prefix } = await connectedApi();
    const queue = await lookInto(prefix);
    await queue.redis.rpush(queue.key('wait'), ...Array(49_999).fill('0'));
    expect((await postToAll([url], 200)).accepted).to.have.length(1);
  });

  it('counts delayed and prioritized jobs, and not active ones', async () => {
    const { url, prefix } = await connectedApi({ PAYMENT_QUEUE_MAX_SIZE: '4' });
    const queue = await bullQueue(prefix);
    const post = async () => (await http(url).post('/payments').send(aPayment())).status;
    const delayed = await queue.add('payment', {}, { delay: 60_000 });
    const prioritized = await queue.add('payment', {}, { priority: 1 });
    expect([await post(), await post(), await post()]).to.deep.equal([204, 204, 503]);
    await delayed.remove();
    expect([await post(), await post()]).to.deep.equal([204, 503]);
    await prioritized.remove();
    expect([await post(), await post()]).to.deep.equal([204, 503]);
    const worker = await bullWorker(prefix);
    await worker.getNextJob('token');
    expect([await post(), await post()]).to.deep.equal([204, 503]);
    expect((await http(url).get('/health')).body.queue).to.deep.equal({ queue_size: 4, in_flight: 1 });
  });

  it('is exceeded by a payment that goes back to the queue, and then accepts nothing until there is room', async () => {
    const { url, prefix } = await connectedApi({ PAYMENT_QUEUE_MAX_SIZE: '2' });
    const post = async () => (await http(url).post('/payments').send(aPayment())).status;
    const worker = await bullWorker(prefix);
    expect([await post(), await post()]).to.deep.equal([204, 204]);
    const taken = (await worker.getNextJob('token'))!;
    expect(await post()).to.equal(204);
    // A payment that must be tried again is never dropped because the queue is full.
    await taken.moveToDelayed(Date.now() + 60_000, 'token');
    expect((await http(url).get('/health')).body.queue.queue_size).to.equal(3);
    expect(await post()).to.equal(503);
    await worker.getNextJob('token');
    expect(await post()).to.equal(503);
    await worker.getNextJob('token');
    expect([await post(), await post()]).to.deep.equal([204, 503]);
  });
});
