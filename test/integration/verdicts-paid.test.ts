import { gzipSync } from 'node:zlib';
import { expect } from 'chai';
import { eventually } from '../support/relay.ts';
import {
  type Arrival,
  CHALLENGE_BODY,
  charged,
  html,
  json,
  type Reply,
  raw,
  respond,
  tell,
} from '../support/scripted-gateway.ts';
import { expectUnknown, scriptedRelay } from '../support/scripted-relay.ts';
import { sideBySide } from '../support/side-by-side.ts';

const OVER_64_KIB = JSON.stringify({ message: 'ok', trace: 'x'.repeat(66_000) });

/** 2xx responses that prove nothing. Their bodies differ, so that none becomes known by the charge of another. */
const UNPROVEN: Readonly<Record<string, Reply>> = {
  'a welcome page': html(200, 'Welcome to nginx!'),
  'an empty 200': respond(200),
  'a 202': json(202, { status: 'queued' }),
  'a 203 of a proxy': json(203, { message: 'transformed' }),
  'a 204': respond(204),
  'an empty 201': respond(201),
  'a 206 with a part': json(206, { message: 'a part' }),
  'a 299': json(299, { message: 'anything' }),
  'a 200 that declines': json(200, { status: 'declined' }),
  'a 201 that declines': json(201, { state: 'failed', reason: 'card_expired' }),
  'an echo of the payment': respond(200, ({ correlationId, amount, requestedAt }: Arrival) =>
    JSON.stringify({ correlationId, amount, requestedAt }),
  ),
  'an array': json(200, [{ message: 'accepted' }]),
  'a string': json(200, 'accepted'),
  'a null': respond(200, 'null'),
  'a number': respond(200, '1'),
  'a body over 64 KiB': respond(200, OVER_64_KIB),
  'a gzipped body over 64 KiB': respond(200, gzipSync(OVER_64_KIB), { 'content-encoding': 'gzip' }),
  'a body that claims to be gzip': respond(200, '{"message":"plain"}', { 'content-encoding': 'gzip' }),
  'a body that is cut off': raw('HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"message":"pay', 'close'),
  'a chunked body that is reset': raw('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n{"message', 'reset'),
  'a head without its body': raw('HTTP/1.1 201 Created\r\nContent-Length: 20\r\n\r\n', 'stay'),
  'two objects': respond(200, '{"message":"a"}{"message":"b"}'),
};

