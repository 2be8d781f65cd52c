import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { createTcpProxy, type ProxyFault } from '../../dev/tcp-proxy.ts';
import { NEW_PROBE_EVERY_MS } from '../../src/gateways/probes.ts';
import { fleetKey } from '../../src/queue/bullmq-layout.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { eventually, type TestEnv, testWorker } from '../support/relay.ts';
import { type Arrival, accept, hang, type Reply, respond } from '../support/scripted-gateway.ts';
import { type ScriptedRelay, scriptedRelay } from '../support/scripted-relay.ts';
import { sideBySide } from '../support/side-by-side.ts';

const WORKERS = 8;

const PRIMARY_ONLY = { FALLBACK_ON: 'pool_timeout', FALLBACK_AFTER_MS: 'never', PAYMENT_QUEUE_MAX_CONCURRENCY: '8' };

/** From a failed probe to the next one (worker.ts). */
const PROBE_INTERVAL_MS = 200;

/** How long the probes of a failing gateway are counted. */
const COUNTED_MS = 3_000;

/** After so long every request from before the circuits opened has ended. */
const SETTLED_MS = 1_500;

const UNAVAILABLE: Reply = (arrival, gateway) => setTimeout(() => respond(503)(arrival, gateway), 20);

/** Starts workers that reach the primary on a path of their own each, so that the gateway can tell them apart. */
async function startWorkers(relay: ScriptedRelay, env: TestEnv, count = WORKERS) {
  const settings = {
    DATABASE_URL: relay.databaseUrl,
    GATEWAY_FALLBACK_URL: relay.fallback.url,
    GATEWAY_EMPTY_500: 'unknown',
    ...env,
  };
  const start = (_: unknown, index: number) =>
    testWorker({ GATEWAY_PRIMARY_URL: `${relay.primary.url}/worker${index}`, ...settings }, relay.prefix);
  return Promise.all(Array.from({ length: count }, start));
}

const workerOf = ({ request }: Arrival) => request.url!.split('/')[1]!;

interface Problem {
  readonly code: string;
  readonly cause: string;
}

async function problemsOf({ url }: ScriptedRelay): Promise<readonly Problem[]> {
  const health = (await (await fetch(`${url}/health`)).json()) as { problems?: readonly Problem[] };
  return health.problems ?? [];
}

const problem = async (relay: ScriptedRelay, code: string) =>
  (await problemsOf(relay)).find((each) => each.code === code);

/** Resolves when the primary is down for all workers. */
function downEverywhere(relay: ScriptedRelay): Promise<unknown> {
  return eventually(async () => {
    const down = await problem(relay, 'primary_down');
    return down !== undefined && !down.cause.includes('workers)');
  }, 10_000);
}

/** What came to the primary from now on. */
async function arrivalsOf({ primary }: ScriptedRelay, ms: number): Promise<readonly Arrival[]> {
  const before = primary.posts.length;
  await sleep(ms);
  return primary.posts.slice(before);
}

/** One of eight workers reaches the gateway through a door. Payments come all the time while the door is closed. */
async function expectNamed(fault: ProxyFault): Promise<void> {
  const env = { ...PRIMARY_ONLY, GATEWAY_RECEIVE_TIMEOUT_MS: '300' };
  const relay = await scriptedRelay(env);
  const door = await createTcpProxy(relay.primary.port);
  atTestEnd(() => door.close());
  await startWorkers(relay, env, WORKERS - 1);
  await startWorkers(relay, { ...env, GATEWAY_PRIMARY_URL: `http://127.0.0.1:${door.port}/door` }, 1);
  const throughDoor = () => relay.primary.posts.filter((arrival) => workerOf(arrival) === 'door').length;
  let isOver = false;
  const ids: string[] = [];
  const load = (async () => {
    while (!isOver) {
      ids.push(await relay.post());
      await sleep(10);
    }
  })();
  await eventually(() => throughDoor() > 0);
  await door.set(fault);
  const alone = await eventually(() => problem(relay, 'worker_alone'), 20_000);
  expect(alone.cause).to.include(`worker ${process.pid} at `);
  expect(await problem(relay, 'primary_down')).to.equal(undefined);
  // What waited in this worker has gone back, and the others pay it, after the usual pauses of some seconds.
  await relay.recorded([...ids], 12_000);
  await door.set({ kind: 'none' });
  const before = throughDoor();
  await eventually(async () => (await problem(relay, 'worker_alone')) === undefined, 15_000);
  await eventually(() => throughDoor() > before + 5, 10_000);
  isOver = true;
  await load;
  await relay.recorded(ids);
  await relay.expectTrueBooks();
}

