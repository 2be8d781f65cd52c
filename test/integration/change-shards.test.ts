import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { Cluster, Redis } from 'ioredis';
import { loadConfig } from '../../src/config.ts';
import { QueueUnavailableError } from '../../src/errors.ts';
import { jobKey, queueKey, shardsKey } from '../../src/queue/bullmq-layout.ts';
import { createShards, type LeftInShards } from '../../src/queue/change-shards.ts';
import { combineEnqueuers, createEnqueuer } from '../../src/queue/enqueuer.ts';
import { countOf, isClosed } from '../../src/queue/shard-count.ts';
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
    config,
    home: shardsOf(1)[0]!,
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
    change: (to: number, onLeft: (left: LeftInShards) => void = () => undefined) =>
      shards.change(to, { who: 'ada', onLeft, signal: AbortSignal.timeout(8_000) }),
    marks: async (count: number) => Promise.all(shardsOf(count).map((shard) => redis.get(shardsKey(shard)))),
    untilClosed: (count: number) =>
      eventually(
        async () => (await shards.read()).length === count && (await shards.read()).every(({ mark }) => isClosed(mark)),
      ),
    drain: async (count: number) => {
      for (const shard of shardsOf(count)) await redis.del(queueKey(shard, 'wait'));
    },
  };
}

/** The connection, with another way to write the number of shards. */
function writingBy(
  redis: Redis | Cluster,
  by: (write: () => Promise<unknown>, key: string, after: string) => Promise<unknown>,
): typeof redis {
  return new Proxy(redis, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property);
      if (typeof value !== 'function') return value;
      if (property !== 'set-shards') return value.bind(target);
      return (...args: string[]) => by(() => value.apply(target, args), args[0]!, args[1]!);
    },
  });
}

async function refusalOf(promise: Promise<void>): Promise<string> {
  const error = await promise.then(
    () => expect.fail('the payment was accepted'),
    (cause: unknown) => cause,
  );
  expect(error).to.be.instanceOf(QueueUnavailableError);
  return (error as Error).message;
}

