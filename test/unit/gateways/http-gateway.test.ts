import { expect } from 'chai';
import nock from 'nock';
import type { GatewayConfig } from '../../../src/config.ts';
import type { AttemptHistory } from '../../../src/gateways/gateway.ts';
import { HttpGateway } from '../../../src/gateways/http-gateway.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { type LogEntry, recordingLogger } from '../../support/logger.ts';

const URL = 'http://gateway.test:8001';
const ID = '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3';
const PAYMENT = { correlationId: ID, amountCents: 1990 };
const NOON = '2025-07-15T12:00:00.123Z';
const AT_NOON = { amountCents: 1990, requestedAt: new Date(NOON) };

const FIRST: AttemptHistory = { isFirst: true, isUnresolved: false, onNewConnection: false };
/** After an attempt that certainly was not paid. */
const AGAIN: AttemptHistory = { ...FIRST, isFirst: false };
const UNRESOLVED: AttemptHistory = { ...FIRST, isFirst: false, isUnresolved: true };

function gateway(config: Partial<GatewayConfig> = {}): HttpGateway & { log: readonly LogEntry[] } {
  const { logger, entries } = recordingLogger();
  const created = new HttpGateway(
    'primary',
    {
      url: URL,
      poolSize: 4,
      poolTimeoutMs: 1_000,
      receiveTimeoutMs: 1_000,
      connectionMaxAgeMs: 60_000,
      empty500: 'unknown',
      ...config,
    },
    logger,
  );
  atTestEnd(() => created.close());
  return Object.assign(created, { log: entries });
}

/** The gateway responds when the test calls `tell`. `asked` resolves when the request has arrived. */
function respondWhenTold(body = '') {
  const asked = Promise.withResolvers<void>();
  const told = Promise.withResolvers<void>();
  return {
    asked: asked.promise,
    tell: told.resolve,
    async reply() {
      asked.resolve();
      await told.promise;
      return body;
    },
  };
}

/** The gateway responds to one payment. @returns the requestedAt that it received, later */
function post(status = 200, body: string | object = { message: 'payment processed successfully' }) {
  const received = { requestedAt: '' };
  nock(URL)
    .post('/payments')
    .reply(status, async (request: Request) => {
      received.requestedAt = ((await request.json()) as { requestedAt: string }).requestedAt;
      return body;
    });
  return received;
}

/** The gateway responds to one look-up. */
function lookUp(body: string | object | (() => object), status = 200, id = ID) {
  return nock(URL)
    .get(`/payments/${id}`)
    .reply(status, () => (typeof body === 'function' ? body() : body));
}

/** Sends a payment whose body the look-up confirms. */
async function learn(to: HttpGateway): Promise<void> {
  const received = post();
  lookUp(() => ({ amount: 19.9, requestedAt: received.requestedAt }));
  expect((await to.send(PAYMENT, FIRST)).kind).to.equal('paid');
}

