import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import { eventually } from '../support/relay.ts';
import { charged, hang, html, json, type Reply, respond, scriptedGateway } from '../support/scripted-gateway.ts';
import { type ScriptedRelay, scriptedRelay } from '../support/scripted-relay.ts';
import { groupsSideBySide } from '../support/side-by-side.ts';

const FEW_PLACES = { PAYMENT_QUEUE_MAX_CONCURRENCY: '4' };
const PRIMARY_ONLY = { ...FEW_PLACES, FALLBACK_ON: 'pool_timeout', FALLBACK_AFTER_MS: 'never' };

/** The first ten payments in the queue never succeed at the primary. The twenty good ones after them must not wait. */
async function expectGoodOnesPaid(dislike: Reply): Promise<void> {
  const relay = await scriptedRelay(PRIMARY_ONLY);
  const disliked = new Set(await relay.postMany(10));
  relay.primary.onPayment = ({ correlationId }) => (disliked.has(correlationId) ? dislike : undefined);
  const good = await relay.postMany(20);
  await relay.work();
  await relay.recorded(good, 5_000);
  await expectDislikedAlive(relay, disliked);
}

async function expectDislikedAlive(relay: ScriptedRelay, disliked: ReadonlySet<string>): Promise<void> {
  await relay.expectTrueBooks();
  const rows = await relay.ledger();
  expect(
    [...disliked].filter((id) => rows.has(id)),
    'recorded without proof',
  ).to.deep.equal([]);
  expect(await relay.deadLetters(), 'dead letters').to.deep.equal([]);
  const jobs = await Promise.all([...disliked].map(relay.job));
  expect(
    jobs.filter((job) => job['data'] === undefined),
    'lost',
  ).to.deep.equal([]);
}

