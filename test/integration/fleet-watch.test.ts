import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import { loadConfig } from '../../src/config.ts';
import { fleetKey, probeKey } from '../../src/queue/bullmq-layout.ts';
import { type OtherWorker, watchFleet } from '../../src/queue/fleet-watch.ts';
import { createWorkerConnection } from '../../src/queue/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { recordingLogger } from '../support/logger.ts';
import { eventually, testRedis } from '../support/relay.ts';
import { freshPrefix, sharedRedis } from '../support/services.ts';

/** Workers over this Redis that say what `say` returns. */
async function fleetOf(count: number, { url }: { url?: string } = {}) {
  const queue = { name: 'payments', prefix: freshPrefix() };
  const { redis: config } = loadConfig({
    REDIS_URL: url ?? (await sharedRedis()).url,
    DATABASE_URL: 'postgres://localhost/none',
  });
  const start = (name: string) => {
    const redis = createWorkerConnection(config);
    redis.on('error', () => {});
    let heard: readonly OtherWorker[] | undefined;
    const { logger } = recordingLogger();
    const watch = watchFleet({
      ...{ redis, queue, logger },
      workerId: randomUUID(),
      report: () => name,
      isDown: () => true,
      onHeard: (others) => {
        heard = others;
      },
    });
    atTestEnd(() => redis.disconnect());
    atTestEnd(() => watch.close());
    return { watch, redis, said: () => heard?.map(({ text }) => text) };
  };
  const workers = Array.from({ length: count }, (_, index) => start(`worker ${index}`));
  await eventually(() => workers.every(({ watch }) => watch.standing?.workers === count));
  return { queue, workers, start };
}

describe('the watch of a fleet', () => {
  it('tells every worker what the others say, and gives each a place of its own among them', async () => {
    const { workers } = await fleetOf(3);
    expect(workers[0]!.said()).to.have.members(['worker 1', 'worker 2']);
    expect(workers.map(({ watch }) => watch.standing!.rank)).to.have.members([0, 1, 2]);
  });

  it('forgets a worker at once when it ends in order', async () => {
    const { workers } = await fleetOf(2);
    await workers[1]!.watch.close();
    await eventually(() => workers[0]!.watch.standing?.workers === 1, 1_000);
  });

  it('forgets a worker that was killed once it has been silent for five seconds', async () => {
    const { workers } = await fleetOf(2);
    workers[1]!.redis.disconnect();
    await eventually(() => workers[0]!.watch.standing?.workers === 1, 8_000);
  });

  it('has no right to ask for while there is only one worker', async () => {
    const { workers } = await fleetOf(1);
    const right = workers[0]!.watch.probeRight('primary');
    expect(right.hasOthers).to.equal(false);
    expect(right.ask(500)).to.equal(undefined);
  });

  it('gives the right to one worker, and to another one after the pause', async () => {
    const { workers } = await fleetOf(2);
    const [a, b] = workers.map(({ watch }) => watch.probeRight('primary')) as [
      ReturnType<(typeof workers)[0]['watch']['probeRight']>,
      ReturnType<(typeof workers)[0]['watch']['probeRight']>,
    ];
    expect(await a.ask(10_000)).to.include({ kind: 'granted', newSentAgoMs: Number.POSITIVE_INFINITY });
    const held = await b.ask(10_000);
    expect(held).to.include({ kind: 'held' });
    expect(held).to.have.property('forMs').within(5_000, 10_000);
    a.tell({ sentNew: true });
    a.tell({ notTaken: true });
    a.tell({ pauseMs: 100 });
    const granted = await eventually(async () => {
      const answer = await b.ask(10_000);
      return answer?.kind === 'granted' && answer;
    }, 2_000);
    expect(granted).to.include({ newNotTaken: 1 });
    expect(granted).to.have.property('newSentAgoMs').within(90, 2_000);
    expect((await workers[0]!.watch.probeRight('fallback').ask(100))!.kind, 'at the other gateway').to.equal('granted');
  });

  it('does not shorten the pause of another worker, and takes the right back from nobody', async () => {
    const { workers, queue } = await fleetOf(2);
    const [a, b] = workers.map(({ watch }) => watch.probeRight('primary'));
    await a!.ask(10_000);
    b!.tell({ pauseMs: 0 });
    b!.tell({ pauseMs: 200 });
    await b!.ask(10_000);
    const redis = await testRedis();
    expect(await redis.pttl(probeKey(queue, 'primary'))).to.be.above(5_000);
    a!.end();
    await eventually(async () => (await redis.exists(probeKey(queue, 'primary'))) === 0);
  });

  it('says soon that it does not know when Redis hangs, and keeps what it knew of the others', async function () {
    this.timeout(20_000);
    const server = await startRedis();
    atTestEnd(server.dispose);
    const { workers } = await fleetOf(2, { url: server.url });
    process.kill(server.pid, 'SIGSTOP');
    atTestEnd(() => process.kill(server.pid, 'SIGCONT'));
    const askedAtMs = performance.now();
    expect(await workers[0]!.watch.probeRight('primary').ask(500)).to.deep.equal({ kind: 'unknown' });
    expect(performance.now() - askedAtMs).to.be.below(1_000);
    expect(workers[0]!.watch.standing?.workers).to.equal(2);
    process.kill(server.pid, 'SIGCONT');
    await eventually(async () => (await workers[0]!.watch.probeRight('primary').ask(500))?.kind === 'granted');
  });

  it('gives the right back that Redis granted too late, and no pause', async function () {
    this.timeout(20_000);
    const server = await startRedis();
    atTestEnd(server.dispose);
    const { workers, queue } = await fleetOf(2, { url: server.url });
    const [a, b] = workers.map(({ watch }) => watch.probeRight('primary'));
    process.kill(server.pid, 'SIGSTOP');
    atTestEnd(() => process.kill(server.pid, 'SIGCONT'));
    expect(await a!.ask(60_000)).to.deep.equal({ kind: 'unknown' });
    process.kill(server.pid, 'SIGCONT');
    await eventually(async () => (await b!.ask(60_000))?.kind === 'granted', 5_000);
    b!.tell({ pauseMs: 30_000 });
    b!.tell({ pauseMs: 0 });
    await b!.ask(60_000);
    const redis = await testRedis(server.url);
    expect(await redis.pttl(probeKey(queue, 'primary'))).to.be.within(20_000, 30_000);
  });

  it("removes a worker that spoke in the future of Redis' clock", async () => {
    const { workers, queue } = await fleetOf(2);
    const redis = await testRedis();
    await redis.hset(fleetKey(queue), 'dead', `${Date.now() + 60_000} worker of another master`);
    await eventually(async () => (await redis.hexists(fleetKey(queue), 'dead')) === 0, 2_000);
    expect(workers[0]!.watch.standing?.workers).to.equal(2);
  });

  it('keeps the last standing while a full Redis takes no notes, and hears all the same', async () => {
    const server = await startRedis();
    atTestEnd(server.dispose);
    const { workers, queue } = await fleetOf(2, { url: server.url });
    const redis = await testRedis(server.url);
    await redis.config('SET', 'maxmemory', '1');
    await redis.hdel(fleetKey(queue), ...(await redis.hkeys(fleetKey(queue))));
    await eventually(() => workers[0]!.said()?.length === 0);
    expect(workers[0]!.watch.standing?.workers).to.equal(2);
    await redis.config('SET', 'maxmemory', '0');
    await eventually(() => workers[0]!.said()?.length === 1);
  });
});
