import { expect } from 'chai';
import { queueKey, shardsKey } from '../../src/queue/bullmq-layout.ts';
import { createShardCount } from '../../src/queue/shard-count.ts';
import { paymentQueues } from '../../src/queue/shards.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { recordingLogger } from '../support/logger.ts';
import { eventually, testRedis } from '../support/relay.ts';
import { freshPrefix } from '../support/services.ts';

/** A relay's number of shards as processes claim it. */
async function aRelay() {
  const redis = await testRedis();
  const prefix = freshPrefix();
  const queuesOf = (shards: number) => paymentQueues({ name: 'payments', prefix, shards });
  return {
    redis,
    queuesOf,
    home: queuesOf(1).home,
    written: () => redis.get(shardsKey(queuesOf(1).home)),
    /** Resolves when the process has looked. */
    async claim(shards: number) {
      const { logger } = recordingLogger();
      const count = createShardCount({ redis, queues: queuesOf(shards), logger });
      atTestEnd(() => count.close());
      await eventually(async () => count.fault?.code !== 'not_checked');
      return count;
    },
  };
}

describe('the number of shards', () => {
  it('is that of the first process, and another one has a fault until it fits', async () => {
    const relay = await aRelay();
    expect((await relay.claim(4)).fault).to.equal(undefined);
    expect(await relay.written()).to.equal('4');
    const written = await Promise.all(relay.queuesOf(4).shards.map((shard) => relay.redis.get(shardsKey(shard))));
    expect(written).to.deep.equal(['4', '4', '4', '4']);

    const other = await relay.claim(2);
    expect(other.fault).to.include({ code: 'other_shards' });
    await relay.redis.set(shardsKey(relay.home), '2');
    for (const shard of relay.queuesOf(2).shards) await relay.redis.set(shardsKey(shard), '2');
    await other.whenUsable();
    expect(other.fault).to.equal(undefined);
  });

  it('is 1 for a queue with payments of a version without shards', async () => {
    for (const [type, add] of [
      ['wait', 'rpush'],
      ['active', 'rpush'],
      ['paused', 'rpush'],
    ] as const) {
      const relay = await aRelay();
      await relay.redis[add](queueKey(relay.home, type), 'id');
      expect((await relay.claim(4)).fault, type).to.include({ code: 'other_shards' });
      expect((await relay.claim(1)).fault, type).to.equal(undefined);
    }
    for (const type of ['delayed', 'prioritized']) {
      const relay = await aRelay();
      await relay.redis.zadd(queueKey(relay.home, type), 1, 'id');
      expect((await relay.claim(4)).fault, type).to.include({ code: 'other_shards' });
    }
  });

  it('is a problem and no fault while the shards are closed, because workers must drain them', async () => {
    const relay = await aRelay();
    await relay.claim(4);
    await relay.redis.set(shardsKey(relay.queuesOf(4).shards[2]!), 'closed');
    const count = await relay.claim(4);
    expect(count.fault).to.equal(undefined);
    expect(count.problems.map(({ code }) => code)).to.deep.equal(['shards_closed']);
  });

  it('is 1 while the only shard is closed', async () => {
    const relay = await aRelay();
    await relay.claim(1);
    await relay.redis.set(shardsKey(relay.home), 'closed');
    expect((await relay.claim(1)).fault).to.equal(undefined);
    expect((await relay.claim(4)).fault).to.include({ code: 'other_shards' });
  });
});
