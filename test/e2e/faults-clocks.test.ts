import { expect } from 'chai';
import { eventually } from '../support/relay.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { PATIENCE_MS, startTestStack } from '../support/stack.ts';

const HOUR_MS = 3_600_000;
const clock = (shiftMs: number) => ({ CLOCK_SHIFT_MS: String(shiftMs) });

/** A backoff takes at most 1 s. One that a wrong clock made is recalled within 2 s. The rest is for a busy machine. */
const WITHIN_SECONDS_MS = 8_000;

async function payAfterRecovery({ api, worker }: { api: number; worker: number }): Promise<void> {
  const { primary, fallback, workers, redis, queueKey, startApi, startWorker, postMany, settled } =
    await startTestStack({ apis: 0, workers: 0, env: { GATEWAY_RECEIVE_TIMEOUT_MS: '200' } });
  await Promise.all([startApi(clock(api)), startWorker(clock(worker)), startWorker(clock(api))]);
  // Some attempts end as refused, some as unknown. Both kinds go back to the queue with a backoff.
  primary.set({ failure: true });
  await postMany(20);
  for (const worker of workers) await worker.logged({ state: 'open' });
  primary.set({ failure: false, delayMs: 400 });
  await primary.waitFor(({ payments }) => payments.size >= 4, PATIENCE_MS);
  primary.set({ delayMs: 0 });
  const recoveredAt = performance.now();
  expect((await settled()).primary.size).to.equal(20);
  expect(performance.now() - recoveredAt).to.be.below(WITHIN_SECONDS_MS);
  expect(await redis.zcard(queueKey('delayed'))).to.equal(0);
  expect(fallback.requests.total).to.equal(0);
}

describe('wrong clocks', function () {
  this.timeout(3 * PATIENCE_MS);

  sideBySide({
    'with an API an hour ahead and a worker an hour behind all is paid within seconds of a recovery (row 22)': () =>
      payAfterRecovery({ api: HOUR_MS, worker: -HOUR_MS }),

    'with an API an hour behind and a worker an hour ahead all is paid within seconds of a recovery (row 22)': () =>
      payAfterRecovery({ api: -HOUR_MS, worker: HOUR_MS }),

    'the backoff of a dead worker whose clock was an hour ahead is recalled by one whose clock is right (row 22)':
      async () => {
        const { primary, redis, queueKey, startWorker, post, settled } = await startTestStack({
          workers: 0,
          env: { GATEWAY_EMPTY_500: 'refused' },
        });
        primary.set({ failure: true });
        const ahead = await startWorker(clock(HOUR_MS));
        await post();
        // The third backoff, at least 200 ms, is the longest one before the payment waits at the open circuit.
        await primary.waitFor(({ requests }) => requests.responded(500) === 3, PATIENCE_MS);
        await eventually(async () => (await redis.zcard(queueKey('delayed'))) === 1, PATIENCE_MS);
        await ahead.kill();
        const [, score] = await redis.zrange(queueKey('delayed'), 0, 0, 'WITHSCORES');
        // BullMQ's score is the due time in ms times 4096.
        expect(Number(score) / 4096).to.be.greaterThan(Date.now() + HOUR_MS / 2);
        primary.set({ failure: false });
        await startWorker();
        const startedAt = performance.now();
        expect((await settled()).primary.size).to.equal(1);
        expect(performance.now() - startedAt).to.be.below(WITHIN_SECONDS_MS);
      },
  });
});
