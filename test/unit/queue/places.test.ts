import { expect } from 'chai';
import sinon from 'sinon';
import { createPlaces, type ShardPlaces } from '../../../src/queue/places.ts';
import { atTestEnd } from '../../support/cleanup.ts';

/** Whether the promise is settled after the promises that it depends on. */
async function isSettled(promise: unknown): Promise<boolean> {
  let settled = false;
  void Promise.resolve(promise).then(() => {
    settled = true;
  });
  for (let turn = 0; turn < 10; turn += 1) await Promise.resolve();
  return settled;
}

/** Takes these places, and uses them for runs. */
async function run(shard: ShardPlaces, ...tokens: string[]): Promise<void> {
  for (const token of tokens) {
    expect(await shard.take(token)).to.equal(true);
    await shard.use(token);
  }
}

describe('places', () => {
  it('never gives more than there are', async () => {
    const places = createPlaces(2);
    const [a, b] = [places.ofShard(), places.ofShard()];
    await run(a, '1', '2');
    const waits = b.take('1');
    expect(await isSettled(waits)).to.equal(false);
    a.giveBack('1');
    expect(await waits).to.equal(true);
    expect(await isSettled(a.take('3'))).to.equal(false);
  });

  it('lets a run fetch the next payment of its shard while no other shard waits', async () => {
    const places = createPlaces(1);
    const [a] = [places.ofShard(), places.ofShard()];
    await run(a, '1');
    void a.take('2');
    expect(a.mayFetchNext('1')).to.equal(true);
  });

  it('gives the place of a run that has ended to a shard with fewer', async () => {
    const places = createPlaces(2);
    const [a, b] = [places.ofShard(), places.ofShard()];
    await run(a, '1', '2');
    const waits = b.take('1');
    expect(a.mayFetchNext('1')).to.equal(false);
    expect(await waits).to.equal(true);
  });

  it('changes nothing between shards with equally many places', async () => {
    const places = createPlaces(2);
    const [a, b] = [places.ofShard(), places.ofShard()];
    await run(a, '1');
    await run(b, '1');
    void a.take('2');
    void b.take('2');
    expect([a.mayFetchNext('1'), b.mayFetchNext('1')]).to.deep.equal([true, true]);
  });

  it('gives one place to all shards by turns', async () => {
    const places = createPlaces(1);
    const shards = [places.ofShard(), places.ofShard(), places.ofShard()];
    const order: number[] = [];
    const work = async (shard: ShardPlaces, number: number) => {
      for (let fetch = 0; fetch < 3; fetch += 1) {
        await run(shard, `${fetch}`);
        order.push(number);
        await Promise.resolve();
        if (shard.mayFetchNext(`${fetch}`)) shard.giveBack(`${fetch}`);
      }
    };
    await Promise.all(shards.map(work));
    expect(order).to.deep.equal([0, 1, 2, 0, 1, 2, 0, 1, 2]);
  });

  it('takes a place away that has rested for long, when another shard waits for one', async () => {
    const clock = sinon.useFakeTimers();
    atTestEnd(() => clock.restore());
    const places = createPlaces(2);
    const [a, b] = [places.ofShard(), places.ofShard()];
    await run(a, '1', '2');
    a.rest('1');
    const waits = b.take('1');
    await clock.tickAsync(400);
    expect(await isSettled(waits)).to.equal(false);
    await clock.tickAsync(1_000);
    expect(await waits).to.equal(true);
    await b.use('1');

    // The payment whose place it was waits for another, and goes before one that is not fetched yet.
    const goesOn = a.use('1');
    void a.take('3');
    expect(a.mayFetchNext('2')).to.equal(false);
    await goesOn;
    // A run that uses its place keeps it, however long it takes.
    const late = b.take('2');
    await clock.tickAsync(60_000);
    expect(await isSettled(late)).to.equal(false);
  });

  it('lets a payment without a place end its run and fetch nothing', async () => {
    const places = createPlaces(1);
    const a = places.ofShard();
    expect(a.mayFetchNext('1')).to.equal(false);
    a.rest('1');
    a.giveBack('1');
    await run(a, '2');
    expect(await isSettled(a.take('3'))).to.equal(false);
  });

  it('ends the waits of fetches, and not those of payments', async () => {
    const places = createPlaces(1);
    const [a, b] = [places.ofShard(), places.ofShard()];
    await run(b, '1');
    const [fetch, payment] = [a.take('1'), a.use('2')];
    expect(a.isWaiting).to.equal(true);
    a.endWaits();
    expect(await fetch).to.equal(false);
    expect(a.isWaiting).to.equal(false);
    expect(await isSettled(payment)).to.equal(false);
    b.giveBack('1');
    await payment;
  });
});