describe('places of a worker', () => {
  groupsSideBySide(
    {
      'payments that a gateway never takes': {
        'do not stop the others when they get a 403': async () => {
          await expectGoodOnesPaid(html(403, 'Attention Required!'));
        },
        'do not stop the others when they get a 404': async () => {
          await expectGoodOnesPaid(json(404, { message: 'merchant not found' }));
        },
        'do not stop the others when they get a 400 in JSON': async () => {
          await expectGoodOnesPaid(json(400, { message: 'invalid merchant' }));
        },
        'do not stop the others when they get an empty 502': async () => {
          await expectGoodOnesPaid(respond(502));
        },
        'do not stop the others when no response comes within the time-out': async () => {
          const relay = await scriptedRelay({ ...PRIMARY_ONLY, GATEWAY_RECEIVE_TIMEOUT_MS: '300' });
          const disliked = new Set(await relay.postMany(10));
          // While nothing responds, a new payment is sent only every five seconds. A quick 503 makes these ten retries.
          relay.primary.onPayment = ({ correlationId, attempt }) => {
            if (!disliked.has(correlationId)) return undefined;
            return attempt === 1 ? respond(503) : hang;
          };
          await relay.work();
          const hangs = () => relay.primary.posts.filter(({ attempt }) => attempt > 1).length;
          await eventually(
            () => [...disliked].every((id) => relay.primary.postsOf(id).length > 0) && hangs() > 3,
            15_000,
          );
          const good = await relay.postMany(20);
          await relay.recorded(good, 5_000);
          await expectDislikedAlive(relay, disliked);
        },
        'do not open the circuit when there is only one, however often it is sent': async () => {
          const relay = await scriptedRelay(PRIMARY_ONLY);
          const { primary } = relay;
          primary.onPayment = ({ amount }) => (amount === 66.6 ? html(403, 'Attention Required!') : undefined);
          const { entries } = await relay.work();
          const id = await relay.post(66.6);
          await eventually(async () => {
            await relay.hurry([id]);
            return primary.postsOf(id).length >= 6;
          });
          expect(entries.filter((entry) => entry['state'] === 'open')).to.deep.equal([]);
          await relay.recorded(await relay.postMany(4), 2_000);
          await expectDislikedAlive(relay, new Set([id]));
        },
        'do not stop later payments when there are enough of them for every place': async () => {
          const relay = await scriptedRelay(PRIMARY_ONLY);
          const disliked = new Set(await relay.postMany(15));
          relay.primary.onPayment = ({ correlationId }) =>
            disliked.has(correlationId) ? html(403, 'Attention Required!') : undefined;
          await relay.work();
          await eventually(() => relay.primary.posts.filter(({ attempt }) => attempt > 1).length >= 6, 15_000);
          await relay.recorded(await relay.postMany(20), 5_000);
          await expectDislikedAlive(relay, disliked);
        },
      },

      'payments tied to a gateway that does not take them': {
        'do not keep later ones from the fallback while the primary hangs and all places could be theirs': async () => {
          const relay = await scriptedRelay({
            ...FEW_PLACES,
            FALLBACK_ON: 'pool_timeout',
            FALLBACK_AFTER_MS: '1000',
            GATEWAY_RECEIVE_TIMEOUT_MS: '300',
          });
          relay.primary.onPayment = () => hang;
          await relay.work();
          const tied = await relay.postMany(4);
          // The payments in flight failed and were sent again, so they could fill all places.
          await eventually(() => relay.primary.posts.length >= 7, 15_000);
          const later = await relay.postMany(20);
          const startedAtMs = performance.now();
          // Every five seconds one of the later payments is the primary's probe, and is tied from then on.
          const isTied = (id: string) => relay.primary.postsOf(id).length > 0;
          const rows = await eventually(async () => {
            const found = await relay.ledger();
            return later.every((id) => found.has(id) || isTied(id)) && found;
          }, 10_000);
          expect(performance.now() - startedAtMs).to.be.below(10_000);
          expect(later.filter(isTied).length, 'used as probes').to.be.at.most(3);
          expect(rows.size).to.be.at.least(17);
          expect(new Set([...rows.values()].map(({ gateway }) => gateway))).to.deep.equal(new Set(['fallback']));
          expect(
            tied.filter((id) => relay.fallback.postsOf(id).length > 0),
            'paid twice',
          ).to.deep.equal([]);
          relay.primary.onPayment = () => undefined;
          await relay.hurry([...tied, ...later]);
          await relay.recorded([...tied, ...later]);
          await relay.expectTrueBooks();
        },
        'do not keep later ones from the fallback while the primary asks for a pause': async () => {
          const relay = await scriptedRelay({
            FALLBACK_ON: 'pool_timeout',
            FALLBACK_AFTER_MS: '500',
            PAYMENT_QUEUE_MAX_CONCURRENCY: '2',
          });
          const { primary } = relay;
          let isWell = false;
          primary.onPayment = () => {
            if (isWell) return undefined;
            return primary.posts.length < 3 ? respond(502) : respond(503, '', { 'retry-after': '20' });
          };
          const tied = await relay.postMany(3);
          await relay.work();
          // Two of them are back after their own pause, which is shorter than the primary's: they could fill both places.
          await eventually(async () => primary.posts.length >= 3 && (await relay.fetches(tied)) >= 5);
          const later = await relay.postMany(10);
          const rows = await relay.recorded(later, 5_000);
          expect(new Set(later.map((id) => rows.get(id)?.gateway))).to.deep.equal(new Set(['fallback']));
          expect(
            tied.filter((id) => relay.fallback.postsOf(id).length > 0),
            'tied',
          ).to.deep.equal([]);
          isWell = true;
        },
        'do not keep others from a healthy primary while they are bound to a fallback that is down': async () => {
          const port = await freePort();
          const relay = await scriptedRelay({
            ...FEW_PLACES,
            GATEWAY_PRIMARY_URL: `http://127.0.0.1:${port}`,
            FALLBACK_ON: 'not_sent',
            FALLBACK_AFTER_MS: 'never',
            GATEWAY_RECEIVE_TIMEOUT_MS: '300',
          });
          relay.fallback.onPayment = () => charged(hang);
          const bound = await relay.postMany(10);
          await relay.work();
          await eventually(() => relay.fallback.posts.length >= 7, 15_000);
          const primary = await scriptedGateway({ port });
          const good = await relay.postMany(20);
          await relay.recorded(good, 5_000);
          expect(
            good.filter((id) => !primary.onRecord.has(id)),
            'not paid at the primary',
          ).to.deep.equal([]);
          relay.fallback.onPayment = () => undefined;
          await relay.recorded(bound);
          const twice = [...relay.fallback.onRecord.keys()].filter((id) => primary.onRecord.has(id));
          expect(twice, 'paid twice').to.deep.equal([]);
        },
        'are not fetched and requeued again and again while both gateways are down': async () => {
          const relay = await scriptedRelay({ ...FEW_PLACES, FALLBACK_AFTER_MS: '1000' });
          relay.primary.onPayment = () => charged(respond(502));
          relay.fallback.onPayment = () => respond(502);
          const ids = await relay.postMany(30);
          await relay.work();
          await eventually(() => relay.primary.onRecord.size >= 4, 15_000);
          const before = await relay.fetches(ids);
          await sleep(3_000);
          // The probes of both gateways, and tied payments after their pauses.
          expect(((await relay.fetches(ids)) - before) / 3, 'fetches a second').to.be.below(15);
          relay.primary.onPayment = () => undefined;
          relay.fallback.onPayment = () => undefined;
          await relay.recorded(ids);
          await relay.expectTrueBooks();
        },
      },
    },
    // Each is a relay of its own, and these measure seconds.
    { atOnce: 4 },
  );
});
