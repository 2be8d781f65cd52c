import { expect } from 'chai';
import { combineKnownChecks } from '../../../src/queue/queued-check.ts';
import { shardOf } from '../../../src/queue/shards.ts';

describe('whether payments of several shards are queued', () => {
  it('is known of those whose shard says so, while another one fails or does not reply', async () => {
    const ids = Array.from({ length: 60 }, (_, index) => `4a7901b8-7d26-4d9d-aa19-${String(index).padStart(12, '0')}`);
    const areQueued = combineKnownChecks([
      async (own) => own.map(() => true),
      () => Promise.reject(new Error('Connection is closed.')),
      () => new Promise(() => {}),
      async (own) => own.map(() => false),
    ]);
    const said = await areQueued(ids);
    const expected = [true, undefined, undefined, false];
    expect(said).to.deep.equal(ids.map((id) => expected[shardOf(id, 4)]));
  });
});