describe('verdict on a 2xx', () => {
  sideBySide(
    {
      'is paid by a look-up when the response proves nothing and the gateway has it on record': async () => {
        const relay = await scriptedRelay({ PAYMENT_QUEUE_MAX_CONCURRENCY: '32' });
        const replyTo = new Map<string, Reply>();
        relay.primary.onPayment = ({ correlationId }) => charged(replyTo.get(correlationId)!);
        const nameOf = new Map<string, string>();
        for (const [name, reply] of Object.entries(UNPROVEN)) {
          const id = await relay.post();
          nameOf.set(id, name);
          replyTo.set(id, reply);
        }
        await relay.work();
        await relay.recorded(nameOf.keys());
        await relay.drained();
        await relay.expectTrueBooks();
        const asked = [...nameOf].map(([id, name]) => [name, relay.primary.lookUpsOf(id).length]);
        expect(asked.filter(([, count]) => count !== 1)).to.deep.equal([]);
        const sent = [...nameOf].map(([id, name]) => [name, relay.primary.postsOf(id).length]);
        expect(sent.filter(([, count]) => count !== 1)).to.deep.equal([]);
        expect(relay.fallback.posts).to.deep.equal([]);
      },
      'is unknown when the response proves nothing and the gateway does not have it on record': async () => {
        const asked = await expectUnknown(
          { ...UNPROVEN },
          { env: { GATEWAY_RECEIVE_TIMEOUT_MS: '600', PAYMENT_QUEUE_MAX_CONCURRENCY: '32' } },
        );
        expect(Object.entries(asked).filter(([, count]) => count === 0)).to.deep.equal([]);
      },
      'is unknown when the response proves nothing and an intermediary responds to the look-up': async () => {
        const intermediary: Readonly<Record<string, Reply>> = {
          'a welcome page': html(200, 'Welcome to nginx!'),
          'an empty 200': respond(200),
          'the same JSON for everything': json(200, { status: 'ok' }),
          'another payment': json(200, {
            correlationId: '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3',
            amount: 19.9,
            requestedAt: '2025-07-15T12:34:56.000Z',
          }),
          'a 302 to a login page': respond(302, '', { location: '/login' }),
          'an empty 502': respond(502),
        };
        const asked = await expectUnknown(
          Object.fromEntries(Object.keys(intermediary).map((name) => [name, charged(html(200, name))])),
          { lookUp: (name) => intermediary[name] },
        );
        expect(Object.entries(asked).filter(([, count]) => count === 0)).to.deep.equal([]);
      },
      'is paid with one look-up when the first 64 payments get the same body at once': async () => {
        const relay = await scriptedRelay({ PAYMENT_QUEUE_MAX_CONCURRENCY: '64', GATEWAY_POOL_SIZE: '64' });
        const allArrived = Promise.withResolvers<void>();
        relay.primary.onPayment = () => {
          if (relay.primary.posts.length === 64) allArrived.resolve();
          const reply = charged(respond(200, CHALLENGE_BODY));
          return (arrival, gateway) => void allArrived.promise.then(() => reply(arrival, gateway));
        };
        const ids = await relay.postMany(64);
        await relay.work();
        await relay.recorded(ids);
        await relay.expectTrueBooks();
        expect(relay.primary.lookUps).to.have.length(1);
        await relay.recorded(await relay.postMany(20));
        await relay.expectTrueBooks();
        expect(relay.primary.lookUps, 'once it is known').to.have.length(1);
        expect(relay.primary.posts).to.have.length(84);
      },
      'recognises a body that names the payment and its time, also in a 201': async () => {
        const relay = await scriptedRelay();
        relay.primary.onPayment = () =>
          charged(
            respond(201, ({ correlationId, requestedAt }) =>
              JSON.stringify({ id: correlationId, status: 'succeeded', created: requestedAt }),
            ),
          );
        await relay.work();
        await relay.recorded([await relay.post()]);
        expect(relay.primary.lookUps).to.have.length(1);
        await relay.recorded(await relay.postMany(10));
        await relay.expectTrueBooks();
        expect(relay.primary.lookUps, 'once it is known').to.have.length(1);
      },
      'looks up each of two payments that are declined with the same body, and records neither': async () => {
        const asked = await expectUnknown({
          'the first': json(200, { status: 'declined' }),
          'the second': json(200, { status: 'declined' }),
        });
        expect(Object.values(asked).filter((count) => count === 0)).to.deep.equal([]);
      },
      'looks up a declined payment although another body is known': async () => {
        const relay = await scriptedRelay();
        const declined = new Set<string>();
        relay.primary.onPayment = ({ correlationId }) =>
          declined.has(correlationId)
            ? respond(200, (arrival: Arrival) => JSON.stringify({ id: arrival.correlationId, status: 'declined' }))
            : undefined;
        await relay.work();
        await relay.recorded(await relay.postMany(3));
        // The worker may send it before its id is known here, so the script goes by its amount.
        relay.primary.onPayment = ({ correlationId, amount }) =>
          amount === 66.6 || declined.has(correlationId) ? json(200, { status: 'declined' }) : undefined;
        const id = await relay.post(66.6);
        await eventually(() => relay.primary.postsOf(id).length >= 2);
        expect(relay.primary.lookUpsOf(id).length).to.be.greaterThan(0);
        expect((await relay.ledger()).has(id)).to.equal(false);
        relay.primary.onPayment = () => undefined;
        await relay.hurry([id]);
        await relay.recorded([id]);
        await relay.expectTrueBooks();
      },
      'does not learn a body from a payment that had an earlier attempt': async () => {
        const relay = await scriptedRelay();
        // The second attempt charges it, with its own time. But the first one could have, and this could be an echo.
        relay.primary.onPayment = ({ attempt, amount }) => {
          if (amount === 66.6) return json(200, { message: 'hello' });
          return attempt === 1 ? respond(502) : charged(json(200, { message: 'hello' }));
        };
        await relay.work();
        await relay.recorded([await relay.post()]);
        const declined = await relay.post(66.6);
        await eventually(() => relay.primary.lookUpsOf(declined).length > 0);
        expect((await relay.ledger()).has(declined)).to.equal(false);
        relay.primary.onPayment = () => undefined;
        await relay.hurry([declined]);
        await relay.recorded([declined]);
        await relay.expectTrueBooks();
      },
      'records the requestedAt and the amount that the look-up gives': async () => {
        const relay = await scriptedRelay();
        relay.primary.onPayment =
          () =>
          // The gateway rounds the time to seconds.
          (arrival, gateway) => {
            gateway.charge({ ...arrival, requestedAt: `${arrival.requestedAt.slice(0, 19)}.000Z` });
            html(200, 'Thank you')(arrival, gateway);
          };
        relay.primary.onLookUp = () => tell;
        await relay.work();
        await relay.recorded(await relay.postMany(2));
        await relay.expectTrueBooks();
      },
    },
    { atOnce: 9 },
  );
});
