import { expect } from 'chai';
import nock from 'nock';
import type { GatewayConfig } from '../../../src/config.ts';
import { HttpGateway, parseHeldPayment } from '../../../src/gateways/http-gateway.ts';
import { atTestEnd as undoAfter } from '../../support/cleanup.ts';

const URL = 'http://gateway.test:8001';
const ID = '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3';
const PAYMENT = { correlationId: ID, amountCents: 1990 };

function gateway(config: Partial<GatewayConfig> = {}): HttpGateway {
  const created = new HttpGateway('default', {
    url: URL,
    poolSize: 4,
    poolTimeoutMs: 1_000,
    receiveTimeoutMs: 1_000,
    ...config,
  });
  undoAfter(() => created.close());
  return created;
}

/** A gateway's answer that comes when the test says so; `asked` tells that the request is there. */
function answerWhenTold() {
  const asked = Promise.withResolvers<void>();
  const told = Promise.withResolvers<void>();
  return {
    asked: asked.promise,
    tell: told.resolve,
    async reply() {
      asked.resolve();
      await told.promise;
      return '';
    },
  };
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

  describe('send', () => {
    it('posts correlationId, amount and requestedAt as JSON', async () => {
      let request: Request | undefined;
      nock(URL)
        .post('/payments')
        .reply(200, (received: Request) => {
          request = received;
          return { message: 'payment processed successfully' };
        });
      const before = Date.now();
      const outcome = await gateway().send(PAYMENT);
      expect(outcome.kind).to.equal('paid');
      const { requestedAt, ...rest } = (await request!.json()) as { requestedAt: string };
      expect(rest).to.deep.equal({ correlationId: ID, amount: 19.9 });
      expect(requestedAt).to.match(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/);
      expect(Date.parse(requestedAt)).to.be.within(before, Date.now());
      expect(outcome).to.deep.equal({ kind: 'paid', requestedAt: new Date(requestedAt) });
      expect(request!.headers.get('content-type')).to.equal('application/json');
    });

    const amounts: [cents: number, text: string][] = [
      [1, '0.01'],
      [29, '0.29'],
      [110, '1.1'],
      [1999, '19.99'],
      [100, '1'],
      [4503599627370495, '45035996273704.95'],
    ];
    for (const [amountCents, text] of amounts) {
      it(`sends ${amountCents} cents as ${text}`, async () => {
        let sent = '';
        nock(URL)
          .post('/payments', (body: object) => {
            sent = JSON.stringify(body);
            return true;
          })
          .reply(200);
        await gateway().send({ correlationId: ID, amountCents });
        expect(sent).to.include(`"amount":${text},`);
      });
    }

    it('keeps the path of its base URL', async () => {
      nock(URL).post('/v1/payments').reply(200);
      expect((await gateway({ url: `${URL}/v1` }).send(PAYMENT)).kind).to.equal('paid');
    });

    const answers: [status: number, body: string, outcome: object][] = [
      [201, '', { kind: 'paid' }],
      [422, '', { kind: 'already_paid' }],
      [429, '', { kind: 'refused', cause: 'HTTP 429' }],
      [500, '', { kind: 'refused', cause: 'HTTP 500' }],
      [500, '{"message":"something broke"}', { kind: 'unknown', cause: 'HTTP 500' }],
      [400, 'amount is wrong', { kind: 'invalid', cause: 'HTTP 400: amount is wrong' }],
      [404, '', { kind: 'unknown', cause: 'HTTP 404' }],
    ];
    for (const [status, body, outcome] of answers) {
      it(`returns ${Object.values(outcome).join(', ')} for ${status} with ${body || 'an empty body'}`, async () => {
        nock(URL).post('/payments').reply(status, body);
        expect(await gateway().send(PAYMENT)).to.include(outcome);
      });
    }

    for (const status of [301, 302, 303, 307, 308]) {
      it(`does not follow a redirect by ${status}`, async () => {
        nock(URL).post('/payments').reply(status, '', { location: 'http://other.test/payments' });
        const other = nock('http://other.test').post('/payments').reply(200);
        const otherGet = nock('http://other.test').get('/payments').reply(200);
        expect(await gateway().send(PAYMENT)).to.deep.equal({ kind: 'unknown', cause: `HTTP ${status}` });
        expect([other.isDone(), otherGet.isDone()]).to.deep.equal([false, false]);
        nock.cleanAll();
      });
    }

    const failures: [code: string, outcome: object][] = [
      ['ECONNREFUSED', { kind: 'not_sent', reason: 'unreachable' }],
      ['ENOTFOUND', { kind: 'not_sent', reason: 'unreachable' }],
      ['ECONNRESET', { kind: 'unknown' }],
      ['EPIPE', { kind: 'unknown' }],
    ];
    for (const [code, outcome] of failures) {
      it(`returns ${Object.values(outcome).join(', ')} for ${code}, after one attempt`, async () => {
        let attempts = 0;
        nock(URL)
          .post('/payments', () => {
            attempts += 1;
            return true;
          })
          .replyWithError(Object.assign(new Error(code), { code }));
        expect(await gateway().send(PAYMENT)).to.include(outcome);
        expect(attempts).to.equal(1);
      });
    }

    for (const status of [429, 500, 503]) {
      it(`does not repeat after ${status}`, async () => {
        nock(URL).post('/payments').reply(status, '', { 'retry-after': '0' });
        const second = nock(URL).post('/payments').reply(200);
        expect((await gateway().send(PAYMENT)).kind).to.equal('refused');
        expect(second.isDone()).to.equal(false);
        nock.cleanAll();
      });
    }

    it('returns pool_timeout without a request when no connection becomes free', async () => {
      const first = answerWhenTold();
      nock(URL).post('/payments').reply(200, first.reply);
      const busy = gateway({ poolSize: 1, poolTimeoutMs: 10 });
      const sent = busy.send(PAYMENT);
      await first.asked;
      expect(await busy.send(PAYMENT)).to.deep.equal({
        kind: 'not_sent',
        reason: 'pool_timeout',
        cause: 'no connection to the default gateway became free within 10 ms',
      });
      first.tell();
      expect((await sent).kind).to.equal('paid');
    });

    it('sets requestedAt when the request is sent, not when it began to wait', async () => {
      const first = answerWhenTold();
      nock(URL).post('/payments').reply(200, first.reply);
      const busy = gateway({ poolSize: 1 });
      const sent = busy.send(PAYMENT);
      await first.asked;
      nock(URL).post('/payments').reply(200);
      const waited = busy.send(PAYMENT);
      const began = Date.now();
      while (Date.now() === began) await new Promise((resolve) => setImmediate(resolve));
      first.tell();
      await sent;
      const outcome = await waited;
      expect(outcome.kind === 'paid' && outcome.requestedAt.getTime()).to.be.above(began);
    });

    it('gives its connection back whatever the outcome', async () => {
      const single = gateway({ poolSize: 1, poolTimeoutMs: 10 });
      nock(URL)
        .post('/payments')
        .replyWithError(Object.assign(new Error('reset'), { code: 'ECONNRESET' }));
      nock(URL).post('/payments').reply(500);
      nock(URL).get(`/payments/${ID}`).reply(200, 'no JSON');
      nock(URL).get(`/payments/${ID}`).replyWithError(new Error('reset'));
      nock(URL).post('/payments').reply(200);
      const outcomes = [await single.send(PAYMENT), await single.send(PAYMENT)].map(({ kind }) => kind);
      for (let ask = 0; ask < 2; ask += 1) await single.findPayment(ID);
      outcomes.push((await single.send(PAYMENT)).kind);
      expect(outcomes).to.deep.equal(['unknown', 'refused', 'paid']);
    });
  });

  describe('findPayment', () => {
    const NOON = '2025-07-15T12:00:00.123Z';
    const held: [title: string, body: object, amountCents: number, requestedAt: string][] = [
      ['a payment', { correlationId: ID, amount: 19.9, requestedAt: NOON }, 1990, NOON],
      ['a time without the Z as UTC', { amount: 19.9, requestedAt: '2025-07-15T12:00:00.123' }, 1990, NOON],
      ['a time with an offset', { amount: 19.9, requestedAt: '2025-07-15T09:00:00.123-03:00' }, 1990, NOON],
      ['an offset without a colon', { amount: 19.9, requestedAt: '2025-07-15T14:00:00.123+0200' }, 1990, NOON],
      ['more digits than it keeps', { amount: 19.9, requestedAt: '2025-07-15T12:00:00.1239999Z' }, 1990, NOON],
      ['an amount of its own', { amount: 0.01, requestedAt: NOON }, 1, NOON],
    ];
    for (const [title, body, amountCents, requestedAt] of held) {
      it(`reads ${title}`, async () => {
        nock(URL).get(`/payments/${ID}`).reply(200, body);
        expect(await gateway().findPayment(ID)).to.deep.equal({ amountCents, requestedAt: new Date(requestedAt) });
      });
    }

    it('takes a time without an offset as UTC, whatever the time zone of the machine', async () => {
      const { TZ } = process.env;
      undoAfter(() => {
        if (TZ === undefined) delete process.env['TZ'];
        else process.env['TZ'] = TZ;
      });
      process.env['TZ'] = 'America/Sao_Paulo';
      expect(new Date(NOON).getTimezoneOffset()).to.equal(180);
      nock(URL).get(`/payments/${ID}`).reply(200, { amount: 19.9, requestedAt: '2025-07-15T12:00:00.123' });
      expect((await gateway().findPayment(ID))?.requestedAt.toISOString()).to.equal(NOON);
    });

    const useless: [title: string, status: number, body: string][] = [
      ['404', 404, ''],
      ['404 with a payment', 404, JSON.stringify({ amount: 19.9, requestedAt: NOON })],
      ['500', 500, ''],
      ['429', 429, ''],
      ['204', 204, ''],
      ['an empty body', 200, ''],
      ['garbage', 200, '<html>'],
      ['cut-off JSON', 200, '{"amount":19.9,"requestedAt":"2025'],
      ['null', 200, 'null'],
      ['an empty object', 200, '{}'],
      ['a list', 200, '[]'],
      ['no amount', 200, JSON.stringify({ requestedAt: NOON })],
      ['an amount that is a text', 200, JSON.stringify({ amount: '19.9', requestedAt: NOON })],
      ['an amount of three decimals', 200, JSON.stringify({ amount: 19.999, requestedAt: NOON })],
      ['no time', 200, JSON.stringify({ amount: 19.9 })],
      ['a time that is null', 200, JSON.stringify({ amount: 19.9, requestedAt: null })],
      ['a time that is none', 200, JSON.stringify({ amount: 19.9, requestedAt: 'soon' })],
    ];
    for (const [title, status, body] of useless) {
      it(`returns undefined for ${title}`, async () => {
        nock(URL).get(`/payments/${ID}`).reply(status, body);
        expect(await gateway().findPayment(ID)).to.equal(undefined);
      });
    }

    it('returns undefined when the connection breaks', async () => {
      nock(URL)
        .get(`/payments/${ID}`)
        .replyWithError(Object.assign(new Error('reset'), { code: 'ECONNRESET' }));
      expect(await gateway().findPayment(ID)).to.equal(undefined);
    });

    it('returns undefined when no answer comes within the receive time-out', async () => {
      const { reply, tell } = answerWhenTold();
      nock(URL).get(`/payments/${ID}`).reply(200, reply);
      expect(await gateway({ receiveTimeoutMs: 20 }).findPayment(ID)).to.equal(undefined);
      tell();
    });

    it('returns undefined without a request when no connection becomes free', async () => {
      const first = answerWhenTold();
      nock(URL).post('/payments').reply(200, first.reply);
      const busy = gateway({ poolSize: 1, poolTimeoutMs: 10 });
      const sent = busy.send(PAYMENT);
      await first.asked;
      const asked = nock(URL).get(`/payments/${ID}`).reply(200, { amount: 19.9, requestedAt: NOON });
      expect(await busy.findPayment(ID)).to.equal(undefined);
      expect(asked.isDone()).to.equal(false);
      nock.cleanAll();
      first.tell();
      await sent;
    });

    it('does not follow a redirect', async () => {
      nock(URL).get(`/payments/${ID}`).reply(302, '', { location: 'http://other.test/' });
      const other = nock('http://other.test').get('/').reply(200, { amount: 1, requestedAt: NOON });
      expect(await gateway().findPayment(ID)).to.equal(undefined);
      expect(other.isDone()).to.equal(false);
      nock.cleanAll();
    });
  });
});

describe('parseHeldPayment', () => {
  for (const requestedAt of ['5', '2025', 'yesterday', '', null, 1_700_000_000_000]) {
    it(`does not take ${JSON.stringify(requestedAt)} for a time`, () => {
      expect(parseHeldPayment(JSON.stringify({ amount: 1, requestedAt }))).to.equal(undefined);
    });
  }
});
