import { expect } from 'chai';
import calculateSlot from 'cluster-key-slot';
import { paymentQueues, shardOf } from '../../../src/queue/shards.ts';

describe('queue/shards', () => {
  const name = 'payments';

  it('keeps the keys of a relay without shards', () => {
    const home = { name, prefix: '{payrelay}' };
    expect(paymentQueues({ name, shards: 1 })).to.deep.equal({ home, shards: [home] });
  });

  it('puts each shard into its own part of the slots of a cluster', () => {
    for (const shards of [2, 3, 4, 64, 256]) {
      const { home, shards: queues } = paymentQueues({ name, prefix: '{relay-2}', shards });
      expect(home.prefix).to.equal('{relay-2}');
      const parts = queues.map(({ prefix }) =>
        Math.floor((calculateSlot(`${prefix}:payments:wait`) * shards) / 16_384),
      );
      expect(parts).to.deep.equal([...queues.keys()]);
      for (const [index, { prefix }] of queues.entries())
        expect(prefix).to.match(new RegExp(`^\\{relay-2\\.${index}\\.\\d+\\}$`));
    }
  });

  it('spreads ids over all shards, and keeps each in its own', () => {
    const counts = [0, 0, 0, 0];
    for (let number = 0; number < 4_000; number += 1) {
      const id = `00000000-0000-4000-8000-${String(number).padStart(12, '0')}`;
      counts[shardOf(id, 4)]! += 1;
      expect(shardOf(id, 1)).to.equal(0);
    }
    for (const count of counts) expect(count).to.be.within(850, 1_150);
    // CRC-32 of the text: a number that must never change while payments are queued.
    expect(shardOf('4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3', 1_000_000)).to.equal(235_907);
    expect(shardOf(undefined, 4)).to.equal(0);
  });
});
