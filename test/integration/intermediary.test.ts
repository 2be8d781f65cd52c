import { expect } from 'chai';
import { atTestEnd } from '../support/cleanup.ts';
import { createIntermediary, OWN_RESPONSES } from '../support/intermediary.ts';
import { aPayment, testGateway } from '../support/relay.ts';

async function stage() {
  const gateway = await testGateway();
  const intermediary = await createIntermediary(gateway.url);
  atTestEnd(intermediary.close);
  return {
    gateway,
    intermediary,
    async pay(payment = aPayment()) {
      const response = await fetch(`${intermediary.url}/payments`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ ...payment, requestedAt: new Date().toISOString() }),
      });
      return { id: payment.correlationId, status: response.status, body: await response.text() };
    },
    lookUp: async (id: string) => (await fetch(`${intermediary.url}/payments/${id}`)).status,
  };
}

describe('intermediary', () => {
  it('passes everything by default', async () => {
    const { gateway, intermediary, pay, lookUp } = await stage();
    const { id, status, body } = await pay();
    expect({ status, body }).to.deep.equal({ status: 200, body: '{"message":"payment processed successfully"}' });
    expect(await lookUp(id)).to.equal(200);
    expect(gateway.payments.has(id)).to.equal(true);
    expect(intermediary.requests.map(({ method, correlationId }) => ({ method, correlationId }))).to.deep.equal([
      { method: 'POST', correlationId: id },
      { method: 'GET', correlationId: id },
    ]);
  });

  it('responds before the charge, so that the gateway never gets the request', async () => {
    const { gateway, intermediary, pay } = await stage();
    intermediary.set({ payments: { response: OWN_RESPONSES.welcome200 } });
    const { status, body } = await pay();
    expect(status).to.equal(200);
    expect(body).to.contain('Welcome to nginx!');
    expect(gateway.requests.total).to.equal(0);
  });

  it('responds at once while the gateway charges later', async () => {
    const { gateway, intermediary, pay } = await stage();
    gateway.set({ delayMs: 100 });
    intermediary.set({ payments: { when: 'during', response: OWN_RESPONSES.empty504 } });
    const { id, status } = await pay();
    expect(status).to.equal(504);
    expect(gateway.payments.has(id)).to.equal(false);
    await gateway.waitFor(({ payments }) => payments.has(id));
  });

  it('responds after the charge in place of a response that says that the payment is on record', async () => {
    const { gateway, intermediary, pay } = await stage();
    intermediary.set({ payments: { when: 'after', response: OWN_RESPONSES.empty502 } });
    const payment = aPayment();
    expect((await pay(payment)).status).to.equal(502);
    expect(gateway.payments.has(payment.correlationId)).to.equal(true);
    expect((await pay(payment)).status, 'in place of 422').to.equal(502);
    gateway.set({ failure: true });
    expect((await pay()).status, "the gateway's own failure").to.equal(500);
  });

  it('treats look-ups separately from payments', async () => {
    const { intermediary, pay, lookUp } = await stage();
    intermediary.set({ lookUps: { response: OWN_RESPONSES.empty404 } });
    const { id, status } = await pay();
    expect(status).to.equal(200);
    expect(await lookUp(id)).to.equal(404);
  });

  it('intercepts every nth request', async () => {
    const { intermediary, pay } = await stage();
    intermediary.set({ payments: { response: OWN_RESPONSES.html503, every: 3 } });
    const statuses = [];
    for (let count = 0; count < 6; count += 1) statuses.push((await pay()).status);
    expect(statuses).to.deep.equal([200, 200, 503, 200, 200, 503]);
    expect(intermediary.requests.filter(({ isIntercepted }) => isIntercepted)).to.have.length(2);
  });

  it('responds with an empty 502 when the gateway is down', async () => {
    const { gateway, pay } = await stage();
    await gateway.close();
    const { status, body } = await pay();
    expect({ status, body }).to.deep.equal({ status: 502, body: '' });
  });
});
