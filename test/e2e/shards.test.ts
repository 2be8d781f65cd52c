import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { shardOf } from '../../src/queue/shards.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { createIntermediary } from '../support/intermediary.ts';
import { eventually, type TestEnv } from '../support/relay.ts';
import { PATIENCE_MS, startTestStack } from '../support/stack.ts';

/** Places of each worker. */
const PLACES = 4;

const WORKERS = 2;

const COMMAND = fileURLToPath(new URL('../../src/commands/shards.ts', import.meta.url));

/** A gateway that loses every fifth response after the charge, and how many requests it has had at once. */
async function lossyGateway(primary: Awaited<ReturnType<typeof startTestStack>>['primary']) {
  const intermediary = await createIntermediary(primary.url, { recordRequests: false });
  atTestEnd(() => intermediary.close());
  intermediary.set({
    payments: { when: 'after', every: 5, response: (_request, response) => response.destroy() },
  });
  let most = 0;
  // It is called at each change, and rejects when the gateway closes.
  primary
    .waitFor(({ requests }) => {
      most = Math.max(most, requests.inFlight + requests.queued);
      return false;
    }, 10 * PATIENCE_MS)
    .catch(() => undefined);
  return { url: intermediary.url, calmDown: () => intermediary.set({}), most: () => most };
}

describe('a relay of several shards', function () {
  this.timeout(4 * PATIENCE_MS);

  it('pays each payment once, whichever API and worker have it, with no more at the gateway than places', async () => {
    const stack = await startTestStack({
      apis: 3,
      workers: 0,
      env: { QUEUE_SHARDS: '4', PAYMENT_QUEUE_MAX_CONCURRENCY: String(PLACES) },
      primary: { delayMs: 10 },
    });
    const { primary, accepted, postAgain, settled } = stack;
    const gateway = await lossyGateway(primary);
    for (let worker = 0; worker < WORKERS; worker += 1) await stack.startWorker({ GATEWAY_PRIMARY_URL: gateway.url });
    const stopLoad = stack.startLoad();
    await primary.waitFor(({ payments }) => payments.size > 200, PATIENCE_MS);
    const again = [...accepted].slice(-50);
    await Promise.all(again.map((id) => postAgain(id)));
    await primary.waitFor(({ payments }) => payments.size > 500, PATIENCE_MS);
    await stopLoad();
    gateway.calmDown();
    const books = await settled(2 * PATIENCE_MS);
    expect(books.primary.size + books.fallback.size).to.equal(accepted.size);
    expect(gateway.most()).to.be.within(PLACES + 1, WORKERS * PLACES);
    const shards = new Set([...accepted].map((id) => shardOf(id, 4)));
    expect(shards.size).to.equal(4);
  });

  it('goes from 1 to 4 and to 2 shards under load: each 204 is paid once, also when it is posted before and after', async () => {
    const stack = await startTestStack({
      apis: 0,
      workers: 0,
      env: { PAYMENT_QUEUE_MAX_CONCURRENCY: '8' },
      primary: { delayMs: 5 },
    });
    const { primary, accepted, redisUrl, databaseUrl } = stack;
    const gateway = await lossyGateway(primary);
    const changeTo = (count: number) =>
      promisify(execFile)(process.execPath, [COMMAND, '--to', String(count), '--reason', 'test'], {
        env: { ...process.env, REDIS_URL: redisUrl, DATABASE_URL: databaseUrl, DURABILITY: 'disk' },
      });
    let [apis, workers] = await start('1');
    await stack.post(undefined, apis[0]);
    const stopLoad = stack.startLoad();
    const postedBefore: string[] = [];
    for (const count of [4, 2]) {
      const paidBefore = primary.payments.size;
      await primary.waitFor(({ payments }) => payments.size > paidBefore + 100, PATIENCE_MS);
      postedBefore.push(...[...accepted].slice(-20));
      await changeTo(count);
      const old = [...apis, ...workers];
      await Promise.all(old.map(({ logged }) => logged({ code: 'other_shards' })));
      stack.useShards(count);
      [apis, workers] = await start(String(count));
      const acceptedBefore = accepted.size;
      await eventually(() => accepted.size > acceptedBefore + 50, PATIENCE_MS);
      await Promise.all(old.map((service) => service.stop()));
      for (const id of postedBefore) expect(await stack.postAgain(id, apis[0])).to.equal(204);
    }
    await stopLoad();
    gateway.calmDown();
    // A process with another number of shards logs an error, so `settled` would fail.
    const breaches = await stack.breachesAtRest(2 * PATIENCE_MS);
    expect(breaches).to.deep.equal({ lost: [], paidTwice: [], unrecorded: [], unpaid: [], phantom: [] });
    const recorded = await stack.recorded();
    expect(recorded.primary.size + recorded.fallback.size).to.be.at.least(accepted.size);

    async function start(count: string) {
      const env: TestEnv = { QUEUE_SHARDS: count, GATEWAY_PRIMARY_URL: gateway.url };
      return await Promise.all([
        Promise.all([stack.startApi(env), stack.startApi(env)]),
        Promise.all([stack.startWorker(env), stack.startWorker(env)]),
      ]);
    }
  });
});
