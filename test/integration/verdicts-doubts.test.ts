import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { eventually } from '../support/relay.ts';
import { charged, hang, html, json, type Reply, raw, respond } from '../support/scripted-gateway.ts';
import { expectUnknown, type ScriptedRelay, scriptedRelay } from '../support/scripted-relay.ts';
import { sideBySide } from '../support/side-by-side.ts';

const PRIMARY_ONLY = { FALLBACK_ON: 'pool_timeout', FALLBACK_AFTER_MS: 'never' };

/** Shorter than the minimum of GATEWAY_REJECT_AFTER_MS. */
const REJECT_AFTER_MS = 500;

const NO: Reply = json(400, { message: 'invalid merchant account' });

/** The payment with this amount is the doubted one. */
const DOUBTED = 66.6;

interface DoubtScript {
  readonly replies: readonly Reply[];
  readonly lookUp?: Reply;
  /** The reply to the other payments. */
  readonly good?: Reply;
  /** The payment's pauses are cut short from this attempt on. */
  readonly hurriesFrom?: number;
}

/**
 * Sends a payment that gets these replies for its attempts (the last one again and again) and `lookUp` for its look-ups. Posts
 * good payments beside it until `until` is true.
 * @returns its id
 */
async function doubted(
  relay: ScriptedRelay,
  { replies, lookUp, good, hurriesFrom = 1 }: DoubtScript,
  until: (id: string) => boolean | Promise<boolean>,
): Promise<string> {
  const { primary } = relay;
  primary.onPayment = ({ amount, attempt }) => (amount === DOUBTED ? (replies[attempt - 1] ?? replies.at(-1)) : good);
  await relay.work();
  const id = await relay.post(DOUBTED);
  primary.onLookUp = ({ correlationId }) => (correlationId === id ? lookUp : undefined);
  await eventually(async () => {
    const other = await relay.post();
    await eventually(() => primary.postsOf(other).length > 0);
    if (primary.postsOf(id).length >= hurriesFrom) await relay.hurry([id]);
    // A few payments are enough to show that the primary works.
    await sleep(200);
    return until(id);
  }, 20_000);
  return id;
}

/** Five doubts and twice the time: a payment that may be rejected is a dead letter by now. */
const afterManyDoubts = (relay: ScriptedRelay) => async (id: string) => {
  const { doubts, doubtedSince } = await relay.job(id);
  const isLongEnough = Date.now() - Number(doubtedSince) > 2 * REJECT_AFTER_MS;
  return (Number(doubts) >= 5 && isLongEnough) || (await relay.deadLetters()).length > 0;
};

async function expectAlive(relay: ScriptedRelay, id: string): Promise<void> {
  expect(await relay.deadLetters(), 'dead letters').to.deep.equal([]);
  expect((await relay.job(id))['data'] !== undefined || (await relay.ledger()).has(id), 'alive or paid').to.equal(true);
  expect(relay.fallback.posts).to.deep.equal([]);
}

