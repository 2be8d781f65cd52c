import { expect } from 'chai';
import { loadConfig } from '../../src/config.ts';
import { QueueUnavailableError } from '../../src/errors.ts';
import { queueKey, shardsKey } from '../../src/queue/bullmq-layout.ts';
import { createShards } from '../../src/queue/change-shards.ts';
import { combineEnqueuers, createEnqueuer } from '../../src/queue/enqueuer.ts';
import { paymentQueues, shardOf } from '../../src/queue/shards.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { bullWorker } from '../support/queue.ts';
import { aPayment, eventually, testRedis } from '../support/relay.ts';
import { freshPrefix, sharedRedis } from '../support/services.ts';

/** A relay with one shard, and what API nodes and workers of any number of shards do with it. */
async function aRelay() {
  const redis = await testRedis();
  const prefix = freshPrefix();
  const config = loadConfig({
    REDIS_URL: (await sharedRedis()).url,
    DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none',
    REDIS_KEY_PREFIX: prefix.slice(1, -1),
  });
  const shards = createShards(config, redis);
  const shardsOf = (count: number) => paymentQueues({ name: 'payments', prefix, shards: count }).shards;
  return {
    redis,
    shards,
    shardsOf,
    count: async () => (await shards.read()).length,
    /** Accepts payments as an API node with this QUEUE_SHARDS. */
    node(count: number) {
      const enqueuer = combineEnqueuers(
        shardsOf(count).map((queue) =>
          createEnqueuer({ redis, queue, shards: count, maxSize: 1_000, serverCheck: { fault: undefined } }),
        ),
      );
      atTestEnd(() => enqueuer.close());
      return (payment: ReturnType<typeof aPayment>) =>
        enqueuer.enqueue({ id: payment.correlationId, data: JSON.stringify(payment) });
    },
    /** Takes the payments of all shards, and ends them as paid. @returns the ids */
    async work(count: number): Promise<string[]> {
      const paid: string[] = [];
      for (const shard of shardsOf(count)) await bullWorker(shard.prefix, async ({ id }) => void paid.push(id!));
      return paid;
    },
    change: (to: number) => shards.change(to, { onLeft: () => undefined, signal: AbortSignal.timeout(8_000) }),
  };
}

async function refusalOf(promise: Promise<void>): Promise<string> {
  const error = await promise.then(
    () => expect.fail('the payment was accepted'),
    (cause: unknown) => cause,
  );
  expect(error).to.be.instanceOf(QueueUnavailableError);
  return (error as Error).message;
}

describe('a change of the number of shards', () => {
  it('goes from 1 to 4 to 2, and each number accepts only while it is the written one', async () => {
    const { change, node, count, redis, shardsOf } = await aRelay();
    await node(1)(aPayment());
    await redis.del(queueKey(shardsOf(1)[0]!, 'wait'));
    expect(await count()).to.equal(1);
    await change(4);
    expect(await count()).to.equal(4);
    expect(await refusalOf(node(1)(aPayment()))).to.include('it is 4, and QUEUE_SHARDS is 1');
    for (let i = 0; i < 40; i += 1) await node(4)(aPayment());
    const lengths = await Promise.all(shardsOf(4).map((shard) => redis.llen(queueKey(shard, 'wait'))));
    expect(Math.min(...lengths)).to.be.above(0);
    for (const shard of shardsOf(4)) await redis.del(queueKey(shard, 'wait'));

    await change(2);
    expect(await count()).to.equal(2);
    // Payments of every shard: some keys are those of a shard of two as well.
    for (let shard = 0; shard < 4; shard += 1) {
      expect(await refusalOf(node(4)(paymentOf(shard, 4)))).to.match(
        /it is being changed|it is 2, and QUEUE_SHARDS is 4/,
      );
    }
    await node(2)(paymentOf(0, 2));
    await node(2)(paymentOf(1, 2));
    await Promise.all(shardsOf(2).map((shard) => redis.del(queueKey(shard, 'wait'))));
    await change(1);
    await node(1)(aPayment());
  });

  it('waits until the workers have drained the shards, and accepts nothing meanwhile', async () => {
    const { change, node, work, count, redis, shardsOf } = await aRelay();
    const post = node(1);
    const payments = Array.from({ length: 20 }, () => aPayment());
    for (const payment of payments) await post(payment);
    let isDone = false;
    const changing = change(4).then(() => {
      isDone = true;
    });
    await eventually(async () => (await redis.get(shardsKey(shardsOf(1)[0]!))) === 'closed');
    expect(await refusalOf(post(aPayment()))).to.include('it is being changed');
    expect(isDone).to.equal(false);
    const paid = await work(1);
    await changing;
    expect(paid.sort()).to.deep.equal(payments.map(({ correlationId }) => correlationId).sort());
    expect(await count()).to.equal(4);
  });

  it('that is interrupted opens the shards again, and so does the command after a kill', async () => {
    const { shards, node, count, change, redis, shardsOf } = await aRelay();
    await node(1)(aPayment());
    const abort = new AbortController();
    const failure = shards
      .change(4, { onLeft: () => abort.abort(new Error('interrupted')), signal: abort.signal })
      .catch((error: Error) => error.message);
    expect(await failure).to.equal('interrupted');
    expect(await count()).to.equal(1);
    await node(1)(aPayment());

    await redis.set(shardsKey(shardsOf(1)[0]!), 'closed');
    await change(1);
    await node(1)(aPayment());
  });

  it('is not made over another one', async () => {
    const { shards, node, count, redis, shardsOf } = await aRelay();
    await node(1)(aPayment());
    const [home] = shardsOf(1);
    const failure = await shards
      .change(4, {
        // Another command was faster.
        onLeft: () => void redis.multi().del(queueKey(home!, 'wait')).set(shardsKey(home!), '2').exec(),
        signal: AbortSignal.timeout(8_000),
      })
      .catch((error: Error) => error);
    expect(failure).to.have.property('code', 'conflict');
    expect(await count()).to.equal(2);
  });
});

function paymentOf(shard: number, count: number) {
  for (;;) {
    const payment = aPayment();
    if (shardOf(payment.correlationId, count) === shard) return payment;
  }
}