describe('HttpGateway', () => {
  let wasActive: boolean;
  before(() => {
    wasActive = nock.isActive();
    if (!wasActive) nock.activate();
    nock.disableNetConnect();
  });
  after(() => {
    nock.enableNetConnect();
    if (!wasActive) nock.restore();
  });

  it('shows its URL without user and password', () => {
    expect(gateway({ url: 'https://user:secret@gateway.test:8443/v1' }).url).to.equal('https://gateway.test:8443/v1');
    expect(gateway().url).to.equal(URL);
  });

  describe('send', () => {
    it('posts correlationId, amount and requestedAt as JSON', async () => {
      let request: Request | undefined;
      nock(URL)
        .post('/payments')
        .reply(429, (received: Request) => {
          request = received;
          return '';
        });
      const before = Date.now();
      await gateway().send(PAYMENT, FIRST);
      const { requestedAt, ...rest } = (await request!.json()) as { requestedAt: string };
      expect(rest).to.deep.equal({ correlationId: ID, amount: 19.9 });
      expect(requestedAt).to.match(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      expect(Date.parse(requestedAt)).to.be.within(before, Date.now());
      expect(request!.headers.get('content-type')).to.equal('application/json');
    });

    it('sends every cent of an amount', async () => {
      const texts: string[] = [];
      nock(URL)
        .post('/payments', (body: object) => {
          texts.push(/"amount":([^,]+),/.exec(JSON.stringify(body))![1]!);
          return true;
        })
        .times(6)
        .reply(429);
      const to = gateway();
      for (const amountCents of [1, 29, 110, 1999, 100, 4503599627370495]) {
        await to.send({ correlationId: ID, amountCents }, FIRST);
      }
      expect(texts).to.deep.equal(['0.01', '0.29', '1.1', '19.99', '1', '45035996273704.95']);
    });

    it('keeps the path of its base URL, for look-ups too', async () => {
      nock(URL).post('/v1/payments').reply(204);
      nock(URL).get(`/v1/payments/${ID}`).reply(200, { amount: 19.9, requestedAt: NOON });
      expect((await gateway({ url: `${URL}/v1` }).send(PAYMENT, FIRST)).kind).to.equal('paid');
    });

    it('does not follow a redirect', async () => {
      const to = gateway();
      for (const status of [301, 302, 303, 307, 308]) {
        nock(URL).post('/payments').reply(status, '', { location: 'http://other.test/payments' });
        const other = nock('http://other.test').post('/payments').reply(200);
        const otherGet = nock('http://other.test').get('/payments').reply(200);
        expect(await to.send(PAYMENT, FIRST)).to.include({ kind: 'unknown', evidence: 'response' });
        expect([other.isDone(), otherGet.isDone()]).to.deep.equal([false, false]);
        nock.cleanAll();
      }
    });

    it('makes one attempt when the connection breaks', async () => {
      let attempts = 0;
      nock(URL)
        .post('/payments', () => {
          attempts += 1;
          return true;
        })
        .replyWithError(Object.assign(new Error('reset'), { code: 'ECONNRESET' }));
      const outcome = await gateway().send(PAYMENT, FIRST);
      // nock makes no connection. How far a request got is tested over a real network.
      expect(outcome).to.have.nested.property('cause.code', 'ECONNRESET');
      expect(attempts).to.equal(1);
    });

    it('neither repeats nor looks up a payment that was not taken', async () => {
      const to = gateway();
      const kinds: string[] = [];
      for (const status of [429, 500, 502, 503, 504]) {
        post(status, '');
        const second = nock(URL).post('/payments').reply(200);
        const asked = nock(URL).get(`/payments/${ID}`).reply(200);
        kinds.push((await to.send(PAYMENT, FIRST)).kind);
        expect([second.isDone(), asked.isDone()]).to.deep.equal([false, false]);
        nock.cleanAll();
      }
      expect(kinds).to.deep.equal(['refused', 'unknown', 'unknown', 'unknown', 'unknown']);
    });

    it('returns doubtful with what a 400 says', async () => {
      post(400, { error: 'amount' });
      expect(await gateway().send(PAYMENT, FIRST)).to.deep.equal({
        kind: 'doubtful',
        evidence: 'response',
        cause: { code: 'http_400', detail: 'HTTP 400: {"error":"amount"}' },
      });
    });

    it('passes on the Retry-After of a 429 and a 503, and of no other status', async () => {
      const to = gateway();
      const waits: unknown[] = [];
      for (const status of [429, 503, 502, 400]) {
        nock(URL).post('/payments').reply(status, '{}', { 'retry-after': '5' });
        const outcome = await to.send(PAYMENT, FIRST);
        waits.push('retryAfterMs' in outcome ? outcome.retryAfterMs : undefined);
      }
      expect(waits).to.deep.equal([5_000, 5_000, undefined, undefined]);
    });

    it('looks up what is on record after a 422 or a 409', async () => {
      const to = gateway();
      for (const status of [422, 409]) {
        post(status, '');
        lookUp({ correlationId: ID, amount: 19.9, requestedAt: NOON });
        expect(await to.send(PAYMENT, FIRST)).to.deep.equal({ kind: 'already_paid', onRecord: AT_NOON });
      }
    });

    it('returns unknown without evidence after a 422 that the look-up does not confirm', async () => {
      const to = gateway();
      for (const [status, body] of [
        [404, ''],
        [503, ''],
        [200, '{}'],
      ] as const) {
        post(422, '');
        lookUp(body, status);
        const outcome = await to.send(PAYMENT, FIRST);
        expect(outcome).to.include({ kind: 'unknown', evidence: 'none' });
        expect(outcome).to.have.nested.property('cause.code', 'http_422');
      }
    });

    it('looks up after a 2xx that proves nothing, and returns what is on record', async () => {
      const to = gateway();
      for (const [status, body] of [
        [200, ''],
        [200, '<html>Welcome</html>'],
        [200, '[]'],
        [202, '{}'],
        [204, ''],
      ] as const) {
        post(status, body);
        lookUp({ amount: 19.9, requestedAt: NOON });
        expect(await to.send(PAYMENT, FIRST)).to.deep.equal({ kind: 'paid', onRecord: AT_NOON });
      }
    });

    it('returns unknown after a 2xx whose payment is not on record', async () => {
      const to = gateway();
      for (const body of ['<html>Welcome</html>', '{"message":"Welcome"}']) {
        post(200, body);
        lookUp('', 404);
        const outcome = await to.send(PAYMENT, FIRST);
        expect(outcome).to.include({ kind: 'unknown', evidence: 'response' });
        expect(outcome).to.have.nested.property('cause.code', 'http_200');
      }
    });

    it('accepts a known body without a look-up, with the requestedAt that it sent', async () => {
      const to = gateway();
      await learn(to);
      const received = post();
      const outcome = await to.send(PAYMENT, FIRST);
      expect(outcome).to.deep.equal({
        kind: 'paid',
        onRecord: { amountCents: 1990, requestedAt: new Date(received.requestedAt) },
      });
    });

    it('does not learn a body from a payment that was tried before', async () => {
      const to = gateway();
      for (let payment = 0; payment < 2; payment += 1) {
        const received = post();
        lookUp(() => ({ amount: 19.9, requestedAt: received.requestedAt }));
        expect((await to.send(PAYMENT, AGAIN)).kind).to.equal('paid');
      }
    });

    it('does not learn a body whose payment is on record with another time', async () => {
      const to = gateway();
      for (let payment = 0; payment < 2; payment += 1) {
        post();
        lookUp({ amount: 19.9, requestedAt: NOON });
        expect(await to.send(PAYMENT, FIRST)).to.deep.equal({ kind: 'paid', onRecord: AT_NOON });
      }
    });

    it('looks up the time of a payment with an unresolved attempt, because its response may be a replay', async () => {
      const to = gateway();
      await learn(to);
      post();
      lookUp({ amount: 19.9, requestedAt: NOON });
      expect(await to.send(PAYMENT, UNRESOLVED)).to.deep.equal({ kind: 'paid', onRecord: AT_NOON });
      post();
      lookUp('', 503);
      expect(await to.send(PAYMENT, UNRESOLVED)).to.include({ kind: 'unknown' });
    });

    it('still looks up after a 422: a proxy may respond to the repeated payment in place of the gateway', async () => {
      const to = gateway();
      await learn(to);
      post(422, '');
      lookUp({ amount: 19.9, requestedAt: NOON });
      await to.send(PAYMENT, FIRST);
      post();
      lookUp({ amount: 19.9, requestedAt: NOON });
      expect(await to.send(PAYMENT, UNRESOLVED)).to.deep.equal({ kind: 'paid', onRecord: AT_NOON });
    });

    it('returns pool_timeout without a request when no connection becomes free', async () => {
      const first = respondWhenTold();
      nock(URL).post('/payments').reply(429, first.reply);
      const busy = gateway({ poolSize: 1, poolTimeoutMs: 10 });
      expect(busy.hasFreeConnection).to.equal(true);
      const sent = busy.send(PAYMENT, FIRST);
      await first.asked;
      expect(busy.hasFreeConnection).to.equal(false);
      const outcome = await busy.send(PAYMENT, FIRST);
      expect(outcome).to.include({ kind: 'not_sent', reason: 'pool_timeout', evidence: 'none' });
      expect(outcome).to.have.nested.property('cause.code', 'pool_timeout');
      first.tell();
      expect((await sent).kind).to.equal('refused');
    });

    it('looks up within its own place in the pool', async () => {
      const single = gateway({ poolSize: 1, poolTimeoutMs: 10 });
      await learn(single);
      expect(single.hasFreeConnection).to.equal(true);
    });

    it('sets requestedAt when the request is sent, not when its wait began', async () => {
      const first = respondWhenTold();
      nock(URL).post('/payments').reply(429, first.reply);
      const busy = gateway({ poolSize: 1 });
      const sent = busy.send(PAYMENT, FIRST);
      await first.asked;
      const received = post(429, '');
      const waited = busy.send(PAYMENT, FIRST);
      const began = Date.now();
      while (Date.now() === began) await new Promise((resolve) => setImmediate(resolve));
      first.tell();
      await Promise.all([sent, waited]);
      expect(Date.parse(received.requestedAt)).to.be.above(began);
    });

    it('gives its connection back whatever the outcome', async () => {
      const single = gateway({ poolSize: 1, poolTimeoutMs: 10 });
      nock(URL)
        .post('/payments')
        .replyWithError(Object.assign(new Error('reset'), { code: 'ECONNRESET' }));
      post(500, '');
      lookUp('no JSON');
      nock(URL).get(`/payments/${ID}`).replyWithError(new Error('reset'));
      const outcomes = [await single.send(PAYMENT, FIRST), await single.send(PAYMENT, FIRST)];
      for (let ask = 0; ask < 2; ask += 1) await single.findPayment(ID);
      post(429, '');
      outcomes.push(await single.send(PAYMENT, FIRST));
      const codes = outcomes.map((outcome) => 'cause' in outcome && outcome.cause.code);
      expect(codes).to.deep.equal(['ECONNRESET', 'http_500', 'http_429']);
    });
  });

  describe('findPayment', () => {
    it('returns what is on record', async () => {
      lookUp({ correlationId: ID, amount: 19.9, requestedAt: NOON });
      expect(await gateway().findPayment(ID)).to.deep.equal({ kind: 'on_record', onRecord: AT_NOON });
    });

    it('asks caches in between not to respond', async () => {
      const asked = nock(URL, { reqheaders: { 'cache-control': 'no-cache' } })
        .get(`/payments/${ID}`)
        .reply(404);
      expect(await gateway().findPayment(ID)).to.deep.equal({ kind: 'not_found' });
      expect(asked.isDone()).to.equal(true);
    });

    it('returns not_found for a 404, even with a payment in it', async () => {
      lookUp({ amount: 19.9, requestedAt: NOON }, 404);
      expect(await gateway().findPayment(ID)).to.deep.equal({ kind: 'not_found' });
    });

    it('returns no_response for any other response', async () => {
      const to = gateway();
      const payment = JSON.stringify({ amount: 19.9, requestedAt: NOON });
      const other = JSON.stringify({ correlationId: NOON, amount: 19.9, requestedAt: NOON });
      for (const [status, body] of [
        [500, ''],
        [429, ''],
        [503, payment],
        [201, payment],
        [206, payment],
        [204, ''],
        [200, ''],
        [200, '<html>'],
        [200, '{}'],
        [200, other],
        [200, payment.slice(0, -5)],
      ] as const) {
        lookUp(body, status);
        const found = await to.findPayment(ID);
        expect(found.kind, `${status} ${body}`).to.equal('no_response');
        expect(found).to.have.nested.property('cause.code', `http_${status}`);
      }
    });

    it('returns no_response when the connection breaks', async () => {
      nock(URL)
        .get(`/payments/${ID}`)
        .replyWithError(Object.assign(new Error('reset'), { code: 'ECONNRESET' }));
      expect(await gateway().findPayment(ID)).to.have.nested.property('cause.code', 'ECONNRESET');
    });

    it('returns no_response when none comes within the receive time-out', async () => {
      const { reply, tell } = respondWhenTold();
      nock(URL).get(`/payments/${ID}`).reply(200, reply);
      expect((await gateway({ receiveTimeoutMs: 20 }).findPayment(ID)).kind).to.equal('no_response');
      tell();
    });

    it('returns no_response without a request when no connection becomes free', async () => {
      const first = respondWhenTold();
      nock(URL).post('/payments').reply(429, first.reply);
      const busy = gateway({ poolSize: 1, poolTimeoutMs: 10 });
      const sent = busy.send(PAYMENT, FIRST);
      await first.asked;
      const asked = nock(URL).get(`/payments/${ID}`).reply(200, { amount: 19.9, requestedAt: NOON });
      expect(await busy.findPayment(ID)).to.have.nested.property('cause.code', 'pool_timeout');
      expect(asked.isDone()).to.equal(false);
      nock.cleanAll();
      first.tell();
      await sent;
    });

    it('does not follow a redirect', async () => {
      nock(URL).get(`/payments/${ID}`).reply(302, '', { location: 'http://other.test/' });
      const other = nock('http://other.test').get('/').reply(200, { amount: 1, requestedAt: NOON });
      expect((await gateway().findPayment(ID)).kind).to.equal('no_response');
      expect(other.isDone()).to.equal(false);
      nock.cleanAll();
    });
  });
});
