import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import { expect } from 'chai';
import { eventually } from '../support/relay.ts';
import { type Arrival, charged, html, json, type OnRecord, type Reply, respond } from '../support/scripted-gateway.ts';
import { expectUnknown, type ScriptedRelay, scriptedRelay } from '../support/scripted-relay.ts';
import { sideBySide } from '../support/side-by-side.ts';

/** A look-up's reply, made from what the gateway has on record. */
function told(text: (onRecord: OnRecord & { correlationId: string }) => string | Buffer, headers = {}): Reply {
  return (arrival, gateway) => {
    const { correlationId } = arrival;
    const body = text({ correlationId, ...gateway.onRecord.get(correlationId)! });
    respond(200, body, headers)(arrival, gateway);
  };
}

/** The gateway already has the payment, and says so with this status. */
function known(status: number): Reply {
  return (arrival, gateway) => {
    gateway.charge(arrival);
    json(status, { message: 'CorrelationId already exists' })(arrival, gateway);
  };
}

/** One payment for each of these look-ups. The gateway has each on record, and responds to it with this status. */
async function expectRead(replies: Readonly<Record<string, Reply>>, status: number): Promise<ScriptedRelay> {
  const relay = await scriptedRelay();
  const nameOf = new Map<string, string>();
  relay.primary.onPayment = () => known(status);
  relay.primary.onLookUp = ({ correlationId }) => replies[nameOf.get(correlationId)!];
  for (const name of Object.keys(replies)) nameOf.set(await relay.post(), name);
  await relay.work();
  const rows = await relay.recorded(nameOf.keys()).catch(() => relay.ledger());
  const unread = [...nameOf].filter(([id]) => !rows.has(id)).map(([, name]) => name);
  expect(unread, 'not read').to.deep.equal([]);
  await relay.drained();
  await relay.expectTrueBooks();
  return relay;
}

const SPELLINGS: Readonly<Record<string, Reply>> = {
  'as the challenge does': told((it) => JSON.stringify(it)),
  'an amount as a string': told((it) => JSON.stringify({ ...it, amount: it.amount.toFixed(2) })),
  'an amount with more zeros': told((it) => JSON.stringify({ ...it, amount: `${it.amount.toFixed(2)}00` })),
  'a space for the T': told((it) => JSON.stringify({ ...it, requestedAt: it.requestedAt.replace('T', ' ') })),
  'a space for the T and no Z': told((it) =>
    JSON.stringify({ ...it, requestedAt: it.requestedAt.replace('T', ' ').replace('Z', '') }),
  ),
  'no Z': told((it) => JSON.stringify({ ...it, requestedAt: it.requestedAt.replace('Z', '') })),
  'an offset for the Z': told((it) => JSON.stringify({ ...it, requestedAt: it.requestedAt.replace('Z', '+00:00') })),
  microseconds: told((it) => JSON.stringify({ ...it, requestedAt: it.requestedAt.replace('Z', '000Z') })),
  'a byte-order mark': told((it) => `\uFEFF${JSON.stringify(it)}`),
  'white space around it': told((it) => `\r\n ${JSON.stringify(it, null, 2)}\r\n`),
  PascalCase: told(({ correlationId, amount, requestedAt }) =>
    JSON.stringify({ CorrelationId: correlationId, Amount: amount, RequestedAt: requestedAt }),
  ),
  snake_case: told(({ correlationId, amount, requestedAt }) =>
    JSON.stringify({ correlation_id: correlationId, amount, requested_at: requestedAt }),
  ),
  'upper case': told(({ correlationId, amount, requestedAt }) =>
    JSON.stringify({ CORRELATIONID: correlationId.toUpperCase(), AMOUNT: amount, REQUESTEDAT: requestedAt }),
  ),
};

const MORE_SPELLINGS: Readonly<Record<string, Reply>> = {
  'no correlationId': told(({ amount, requestedAt }) => JSON.stringify({ amount, requestedAt })),
  'other fields beside them': told((it) => JSON.stringify({ ...it, fee: 0.05, status: 'settled', tags: [] })),
  'gzip without Accept-Encoding': told((it) => gzipSync(JSON.stringify(it)), { 'content-encoding': 'gzip' }),
  'x-gzip': told((it) => gzipSync(JSON.stringify(it)), { 'content-encoding': 'x-gzip' }),
  deflate: told((it) => deflateSync(JSON.stringify(it)), { 'content-encoding': 'deflate' }),
  brotli: told((it) => brotliCompressSync(JSON.stringify(it)), { 'content-encoding': 'br' }),
  'another content type': told((it) => JSON.stringify(it), { 'content-type': 'text/plain' }),
};

const OTHER_ID = '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3';

