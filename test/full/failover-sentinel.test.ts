import { expect } from 'chai';
import type { ManagedServer } from '../../dev/local/processes.ts';
import { type RedisSentinel, startRedisSentinel } from '../../dev/local/redis-sentinel.ts';
import { epochKey } from '../../src/queue/bullmq-layout.ts';
import { paymentQueue } from '../../src/queue/payment-queue.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { ACCEPTED_AGAIN_MS, expectFirstWritesToWait, startFailoverStack } from '../support/failover.ts';
import { aPayment, eventually, testRedis } from '../support/relay.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { PATIENCE_MS, sends, startTestStack, type TestProcess, type TestStack } from '../support/stack.ts';

/** An unresolved payment pauses for 30 s at most. */
const SETTLED_MS = 2 * PATIENCE_MS;

/** Whatever was certainly not sent to the primary goes to the fallback. */
const EAGER = { DURABILITY: 'replica', FALLBACK_ON: 'not_sent' };

async function aTopology(): Promise<RedisSentinel> {
  const topology = await startRedisSentinel();
  atTestEnd(topology.dispose);
  return topology;
}

async function underLoad() {
  const topology = await aTopology();
  const stack = await startFailoverStack(topology);
  const stopLoad = stack.startLoad();
  await stack.underLoad();
  return {
    ...stack,
    topology,
    /** API nodes accept and workers go on by themselves. After the load every guarantee was kept. */
    async expectGuarantees(): Promise<void> {
      await accepting(stack);
      const { paidMs } = await stack.timeToGoOn();
      expect(paidMs).to.be.below(ACCEPTED_AGAIN_MS);
      await stopLoad();
      stack.calmDown();
      await stack.settled(SETTLED_MS);
    },
  };
}

/** Resolves when every API node has accepted a payment. Until then it responds 503. */
async function accepting({ post, apis }: Pick<TestStack, 'post' | 'apis'>): Promise<void> {
  const accepts = async (api: TestProcess) => {
    const status = await post(aPayment(), api);
    expect(status).to.be.oneOf([204, 503]);
    return status === 204;
  };
  await Promise.all(apis.map((api) => eventually(() => accepts(api), ACCEPTED_AGAIN_MS)));
}

/** Since when the server has the queue, as a worker has noted it. */
const epoch = ({ redis }: Pick<TestStack, 'redis'>) =>
  redis.hget(epochKey(paymentQueue({ name: 'payments' })), 'since');

/** A busy replica confirms late. @returns the id */
async function postUntilAccepted({ post }: Pick<TestStack, 'post'>): Promise<string> {
  const payment = aPayment();
  await eventually(async () => (await post(payment)) === 204, PATIENCE_MS);
  return payment.correlationId;
}

async function moved({ topology }: { topology: RedisSentinel }, from: ManagedServer): Promise<void> {
  await eventually(async () => (await topology.primaryUrl()) !== from.url, PATIENCE_MS);
}

/** Resolves when a server other than this one says that it is a primary. The sentinels learn of it later. */
async function promoted({ servers }: RedisSentinel, from: ManagedServer): Promise<void> {
  const others = await Promise.all(servers.filter((server) => server !== from).map(({ url }) => testRedis(url)));
  // The sentinels close the connections of a server when they promote it.
  for (const redis of others) redis.on('error', () => {});
  await eventually(async () => {
    const replies = await Promise.all(others.map((redis) => redis.info('replication')));
    return replies.some((reply) => reply.includes('role:master'));
  }, PATIENCE_MS);
}