async function failureOf(promise: Promise<void>): Promise<Error> {
  return await promise.then(
    () => expect.fail('the number was changed'),
    (error: Error) => error,
  );
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
    const { change, node, work, count, untilClosed } = await aRelay();
    const post = node(1);
    const payments = Array.from({ length: 20 }, () => aPayment());
    for (const payment of payments) await post(payment);
    let isDone = false;
    const changing = change(4).then(() => {
      isDone = true;
    });
    await untilClosed(1);
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
      .change(4, { who: 'ada', onLeft: () => abort.abort(new Error('interrupted')), signal: abort.signal })
      .catch((error: Error) => error.message);
    expect(await failure).to.equal('interrupted');
    expect(await count()).to.equal(1);
    await node(1)(aPayment());

    await redis.set(shardsKey(shardsOf(1)[0]!), 'closed');
    await change(1);
    await node(1)(aPayment());
  });

  it('is not made over another one', async () => {
    const { node, count, redis, shardsOf, change } = await aRelay();
    await node(1)(aPayment());
    const [home] = shardsOf(1);
    // Another command was faster.
    const faster = () => void redis.multi().del(queueKey(home!, 'wait')).set(shardsKey(home!), '2').exec();
    expect(await failureOf(change(4, faster))).to.have.property('code', 'conflict');
    expect(await count()).to.equal(2);
  });

  for (const from of [1, 3]) {
    it(`from ${from} fails when another call opens the shards meanwhile, and payments accepted since are found`, async () => {
      const { node, count, change, marks, drain, untilClosed, work } = await aRelay();
      if (from > 1) await change(from);
      await node(from)(aPayment());
      const failure = failureOf(change(4));
      await untilClosed(from);
      await change(from);
      const payment = aPayment();
      await drain(from);
      await node(from)(payment);
      expect(await failure).to.have.property('code', 'conflict');
      expect(await count()).to.equal(from);
      expect(await marks(from)).to.deep.equal(Array.from({ length: from }, () => String(from)));
      const paid = await work(from);
      await eventually(() => paid.length === 1);
      expect(paid).to.deep.equal([payment.correlationId]);
    });
  }

  it('is refused while another call is under way, and says whose', async () => {
    const { node, change, drain, untilClosed, count } = await aRelay();
    await change(3);
    await node(3)(aPayment());
    const first = change(4);
    await untilClosed(3);
    const refused = await failureOf(change(2));
    expect(refused).to.have.property('code', 'conflict');
    expect(refused.message).to.match(/by ada since \d{4}-.* --to 3 /);
    await drain(3);
    await first;
    expect(await count()).to.equal(4);
  });

  it('ended by Ctrl-C after another call has made the change leaves that one alone', async () => {
    const { node, change, marks, shards, drain } = await aRelay();
    await change(2);
    await node(2)(aPayment());
    const abort = new AbortController();
    let faster: Promise<void> | undefined;
    const first = failureOf(
      shards.change(4, {
        who: 'ada',
        onLeft() {
          faster ??= change(2)
            .then(() => drain(2))
            .then(() => change(4));
        },
        signal: abort.signal,
      }),
    );
    await eventually(() => faster !== undefined);
    await faster;
    abort.abort(new Error('interrupted'));
    await first;
    expect(await marks(4)).to.deep.equal(['4', '4', '4', '4']);
    expect((await marks(2)).filter((mark) => mark === '2')).to.deep.equal([]);
    await node(4)(aPayment());
  });

  it('fails when a shard has lost its mark, and opens the others', async () => {
    const { node, change, drain, redis, shardsOf, marks } = await aRelay();
    await change(3);
    await node(3)(aPayment());
    let isLost = false;
    const failure = await failureOf(
      change(4, () => {
        if (isLost) return;
        isLost = true;
        void redis.set(shardsKey(shardsOf(3)[1]!), '3').then(() => drain(3));
      }),
    );
    expect(failure).to.have.property('code', 'conflict');
    expect(await marks(3)).to.deep.equal(['3', '3', '3']);
  });

  it('is taken back when a shard has lost its mark while the home got the new number', async () => {
    const { node, change, config, redis, shardsOf, marks, count } = await aRelay();
    await change(3);
    const losing = writingBy(redis, async (write, _key, after) => {
      const written = await write();
      if (countOf(after) !== 4) return written;
      await redis.set(shardsKey(shardsOf(3)[1]!), '3');
      await node(3)(paymentOf(1, 3));
      return written;
    });
    const shards = createShards(config, losing);
    const call = { who: 'ada', onLeft: () => undefined, signal: AbortSignal.timeout(8_000) };
    expect(await failureOf(shards.change(4, call))).to.have.property('code', 'conflict');
    expect(await count()).to.equal(3);
    expect(await marks(3)).to.deep.equal(['3', '3', '3']);
  });

  it('leaves the same change of another call alone, also when its own write of the number is late', async () => {
    const { node, change, config, redis, home, marks, count } = await aRelay();
    await change(3);
    let isFirst = true;
    const late = writingBy(redis, async (write, key, after) => {
      if (countOf(after) !== 4 || key !== shardsKey(home) || !isFirst) return await write();
      isFirst = false;
      await change(3);
      await change(4);
      await node(4)(aPayment());
      return await write();
    });
    const shards = createShards(config, late);
    const call = { who: 'ada', onLeft: () => undefined, signal: AbortSignal.timeout(8_000) };
    expect(await failureOf(shards.change(4, call))).to.have.property('code', 'conflict');
    expect(await count()).to.equal(4);
    expect(await marks(4)).to.deep.equal(['4', '4', '4', '4']);
  });

  it('is refused while the queue is paused, also when it was paused meanwhile', async () => {
    const { node, change, drain, redis, shardsOf, marks } = await aRelay();
    await change(2);
    const meta = queueKey(shardsOf(2)[1]!, 'meta');
    await redis.hset(meta, 'paused', '1');
    expect((await failureOf(change(4))).message).to.include('paused');
    await redis.hdel(meta, 'paused');
    await node(2)(aPayment());
    const pauseAndDrain = () => void redis.hset(meta, 'paused', '1').then(() => drain(2));
    expect((await failureOf(change(4, pauseAndDrain))).message).to.include('paused');
    expect(await marks(2)).to.deep.equal(['2', '2']);
    await redis.hdel(meta, 'paused');
    await change(4);
  });

  it('removes failed jobs that the ledger has, and waits for those that it does not have', async () => {
    const { change, count, redis, shardsOf } = await aRelay();
    await change(2);
    const [, shard] = shardsOf(2);
    const failed = queueKey(shard!, 'failed');
    for (const [id, buried] of [
      ['a', '2'],
      ['b', '1'],
    ] as const) {
      await redis.zadd(failed, 1, id);
      await redis.hset(jobKey(shard!, id), { ats: '2', atm: '2', buried, progress: '{"gateway":"primary"}' });
    }
    const left: LeftInShards[] = [];
    await change(4, (now) => {
      left.push(now);
      // As a worker that has committed the row.
      void redis.hset(jobKey(shard!, 'b'), 'buried', '2');
    });
    expect(left).to.deep.equal([{ size: 0, inFlight: 0, failed: 1 }]);
    expect(await redis.exists(failed, jobKey(shard!, 'a'), jobKey(shard!, 'b'))).to.equal(0);
    expect(await count()).to.equal(4);
  });

  it('that cannot close one shard leaves none closed, however late another one was', async () => {
    const { config, redis, shardsOf, change, marks } = await aRelay();
    await change(2);
    const [refusing, late] = shardsOf(2).map((shard) => shardsKey(shard));
    const failing = writingBy(redis, async (write, key, after) => {
      if (key === refusing && isClosed(after)) throw new Error('Connection is closed.');
      if (key === late && isClosed(after)) await sleep(2_000);
      return await write();
    });
    const failure = await failureOf(
      createShards(config, failing).change(4, {
        who: 'ada',
        onLeft: () => undefined,
        signal: AbortSignal.timeout(9_000),
      }),
    );
    expect(failure).to.have.property('code', 'queue_unavailable');
    expect(await marks(2)).to.deep.equal(['2', '2']);
  }).timeout(15_000);
});

function paymentOf(shard: number, count: number) {
  for (;;) {
    const payment = aPayment();
    if (shardOf(payment.correlationId, count) === shard) return payment;
  }
}