describe('verdict on a 400', () => {
  sideBySide(
    {
      'is unknown, without a look-up, when it is not complete JSON': async () => {
        const asked = await expectUnknown({
          'the page of nginx': html(400, '400 The plain HTTP request was sent to HTTPS port'),
          'the page of nginx after the charge': charged(html(400, '400 Bad Request')),
          'an empty 400': respond(400),
          'plain text': respond(400, 'Bad Request'),
          'JSON that is cut off, after the charge': charged(
            raw('HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{"message":"inv', 'close'),
          ),
          'JSON whose end never comes': raw('HTTP/1.1 400 Bad Request\r\nContent-Length: 99\r\n\r\n{"mes', 'stay'),
          'JSON over 64 KiB': json(400, { message: 'no', trace: 'x'.repeat(66_000) }),
          'two lines of JSON': respond(400, '{"a":1}\n{"b":2}'),
        });
        expect(Object.entries(asked).filter(([, count]) => count > 0)).to.deep.equal([]);
      },
      'is doubtful when it is JSON: the payment stays at its gateway and in the queue, also after the charge':
        async () => {
          await expectUnknown({
            'a message': json(400, { message: 'invalid amount' }),
            'problem details': json(400, { type: 'about:blank', title: 'Bad Request', status: 400 }),
            'a message after the charge': charged(json(400, { error: 'upstream said no' })),
            'an empty object': respond(400, '{}'),
            'the error of an API gateway': json(400, { Code: 'InvalidHeader', RequestId: '0' }),
          });
        },
      'makes a dead letter after four doubts, with another payment paid meanwhile': async () => {
        const relay = await scriptedRelay(PRIMARY_ONLY, { rejectAfterMs: REJECT_AFTER_MS });
        const id = await doubted(
          relay,
          { replies: [NO], hurriesFrom: 3 },
          async () => (await relay.deadLetters()).length > 0,
        );
        expect(await relay.deadLetters()).to.deep.equal([id]);
        expect((await relay.job(id))['failedReason']).to.match(/^rejected/);
        expect(await relay.status(id)).to.include({ state: 'dead_letter', reason: 'rejected', boundTo: 'primary' });
        const sends = relay.primary.postsOf(id);
        expect(sends.length).to.be.at.least(3);
        expect(new Set(sends.map(({ connection }) => connection)).size, 'each on a connection of its own').to.equal(
          sends.length,
        );
        // 1 and 2 seconds, less what the clocks of two processes differ by.
        const [first, second, third] = sends.map(({ atMs }) => atMs);
        expect(second! - first!, 'the first pause').to.be.at.least(950);
        expect(third! - second!, 'the second pause').to.be.at.least(1_950);
        expect(relay.primary.lookUpsOf(id).length, 'look-ups').to.be.greaterThan(0);
        expect((await relay.ledger()).has(id)).to.equal(false);
        expect(relay.fallback.posts).to.deep.equal([]);
      },
      'never makes a dead letter while no other payment is paid': async () => {
        const relay = await scriptedRelay(PRIMARY_ONLY, { rejectAfterMs: REJECT_AFTER_MS });
        relay.primary.onPayment = () => NO;
        await relay.work();
        const id = await relay.post();
        await eventually(async () => {
          await relay.hurry([id]);
          return afterManyDoubts(relay)(id);
        }, 15_000);
        await expectAlive(relay, id);
        const { doubts, doubtedSince, reason } = await relay.job(id);
        expect(Number(doubts), 'doubts').to.be.at.least(3);
        expect(doubtedSince, 'doubtedSince').to.be.a('string');
        expect(reason, 'reason').to.include('400');
        relay.primary.onPayment = () => undefined;
        await relay.recorded([id]);
        await relay.expectTrueBooks();
      },
      'never makes a dead letter while the other payments are only already_paid': async () => {
        const relay = await scriptedRelay(PRIMARY_ONLY, { rejectAfterMs: REJECT_AFTER_MS });
        const good = charged(json(422, { message: 'CorrelationId already exists' }));
        await expectAlive(relay, await doubted(relay, { replies: [NO], good }, afterManyDoubts(relay)));
      },
      'never makes a dead letter while the look-up gives no 404': async () => {
        const relay = await scriptedRelay(PRIMARY_ONLY, { rejectAfterMs: REJECT_AFTER_MS });
        const script = { replies: [NO], lookUp: respond(502) };
        await expectAlive(relay, await doubted(relay, script, afterManyDoubts(relay)));
      },
      'never makes a dead letter of what the gateway has on record': async () => {
        const relay = await scriptedRelay(PRIMARY_ONLY, { rejectAfterMs: REJECT_AFTER_MS });
        const isOver = async (id: string) => (await afterManyDoubts(relay)(id)) || (await relay.ledger()).has(id);
        await expectAlive(relay, await doubted(relay, { replies: [charged(NO)] }, isOver));
      },
      'after a charge with a lost response ends recorded, also when the look-up lags behind': async () => {
        const relay = await scriptedRelay(
          { ...PRIMARY_ONLY, GATEWAY_RECEIVE_TIMEOUT_MS: '300' },
          { rejectAfterMs: REJECT_AFTER_MS },
        );
        // Only its recorded unknown attempt keeps this payment from the dead letters.
        const script = { replies: [charged(hang), NO], lookUp: json(404, { message: 'not found' }) };
        const id = await doubted(relay, script, (it) => relay.primary.postsOf(it).length >= 7);
        await expectAlive(relay, id);
        relay.primary.onPayment = () => undefined;
        relay.primary.onLookUp = () => undefined;
        await relay.hurry([id]);
        await relay.recorded([id]);
        await relay.drained();
        await relay.expectTrueBooks();
      },
    },
    { atOnce: 8 },
  );
});