describe('failover by Sentinel', function () {
  this.timeout(3 * PATIENCE_MS);

  sideBySide(
    {
      'primary hung: another one takes its place, and when it goes on nothing is lost': async () => {
        const stack = await underLoad();
        const hung = await stack.topology.primary();
        hung.signal('SIGSTOP');
        await moved(stack, hung);
        await accepting(stack);
        await stack.timeToGoOn();
        hung.signal('SIGCONT');
        const redis = await testRedis(hung.url);
        await redis.ping();
        await stack.expectGuarantees();
      },

      // The old primary accepts writes again, while the other replica still follows it.
      'primary hung until a replica is promoted: nothing is lost': async () => {
        const stack = await underLoad();
        const hung = await stack.topology.primary();
        hung.signal('SIGSTOP');
        await promoted(stack.topology, hung);
        hung.signal('SIGCONT');
        await moved(stack, hung);
        await stack.expectGuarantees();
      },

      'primary cut from its replicas and lost with its disk: each 204 is paid once, and workers go on': async () => {
        const stack = await underLoad();
        const { topology, post } = stack;
        await topology.cutReplicas();
        await eventually(async () => (await post()) === 503, PATIENCE_MS);
        await topology.losePrimary();
        await stack.expectGuarantees();
      },

      // Shows that the test before can fail.
      'the same with DURABILITY=disk: payments are lost': async () => {
        const topology = await aTopology();
        const stack = await startFailoverStack(topology, { workers: 0, env: { DURABILITY: 'disk' } });
        await topology.cutReplicas();
        const ids = await stack.postMany(20);
        expect([...stack.accepted]).to.have.members(ids);
        await topology.losePrimary();
        await accepting(stack);
        stack.calmDown();
        await stack.startWorker();
        expect((await stack.breachesAtRest(SETTLED_MS)).lost).to.have.members(ids);
      },

      'primary moved by an operator: nothing is lost or paid twice': async () => {
        const stack = await underLoad();
        const before = await stack.topology.primary();
        await stack.topology.moveAway();
        expect(await stack.topology.primary()).to.not.equal(before);
        await stack.expectGuarantees();
      },

      'primary killed and started again at once with its disk: nothing is lost or paid twice': async () => {
        const stack = await underLoad();
        await stack.topology.restartPrimary();
        await stack.expectGuarantees();
      },

      // If the lost server's copy had been sent, the fallback would pay the payment a second time.
      'payment that no replica has confirmed: it is not sent, and it is paid once when it is posted again':
        async () => {
          const topology = await aTopology();
          const stack = await startTestStack({ topology, apis: 2, workers: 2, through: ['primary'], env: EAGER });
          const { primary, fallback, proxies, apis, workers, post, accepted } = stack;
          await stack.postMany(10);
          await stack.settled();
          const before = await epoch(stack);
          // What is sent from now on is charged, and its response is lost.
          await proxies.primary.set({ kind: 'cut_replies' });
          await topology.cutReplicas();
          const payment = aPayment();
          expect(await Promise.all(apis.map((api) => post(payment, api)))).to.deep.equal([503, 503]);
          await eventually(() => workers.some((worker) => worker.hasLogged({ code: 'not_confirmed' })), PATIENCE_MS);
          await topology.losePrimary();
          await proxies.primary.set({ kind: 'refuse' });
          await accepting(stack);
          await eventually(async () => (await epoch(stack)) !== before, PATIENCE_MS);
          expect(sends(primary, [payment.correlationId])).to.deep.equal([0]);
          expect(await post(payment)).to.equal(204);
          await fallback.waitFor(({ payments }) => payments.has(payment.correlationId), PATIENCE_MS);
          await proxies.primary.set({ kind: 'none' });
          const books = await stack.settled();
          expect(books.primary.size + books.fallback.size).to.equal(accepted.size);
        },

      'payments accepted before a failover: they never go to the fallback, later ones do': async () => {
        const topology = await aTopology();
        const stack = await startTestStack({ topology, workers: 0, through: ['primary'], env: EAGER });
        const { primary, fallback, proxies, accepted, countQueue } = stack;
        const first = await stack.startWorker();
        const [known] = await stack.postMany(1);
        await primary.waitFor(({ payments }) => payments.has(known!), PATIENCE_MS);
        await eventually(stack.isQueueEmpty, PATIENCE_MS);
        await first.stop();
        await stack.postMany(10);
        await topology.losePrimary();
        await accepting(stack);
        const early = [...accepted].filter((id) => id !== known);
        await proxies.primary.set({ kind: 'refuse' });
        await stack.startWorker();
        await eventually(async () => (await epoch(stack)) !== '0', PATIENCE_MS);
        const late = await Promise.all(Array.from({ length: 10 }, () => postUntilAccepted(stack)));
        await fallback.waitFor(({ payments }) => late.every((id) => payments.has(id)), PATIENCE_MS);
        await eventually(async () => {
          const { size, inFlight } = await countQueue();
          return size + inFlight === early.length;
        }, PATIENCE_MS);
        await proxies.primary.set({ kind: 'none' });
        const books = await stack.settled();
        expect([...books.primary.keys()]).to.have.members([known, ...early]);
        expect([...books.fallback.keys()]).to.have.members(late);
      },

      'a replica does not follow when a process connects first: what the other confirms counts after 5 s': async () => {
        await expectFirstWritesToWait(await aTopology());
      },
    },
    { atOnce: 2 },
  );
});
