import { expect } from 'chai';
import { startRedisCluster } from '../../dev/local/redis-cluster.ts';
import { atTestEnd } from '../support/cleanup.ts';
import {
  ACCEPTED_AGAIN_MS,
  expectFirstWritesToWait,
  type FailoverStack,
  startFailoverStack,
} from '../support/failover.ts';
import { eventually } from '../support/relay.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { PATIENCE_MS, sends } from '../support/stack.ts';

/** Payments that found no connection of the pool come back after up to 30 s. */
const SETTLED_MS = 60_000;

async function aCluster() {
  const cluster = await startRedisCluster();
  atTestEnd(() => cluster.dispose());
  return cluster;
}

async function expectToGoOn({ timeToGoOn }: FailoverStack): Promise<void> {
  const { acceptedMs, paidMs } = await timeToGoOn();
  expect(acceptedMs).to.be.below(ACCEPTED_AGAIN_MS);
  expect(paidMs).to.be.below(ACCEPTED_AGAIN_MS);
}

/** Ends the load. Every guarantee was kept. */
async function expectSettled({ calmDown, settled }: FailoverStack, stopLoad: () => Promise<void>): Promise<void> {
  await stopLoad();
  calmDown();
  await settled(SETTLED_MS);
}

describe('a Redis Cluster', function () {
  this.timeout(3 * PATIENCE_MS);

  sideBySide(
    {
      'loses the master of the queue with its disk, its replicas cut before: each 204 is paid once': async () => {
        const cluster = await aCluster();
        const stack = await startFailoverStack(cluster);
        const stopLoad = stack.startLoad();
        await stack.underLoad();
        await cluster.cutReplicas();
        // This Redis stores them, but the next one will not know them. A worker that sent them now would pay them twice.
        const forgotten = await stack.postMany(40);
        await stack.postMany(40);
        expect(forgotten.filter((id) => stack.accepted.has(id))).to.deep.equal([]);
        for (const gateway of [stack.primary, stack.fallback]) {
          expect(Math.max(...sends(gateway, forgotten))).to.equal(0);
        }
        await cluster.losePrimary();
        await cluster.healReplicas();
        await expectToGoOn(stack);
        await Promise.all(forgotten.map((id) => stack.postAgain(id)));
        expect(forgotten.filter((id) => !stack.accepted.has(id))).to.deep.equal([]);
        await expectSettled(stack, stopLoad);
      },

      // This proves that the test above can fail.
      'loses payments in the same way when DURABILITY=disk': async () => {
        const cluster = await aCluster();
        const stack = await startFailoverStack(cluster, { workers: 0, env: { DURABILITY: 'disk' } });
        await stack.postMany(20);
        await eventually(cluster.isCopied, PATIENCE_MS);
        await cluster.cutReplicas();
        const lost = await stack.postMany(20);
        expect(stack.accepted.size).to.equal(40);
        await cluster.losePrimary();
        await cluster.healReplicas();
        await eventually(async () => (await stack.post()) === 204, PATIENCE_MS);
        stack.calmDown();
        await stack.startWorker();
        expect((await stack.breachesAtRest()).lost).to.have.members(lost);
      },

      'is told to fail over, and its master restarts with its disk: each 204 is paid once': async () => {
        const cluster = await aCluster();
        const stack = await startFailoverStack(cluster);
        const stopLoad = stack.startLoad();
        await stack.underLoad();
        await cluster.moveAway();
        await expectToGoOn(stack);
        await cluster.restartPrimary();
        await expectToGoOn(stack);
        await expectSettled(stack, stopLoad);
      },

      'moves the slot of the queue to another master: API and workers follow': async () => {
        const cluster = await aCluster();
        const stack = await startFailoverStack(cluster);
        await stack.postMany(5);
        await eventually(stack.isQueueEmpty, PATIENCE_MS);
        await cluster.moveSlot();
        await expectToGoOn(stack);
        const stopLoad = stack.startLoad();
        await stack.underLoad();
        await cluster.moveSlot();
        await expectToGoOn(stack);
        await expectSettled(stack, stopLoad);
      },

      'has a master that hangs and comes back as a replica: each 204 is paid once': async () => {
        const cluster = await aCluster();
        const stack = await startFailoverStack(cluster);
        const stopLoad = stack.startLoad();
        await stack.underLoad();
        const hung = await cluster.primary();
        hung.signal('SIGSTOP');
        await expectToGoOn(stack);
        hung.signal('SIGCONT');
        await cluster.mend();
        await expectToGoOn(stack);
        await expectSettled(stack, stopLoad);
      },

      'has a replica that does not follow when a process connects first: what the other confirms counts after 5 s':
        async () => {
          await expectFirstWritesToWait(await aCluster());
        },
    },
    { atOnce: 1 },
  );
});