describe('eight workers', function () {
  this.timeout(60_000);
  sideBySide(
    {
      'send one probe at a time to a gateway that fails, by turns, and go on together when it recovers': async () => {
        const relay = await scriptedRelay(PRIMARY_ONLY);
        relay.primary.onPayment = () => UNAVAILABLE;
        const ids = await relay.postMany(100);
        await startWorkers(relay, PRIMARY_ONLY);
        await downEverywhere(relay);
        await sleep(SETTLED_MS);
        const probes = await arrivalsOf(relay, COUNTED_MS);
        expect(probes.length).to.be.within(5, COUNTED_MS / PROBE_INTERVAL_MS + 1);
        for (const [index, { atMs }] of probes.slice(1).entries()) {
          // The pause begins when the failure has come back, so the gateway sees a little more than the interval.
          expect(atMs - probes[index]!.atMs).to.be.at.least(PROBE_INTERVAL_MS - 20);
        }
        expect(new Set(probes.map(workerOf)).size, 'workers that have probed').to.be.at.least(4);

        relay.primary.onPayment = () => undefined;
        const recoveredAtMs = performance.now();
        await eventually(() => relay.primary.onRecord.size > 0, 3_000);
        expect(performance.now() - recoveredAtMs).to.be.below(1_000);
        await relay.recorded(ids, 35_000);
        await relay.expectTrueBooks();
      },
      'do not tie eight times as many payments to a gateway that hangs': async () => {
        const env = { ...PRIMARY_ONLY, FALLBACK_AFTER_MS: '60000', GATEWAY_RECEIVE_TIMEOUT_MS: '300' };
        const relay = await scriptedRelay(env);
        relay.primary.onPayment = () => hang;
        await relay.postMany(100);
        await startWorkers(relay, env);
        await downEverywhere(relay);
        await sleep(SETTLED_MS);
        const known = new Set(relay.primary.posts.map(({ correlationId }) => correlationId));
        const newOnes = () =>
          new Set(relay.primary.posts.map((post) => post.correlationId).filter((id) => !known.has(id))).size;
        await eventually(() => newOnes() === 1, 15_000);
        await sleep(NEW_PROBE_EVERY_MS - 500);
        expect(newOnes(), 'new payments sent within five seconds').to.equal(1);
        await eventually(() => newOnes() === 2);
      },
      'know all that the circuit of one has opened, also those that have sent nothing': async () => {
        const relay = await scriptedRelay(PRIMARY_ONLY);
        relay.primary.onPayment = () => UNAVAILABLE;
        await startWorkers(relay, PRIMARY_ONLY, 1);
        await relay.postMany(4);
        await downEverywhere(relay);
        await startWorkers(relay, PRIMARY_ONLY, WORKERS - 1);
        await downEverywhere(relay);
        await sleep(SETTLED_MS);
        // The workers that took none of the four know it, too. So these payments wait.
        await relay.postMany(20);
        const probes = await arrivalsOf(relay, COUNTED_MS);
        expect(probes.length).to.be.at.most(COUNTED_MS / PROBE_INTERVAL_MS + 1);
      },
      'work on beside one whose connections are refused, which is named until it can pay again': () =>
        expectNamed({ kind: 'refuse' }),
      'work on beside one that gets no responses, which is named until it can pay again': () =>
        expectNamed({ kind: 'black_hole' }),
      'have no more requests under way than GATEWAY_MAX_IN_FLIGHT, and none falls back for it': async () => {
        const env = { ...PRIMARY_ONLY, GATEWAY_MAX_IN_FLIGHT: '10' };
        const relay = await scriptedRelay(env);
        let underWay = 0;
        let most = 0;
        relay.primary.onPayment = () => (arrival, gateway) => {
          underWay += 1;
          most = Math.max(most, underWay);
          setTimeout(() => {
            underWay -= 1;
            accept(arrival, gateway);
          }, 30);
        };
        await startWorkers(relay, env);
        const key = fleetKey({ name: 'payments', prefix: relay.prefix });
        await eventually(async () => (await relay.redis.hlen(key)) === WORKERS);
        await sleep(SETTLED_MS);
        const ids = await Promise.all(Array.from({ length: 200 }, () => relay.post()));
        await relay.recorded(ids);
        expect(most).to.be.within(5, 10);
        expect(relay.fallback.posts).to.have.length(0);
      },
    },
    { atOnce: 2 },
  );
});
