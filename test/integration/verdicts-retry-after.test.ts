import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { eventually } from '../support/relay.ts';
import { accept, type Reply, respond } from '../support/scripted-gateway.ts';
import { scriptedRelay } from '../support/scripted-relay.ts';
import { sideBySide } from '../support/side-by-side.ts';

const PRIMARY_ONLY = { FALLBACK_ON: 'pool_timeout', FALLBACK_AFTER_MS: 'never', PAYMENT_QUEUE_MAX_CONCURRENCY: '4' };

/** Timers count whole milliseconds. */
const SLACK_MS = 5;

/**
 * The first payment gets this reply once, then the gateway takes everything. The next request must come between these times
 * after that one, which is answered at once, and all payments must be paid.
 */
async function expectNextRequest(
  reply: Reply,
  { afterMs, beforeMs }: { afterMs: number; beforeMs: number },
): Promise<void> {
  const relay = await scriptedRelay(PRIMARY_ONLY);
  const { primary } = relay;
  primary.onPayment = () => (primary.posts.length === 1 ? reply : accept);
  await relay.work();
  const first = await relay.post();
  await eventually(() => primary.posts.length === 1);
  const firstAtMs = primary.posts[0]!.atMs;
  const others = await relay.postMany(6);
  await relay.recorded([first, ...others]);
  await relay.expectTrueBooks();
  const early = primary.posts.slice(1).filter(({ atMs }) => atMs < firstAtMs + afterMs - SLACK_MS);
  // The next job may already have been in flight.
  expect(early.length, 'requests before the time asked for').to.equal(0);
  expect(primary.posts[1]!.atMs - firstAtMs, 'the next request').to.be.below(beforeMs);
  const rest = Math.max(...others.map((id) => primary.postsOf(id)[0]!.atMs)) - firstAtMs;
  expect(rest, 'the last of the others').to.be.below(beforeMs + 1_000);
}

/** Cut to the full second, as HTTP dates are. */
const dateIn = (ms: number) => new Date(Date.now() + ms).toUTCString();

describe('Retry-After', () => {
  sideBySide(
    {
      'of a 429 is kept, in seconds': async () => {
        await expectNextRequest(respond(429, '', { 'retry-after': '2' }), { afterMs: 2_000, beforeMs: 3_000 });
      },
      'of a 503 is kept, in seconds': async () => {
        await expectNextRequest(respond(503, 'busy', { 'retry-after': '2' }), { afterMs: 2_000, beforeMs: 3_000 });
      },
      'of a 429 is kept, as an HTTP date': async () => {
        const reply: Reply = (arrival, gateway) => respond(429, '', { 'retry-after': dateIn(3_000) })(arrival, gateway);
        await expectNextRequest(reply, { afterMs: 2_000, beforeMs: 4_000 });
      },
      'of a 503 is kept, as an HTTP date': async () => {
        const reply: Reply = (arrival, gateway) => respond(503, '', { 'retry-after': dateIn(3_000) })(arrival, gateway);
        await expectNextRequest(reply, { afterMs: 2_000, beforeMs: 4_000 });
      },
      'outlasts the recall of payments whose delay comes from a wrong clock': async () => {
        await expectNextRequest(respond(429, '', { 'retry-after': '4' }), { afterMs: 4_000, beforeMs: 5_000 });
      },
      'in words counts as absent': async () => {
        await expectNextRequest(respond(429, '', { 'retry-after': 'soon' }), { afterMs: 0, beforeMs: 1_000 });
      },
      'below zero counts as absent': async () => {
        await expectNextRequest(respond(503, '', { 'retry-after': '-5' }), { afterMs: 0, beforeMs: 1_000 });
      },
      'in the past counts as absent': async () => {
        const past = 'Thu, 01 Jan 1970 00:00:01 GMT';
        await expectNextRequest(respond(429, '', { 'retry-after': past }), { afterMs: 0, beforeMs: 1_000 });
      },
      'of another status is not read': async () => {
        await expectNextRequest(respond(404, '', { 'retry-after': '8' }), { afterMs: 0, beforeMs: 1_000 });
      },
      'delays only its own payment when another was paid just before': async () => {
        const relay = await scriptedRelay(PRIMARY_ONLY);
        const { primary } = relay;
        await relay.work();
        await relay.recorded([await relay.post()]);
        primary.onPayment = ({ amount, attempt }) =>
          amount === 66.6 && attempt === 1 ? respond(429, '', { 'retry-after': '3' }) : undefined;
        const odd = await relay.post(66.6);
        await eventually(() => primary.postsOf(odd).length === 1);
        const startedAtMs = primary.postsOf(odd)[0]!.atMs;
        const others = await relay.postMany(5);
        await relay.recorded(others);
        const lastAtMs = Math.max(...others.map((id) => primary.postsOf(id)[0]!.atMs));
        expect(lastAtMs - startedAtMs, 'the last of the others').to.be.below(1_000);
        await relay.recorded([odd]);
        expect(primary.postsOf(odd)[1]!.atMs - startedAtMs, 'the payment itself').to.be.within(3_000 - SLACK_MS, 5_500);
        await relay.expectTrueBooks();
      },
      'lets through one probe at a time when it is repeated': async () => {
        const relay = await scriptedRelay({ ...PRIMARY_ONLY, PAYMENT_QUEUE_MAX_CONCURRENCY: '16' });
        const { primary } = relay;
        primary.onPayment = () => respond(429, '', { 'retry-after': '1' });
        await relay.work();
        const ids = [await relay.post()];
        await eventually(() => primary.posts.length === 1);
        ids.push(...(await relay.postMany(16)));
        await sleep(3_000);
        // The first, then one every second.
        expect(primary.posts.length).to.be.within(2, 5);
        primary.onPayment = () => undefined;
        await relay.recorded(ids);
        await relay.expectTrueBooks();
      },
    },
    // Each is a relay of its own, and these measure seconds.
    { atOnce: 4 },
  );
});
