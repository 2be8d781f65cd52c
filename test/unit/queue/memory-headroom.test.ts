import { expect } from 'chai';
import type { Redis } from 'ioredis';
import sinon from 'sinon';
import { createMemoryHeadroom } from '../../../src/queue/memory-headroom.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const MB = 1024 * 1024;

/** A Redis with this memory, under a clock of the test's own. */
function stage(memory: { used: number; max: number } | Error) {
  const clock = sinon.useFakeTimers();
  atTestEnd(() => clock.restore());
  const redis = {
    looks: 0,
    memory,
    async eval() {
      redis.looks += 1;
      if (redis.memory instanceof Error) throw redis.memory;
      return `used_memory:${redis.memory.used}\r\nmaxmemory:${redis.memory.max}\r\nmaxmemory_policy:noeviction\r\n`;
    },
  };
  return { clock, redis, headroom: createMemoryHeadroom({ redis: redis as unknown as Redis, key: 'k' }) };
}

describe('createMemoryHeadroom', () => {
  it('keeps a tenth of the maxmemory free', async () => {
    const { headroom } = stage({ used: 89 * MB, max: 100 * MB });
    expect(await headroom.shortageFor(MB / 2)).to.equal(undefined);
    expect(await headroom.shortageFor(MB / 2)).to.equal(undefined);
    expect(await headroom.shortageFor(2 * MB)).to.match(/maxmemory/);
  });

  it('allows everything without a maxmemory', async () => {
    const { headroom } = stage({ used: 89 * MB, max: 0 });
    expect(await headroom.shortageFor(50 * MB)).to.equal(undefined);
  });

  it('allows everything without the right to read the memory', async () => {
    const { headroom } = stage(new Error('NOPERM'));
    expect(await headroom.shortageFor(50 * MB)).to.equal(undefined);
  });

  it('looks once for every megabyte that is added', async () => {
    const { headroom, redis } = stage({ used: 0, max: 1_000 * MB });
    for (let added = 0; added < 10_000; added += 1) await headroom.shortageFor(1024);
    expect(redis.looks).to.be.within(9, 11);
  });

  it('looks ten times a second while Redis is full, and allows payments again when the worker has made room', async () => {
    const { clock, headroom, redis } = stage({ used: 95 * MB, max: 100 * MB });
    for (let ms = 0; ms < 1_000; ms += 10) {
      expect(await headroom.shortageFor(1024)).to.match(/maxmemory/);
      await clock.tickAsync(10);
    }
    expect(redis.looks).to.be.within(9, 11);
    redis.memory = { used: 50 * MB, max: 100 * MB };
    await clock.tickAsync(100);
    expect(await headroom.shortageFor(1024)).to.equal(undefined);
  });
});