/** Look-ups that do not give what is on record. */
const UNUSABLE: Readonly<Record<string, Reply>> = {
  'a 404 of the gateway': json(404, { message: 'payment not found' }),
  'an empty 404': respond(404),
  'a page with 200': html(200, 'Welcome'),
  'an empty 200': respond(200),
  'a 204': respond(204),
  'an empty 500': respond(500),
  'a 403 page': html(403, 'Forbidden'),
  'an array': told((it) => JSON.stringify([it])),
  'a null': respond(200, 'null'),
  'another correlationId': told((it) => JSON.stringify({ ...it, correlationId: OTHER_ID })),
  'another CorrelationId': told(({ amount, requestedAt }) =>
    JSON.stringify({ CorrelationId: OTHER_ID, amount, requestedAt }),
  ),
  'no amount': told(({ correlationId, requestedAt }) => JSON.stringify({ correlationId, requestedAt })),
  'no requestedAt': told(({ correlationId, amount }) => JSON.stringify({ correlationId, amount })),
  'an amount of null': told((it) => JSON.stringify({ ...it, amount: null })),
  'an amount in words': told((it) => JSON.stringify({ ...it, amount: '19,90 EUR' })),
  'a requestedAt in words': told((it) => JSON.stringify({ ...it, requestedAt: 'yesterday' })),
  'a month of 13': told((it) => JSON.stringify({ ...it, requestedAt: '2025-13-01T12:00:00.000Z' })),
  'more than 64 KiB': told((it) => JSON.stringify({ ...it, trace: 'x'.repeat(66_000) })),
  'a 201': (arrival, gateway) =>
    json(201, { correlationId: arrival.correlationId, ...gateway.onRecord.get(arrival.correlationId)! })(
      arrival,
      gateway,
    ),
};

async function expectUnread(status: number): Promise<void> {
  const asked = await expectUnknown(Object.fromEntries(Object.keys(UNUSABLE).map((name) => [name, known(status)])), {
    env: { PAYMENT_QUEUE_MAX_CONCURRENCY: '32' },
    lookUp: (name) => UNUSABLE[name],
  });
  expect(Object.entries(asked).filter(([, count]) => count === 0)).to.deep.equal([]);
}

describe('verdict on a 422 or 409', () => {
  sideBySide(
    {
      'is already_paid after a 422, however the look-up spells the payment': async () => {
        await expectRead(SPELLINGS, 422);
      },
      'is already_paid after a 422, whatever else the look-up sends': async () => {
        await expectRead(MORE_SPELLINGS, 422);
      },
      'is already_paid after a 409': async () => {
        const relay = await expectRead(
          { ...MORE_SPELLINGS, 'as the challenge does': SPELLINGS['as the challenge does']! },
          409,
        );
        expect(relay.primary.posts, 'one send each').to.have.length(Object.keys(MORE_SPELLINGS).length + 1);
      },
      'is already_paid after a charge with a lost response, with the first requestedAt': async () => {
        const relay = await scriptedRelay();
        relay.primary.onPayment = ({ attempt }) =>
          attempt === 1 ? charged(respond(502)) : json(409, { error: 'exists' });
        const ids = await relay.postMany(2);
        await relay.work();
        await relay.recorded(ids);
        await relay.expectTrueBooks();
      },
      'is unknown after a 422 whose look-up does not give what is on record': async () => {
        await expectUnread(422);
      },
      'is unknown after a 409 whose look-up does not give what is on record': async () => {
        await expectUnread(409);
      },
      'is unknown after a 422 of an intermediary when the gateway has no such payment': async () => {
        await expectUnknown({
          'in JSON': json(422, { message: 'CorrelationId already exists' }),
          'in HTML': html(422, 'Unprocessable Entity'),
          empty: respond(422),
        });
      },
      'does not open the circuit when the look-up does not confirm: others are paid at once': async () => {
        const relay = await scriptedRelay({ FALLBACK_ON: 'pool_timeout', FALLBACK_AFTER_MS: 'never' });
        const odd = new Set(await relay.postMany(6));
        relay.primary.onPayment = ({ correlationId }: Arrival) => (odd.has(correlationId) ? known(422) : undefined);
        relay.primary.onLookUp = ({ correlationId }) => (odd.has(correlationId) ? respond(404) : undefined);
        await relay.work();
        await eventually(() => [...odd].every((id) => relay.primary.lookUpsOf(id).length > 0));
        const startedAtMs = performance.now();
        const good = await relay.postMany(8);
        await eventually(() => good.every((id) => relay.primary.postsOf(id).length > 0));
        const [first, last] = [Math.min, Math.max].map((pick) =>
          pick(...good.map((id) => relay.primary.postsOf(id)[0]!.atMs - startedAtMs)),
        );
        // An open circuit would let the first one through alone, at its next probe.
        expect(last! - first!).to.be.below(1_000);
        relay.primary.onLookUp = () => undefined;
        await relay.recorded([...odd, ...good]);
        await relay.expectTrueBooks();
      },
    },
    { atOnce: 8 },
  );
});
