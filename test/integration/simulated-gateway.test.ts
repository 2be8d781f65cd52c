import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { request } from 'node:http';
import { createInterface } from 'node:readline';
import { expect } from 'chai';
import {
  createSimulatedGateway,
  type SimulatedGateway,
  type SimulatedGatewayOptions,
} from '../../dev/simulated-gateway/simulated-gateway.ts';
import { atTestEnd } from '../support/cleanup.ts';

const TOKEN = { 'X-Rinha-Token': '123' };
const NOON = '2025-07-15T12:00:00.000Z';

let gateway: SimulatedGateway;
let url: string;

async function start(options?: SimulatedGatewayOptions): Promise<void> {
  const started = createSimulatedGateway(options);
  atTestEnd(() => started.close());
  gateway = started;
  ({ url } = await gateway.listen());
}

function payment(fields: Record<string, unknown> = {}): Record<string, unknown> {
  return { correlationId: randomUUID(), amount: 19.9, requestedAt: NOON, ...fields };
}

/** Sends any value as JSON, but a string as it is. */
function post(body: unknown): Promise<Response> {
  const text = typeof body === 'string' ? body : JSON.stringify(body);
  return fetch(`${url}/payments`, { method: 'POST', body: text, headers: { 'Content-Type': 'application/json' } });
}

/** A payment whose caller can hang up. */
function postAndHold(body: Record<string, unknown>): { hangUp(): Promise<void> } {
  const req = request(`${url}/payments`, { method: 'POST', agent: false });
  req.on('error', () => {}); // hanging up causes one
  req.end(JSON.stringify(body));
  return {
    async hangUp() {
      const closed = new Promise<void>((resolve) => req.once('close', resolve));
      req.destroy();
      await closed;
    },
  };
}

/** In ten lanes, each with one keep-alive connection. */
async function postMany(count: number, fields: Record<string, unknown> = {}): Promise<void> {
  let left = count;
  const lane = async () => {
    while (left-- > 0) await (await post(payment(fields))).text();
  };
  await Promise.all(Array.from({ length: 10 }, lane));
}

function admin(method: string, path: string, body?: unknown, headers: Record<string, string> = TOKEN) {
  return fetch(`${url}/admin/${path}`, { method, headers, body: body === undefined ? null : JSON.stringify(body) });
}

async function summary(query = ''): Promise<Record<string, number>> {
  return (await (await admin('GET', `payments-summary${query}`)).json()) as Record<string, number>;
}

describe('simulated gateway: POST /payments', () => {
  it('responds 200 with the official message and stores the payment', async () => {
    await start();
    const sent = payment();
    const res = await post(sent);
    expect(res.status).to.equal(200);
    expect(res.headers.get('content-type')).to.match(/^application\/json/);
    expect(await res.json()).to.deep.equal({ message: 'payment processed successfully' });
    expect([...gateway.payments.values()]).to.deep.equal([sent]);
  });

  it('keeps the UUID in lower case and requestedAt in ISO UTC with ms', async () => {
    await start();
    const id = randomUUID();
    await post(payment({ correlationId: id.toUpperCase(), requestedAt: '2025-07-15T14:30:00.1239999+02:30' }));
    expect(gateway.payments.get(id)).to.deep.equal({
      correlationId: id,
      amount: 19.9,
      requestedAt: '2025-07-15T12:00:00.123Z',
    });
  });

  it('takes a requestedAt without an offset as UTC', async () => {
    await start();
    await post(payment({ requestedAt: '2025-07-15T12:00:00' }));
    expect([...gateway.payments.values()][0]?.requestedAt).to.equal(NOON);
  });

  it('rounds an amount to cents, half to even', async () => {
    const rounded: [number, number][] = [
      [0.01, 0.01],
      [0.125, 0.12],
      [0.135, 0.14],
      [19.905, 19.9],
      [19.915, 19.92],
      [1.005, 1],
      [1.0050001, 1.01],
      [0.004, 0],
      [1e-7, 0],
      [8.2, 8.2],
      [90071992547409.91, 90071992547409.91],
    ];
    await start();
    for (const [sent, kept] of rounded) {
      const fields = payment({ amount: sent });
      expect((await post(fields)).status).to.equal(200);
      expect(gateway.payments.get(String(fields['correlationId']))?.amount, String(sent)).to.equal(kept);
    }
  });

  it('responds 422 to a known id in either case and keeps what was stored first', async () => {
    await start();
    const first = payment();
    await post(first);
    const again = { ...first, amount: 5, requestedAt: '2025-07-15T12:00:09.000Z' };
    for (const id of [first['correlationId'], String(first['correlationId']).toUpperCase()]) {
      const res = await post({ ...again, correlationId: id });
      expect(res.status).to.equal(422);
      expect(await res.json())
        .to.have.property('message')
        .that.contains('CorrelationId already exists');
    }
    expect([...gateway.payments.values()]).to.deep.equal([first]);
  });

  it('stores one of many requests with the same id that pass the delay together', async () => {
    await start({ delayMs: 30 });
    const same = payment();
    const statuses = await Promise.all(Array.from({ length: 20 }, async () => (await post(same)).status));
    expect(statuses.filter((status) => status === 200)).to.have.length(1);
    expect(statuses.filter((status) => status === 422)).to.have.length(19);
    expect(gateway.payments.size).to.equal(1);
  });

  const invalid: [string, unknown][] = [
    ['responds 400 to a body that is not JSON', '{"correlationId":'],
    ['responds 400 to an empty body', ''],
    ['responds 400 to JSON that is not an object', 'null'],
    ['responds 400 to a missing correlationId', payment({ correlationId: undefined })],
    ['responds 400 to a correlationId that is not a UUID', payment({ correlationId: '123' })],
    ['responds 400 to a number as correlationId', payment({ correlationId: 1 })],
    ['responds 400 to a missing amount', payment({ amount: undefined })],
    ['responds 400 to amount 0', payment({ amount: 0 })],
    ['responds 400 to a negative amount', payment({ amount: -1 })],
    ['responds 400 to an amount in quotes', payment({ amount: '19.90' })],
    ['responds 400 to an amount beyond exact cents', payment({ amount: 1e15 })],
    ['responds 400 to an infinite amount', '{"correlationId":"4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3","amount":1e999}'],
    ['responds 400 to a missing requestedAt', payment({ requestedAt: undefined })],
    ['responds 400 to a requestedAt in words', payment({ requestedAt: 'yesterday' })],
    ['responds 400 to a requestedAt on 30 February', payment({ requestedAt: '2025-02-30T12:00:00.000Z' })],
    ['responds 400 to a requestedAt at 24:00', payment({ requestedAt: '2025-02-03T24:00:00.000Z' })],
    ['responds 400 to a number as requestedAt', payment({ requestedAt: 1752580800000 })],
  ];
  for (const [what, body] of invalid) {
    it(`responds 400 with a message to ${what}`, async () => {
      await start();
      const res = await post(body);
      expect(res.status).to.equal(400);
      expect(await res.json())
        .to.have.property('message')
        .that.is.a('string');
      expect(gateway.payments.size).to.equal(0);
    });
  }

  it('responds 413 to a body over 64 KiB and goes on', async () => {
    await start();
    expect((await post(`{"x":"${'x'.repeat(70_000)}"}`)).status).to.equal(413);
    expect((await post(payment())).status).to.equal(200);
  });

  it('waits for the delay before it responds', async () => {
    await start({ delayMs: 80 });
    const startedAt = performance.now();
    expect((await post(payment())).status).to.equal(200);
    expect(performance.now() - startedAt).to.be.at.least(75);
  });

  it('responds 500 with an empty body while failure is on, and stores nothing', async () => {
    await start({ failure: true });
    const res = await post(payment());
    expect(res.status).to.equal(500);
    expect(await res.text()).to.equal('');
    expect(gateway.payments.size).to.equal(0);
  });

  it('responds 500 when failure comes on during the delay', async () => {
    await start({ delayMs: 100 });
    const response = post(payment());
    await gateway.waitFor(({ requests }) => requests.inFlight === 1);
    gateway.set({ failure: true });
    expect((await response).status).to.equal(500);
    expect(gateway.payments.size).to.equal(0);
  });

  it('pays when failure goes off during the delay', async () => {
    await start({ delayMs: 100, failure: true });
    const response = post(payment());
    await gateway.waitFor(({ requests }) => requests.inFlight === 1);
    gateway.set({ failure: false });
    expect((await response).status).to.equal(200);
    expect(gateway.payments.size).to.equal(1);
  });

  it('keeps the delay that a request started with', async () => {
    await start({ delayMs: 60 });
    const response = post(payment());
    await gateway.waitFor(({ requests }) => requests.inFlight === 1);
    gateway.set({ delayMs: 600_000 });
    expect((await response).status).to.equal(200);
  });

  it('charges a payment whose caller hung up during the delay', async () => {
    await start({ delayMs: 150 });
    const sent = payment();
    const caller = postAndHold(sent);
    await gateway.waitFor(({ requests }) => requests.inFlight === 1);
    await caller.hangUp();
    expect(gateway.payments.size).to.equal(0);
    expect((await fetch(`${url}/payments/${sent['correlationId']}`)).status).to.equal(404);
    await gateway.waitFor(({ payments }) => payments.size === 1);
    expect(gateway.requests.responded(200)).to.equal(1);
    expect((await post(sent)).status).to.equal(422);
  });

  it('does not charge a payment whose caller hung up when failure was switched on during the delay', async () => {
    await start({ delayMs: 100 });
    const caller = postAndHold(payment());
    await gateway.waitFor(({ requests }) => requests.inFlight === 1);
    await caller.hangUp();
    gateway.set({ failure: true });
    await gateway.waitFor(({ requests }) => requests.responded(500) === 1);
    expect(gateway.payments.size).to.equal(0);
  });

  it('counts requests and when each id arrived', async () => {
    await start();
    const sent = payment();
    const before = Date.now();
    await post(sent);
    await post(sent);
    await post('no json');
    const times = gateway.requests.receivedAt(String(sent['correlationId']).toUpperCase());
    expect(gateway.requests.total).to.equal(3);
    expect(times).to.have.length(2);
    for (const time of times) expect(time).to.be.within(before, Date.now());
    expect([200, 422, 400, 500].map((status) => gateway.requests.responded(status))).to.deep.equal([1, 1, 1, 0]);
    expect(gateway.requests.receivedAt(randomUUID())).to.deep.equal([]);
  });
});

describe('simulated gateway: the 429 limit of POST /payments', () => {
  it('queues payments beyond its places and responds 429 to those beyond the queue, uncharged', async () => {
    await start({ maxConcurrent: 1, maxQueued: 2, delayMs: 300 });
    const queued = [payment(), payment(), payment()];
    const responses: Promise<Response>[] = [];
    for (const [index, sent] of queued.entries()) {
      responses.push(post(sent));
      await gateway.waitFor(({ requests }) => requests.total === index + 1);
    }
    expect([gateway.requests.inFlight, gateway.requests.queued]).to.deep.equal([1, 2]);

    const refused = payment();
    const res = await post(refused);
    expect(res.status).to.equal(429);
    expect(res.headers.get('retry-after')).to.equal('5');

    const order: number[] = [];
    const statuses = responses.map(async (response, index) => {
      const { status } = await response;
      order.push(index);
      return status;
    });
    expect(await Promise.all(statuses)).to.deep.equal([200, 200, 200]);
    expect(order).to.deep.equal([0, 1, 2]);
    expect([...gateway.payments.keys()]).to.deep.equal(queued.map((sent) => sent['correlationId']));
    expect([gateway.requests.inFlight, gateway.requests.queued]).to.deep.equal([0, 0]);
    expect((await post(refused)).status).to.equal(200);
  });

  it('drops a queued payment whose caller hung up', async () => {
    await start({ maxConcurrent: 1, maxQueued: 1, delayMs: 200 });
    const first = post(payment());
    await gateway.waitFor(({ requests }) => requests.inFlight === 1);
    const caller = postAndHold(payment());
    await gateway.waitFor(({ requests }) => requests.queued === 1);
    await caller.hangUp();
    await gateway.waitFor(({ requests }) => requests.queued === 0);
    expect((await first).status).to.equal(200);
    expect(gateway.requests.inFlight).to.equal(0);
    expect(gateway.payments.size).to.equal(1);
  });

  it('gives places back after invalid, failed and repeated payments', async () => {
    await start({ maxConcurrent: 1, maxQueued: 0 });
    const sent = payment();
    gateway.set({ failure: true });
    expect((await post(sent)).status).to.equal(500);
    gateway.set({ failure: false });
    expect((await post('no json')).status).to.equal(400);
    expect((await post(sent)).status).to.equal(200);
    expect((await post(sent)).status).to.equal(422);
    expect((await post(payment())).status).to.equal(200);
  });

  it('empties a long queue in one go', async () => {
    await start({ maxConcurrent: 1, maxQueued: 400, delayMs: 300 });
    const first = post(payment());
    await gateway.waitFor(({ requests }) => requests.inFlight === 1);
    gateway.set({ delayMs: 0 });
    const others = Array.from({ length: 400 }, async () => (await post(payment())).status);
    expect((await first).status).to.equal(200);
    expect(new Set(await Promise.all(others))).to.deep.equal(new Set([200]));
    expect(gateway.payments.size).to.equal(401);
  });
});

describe('simulated gateway: GET /payments/service-health', () => {
  const health = () => fetch(`${url}/payments/service-health`);

  it('shows failure, and the delay as minResponseTime', async () => {
    await start({ delayMs: 1234 });
    const res = await health();
    expect(res.status).to.equal(200);
    expect(await res.json()).to.deep.equal({ failing: false, minResponseTime: 1234 });
  });

  it('responds 503 with the same body while failure is on', async () => {
    await start({ failure: true });
    const res = await health();
    expect(res.status).to.equal(503);
    expect(await res.json()).to.deep.equal({ failing: true, minResponseTime: 0 });
  });

  it('serves one call per window, lets two wait and responds 429 with Retry-After to the rest', async () => {
    await start({ healthIntervalMs: 60_000 });
    expect((await health()).status).to.equal(200);
    const waiting = [health(), health()].map((response) => response.catch((error: Error) => error));
    await gateway.waitFor(({ healthCalls }) => healthCalls.queued === 2);
    for (let call = 0; call < 3; call += 1) {
      const res = await health();
      expect(res.status).to.equal(429);
      expect(res.headers.get('retry-after')).to.equal('60');
    }
    expect(gateway.healthCalls.total).to.equal(6);
    await gateway.close();
    for (const response of await Promise.all(waiting)) expect(response).to.be.an('error');
  });

  it('serves waiting calls in the windows that follow, with the state of that time', async () => {
    const startedAt = performance.now();
    await start({ healthIntervalMs: 300 });
    await health();
    const second = health();
    await gateway.waitFor(({ healthCalls }) => healthCalls.queued === 1);
    const third = health();
    await gateway.waitFor(({ healthCalls }) => healthCalls.queued === 2);
    gateway.set({ delayMs: 7 });
    expect(await (await second).json()).to.deep.equal({ failing: false, minResponseTime: 7 });
    expect(performance.now() - startedAt).to.be.at.least(300);
    expect((await third).status).to.equal(200);
    expect(performance.now() - startedAt).to.be.at.least(600);
  });

  it('drops a waiting caller that hung up', async () => {
    await start({ healthIntervalMs: 60_000 });
    await health();
    const leaving = new AbortController();
    const gone = fetch(`${url}/payments/service-health`, { signal: leaving.signal }).catch(() => 'gone');
    await gateway.waitFor(({ healthCalls }) => healthCalls.queued === 1);
    leaving.abort();
    expect(await gone).to.equal('gone');
    await gateway.waitFor(({ healthCalls }) => healthCalls.queued === 0);
  });
});

describe('simulated gateway: GET /payments/{id}', () => {
  it('returns the payment for its id in upper and lower case', async () => {
    await start();
    const sent = payment();
    await post(sent);
    for (const id of [String(sent['correlationId']), String(sent['correlationId']).toUpperCase()]) {
      const res = await fetch(`${url}/payments/${id}`);
      expect(res.status).to.equal(200);
      expect(await res.json()).to.deep.equal(sent);
    }
  });

  it('responds 404 to an id that is not on record', async () => {
    await start();
    expect((await fetch(`${url}/payments/${randomUUID()}`)).status).to.equal(404);
    expect((await fetch(`${url}/nothing`)).status).to.equal(404);
  });
});

describe('simulated gateway: admin calls', () => {
  it('responds 401 without the right token', async () => {
    await start();
    for (const headers of [{}, { 'X-Rinha-Token': '124' }]) {
      expect((await admin('GET', 'payments-summary', undefined, headers)).status).to.equal(401);
      expect((await admin('GET', 'payments', undefined, headers)).status).to.equal(401);
      expect((await admin('POST', 'purge-payments', undefined, headers)).status).to.equal(401);
      expect((await admin('PUT', 'configurations/delay', { delay: 5 }, headers)).status).to.equal(401);
      expect((await admin('PUT', 'configurations/failure', { failure: true }, headers)).status).to.equal(401);
      expect((await admin('PUT', 'configurations/token', { token: 'x' }, headers)).status).to.equal(401);
    }
    expect((await post(payment())).status).to.equal(200);
  });

  it('takes another token by option and by call', async () => {
    await start({ token: 'first' });
    const first = { 'X-Rinha-Token': 'first' };
    expect((await admin('PUT', 'configurations/token', { token: 'second' }, first)).status).to.equal(204);
    expect((await admin('GET', 'payments-summary', undefined, first)).status).to.equal(401);
    const second = { 'X-Rinha-Token': 'second' };
    expect((await admin('GET', 'payments-summary', undefined, second)).status).to.equal(200);
  });

  it('sets delay and failure and returns the old value', async () => {
    await start();
    const delay = await admin('PUT', 'configurations/delay', { delay: 40 });
    expect(await delay.json()).to.deep.equal({ config: 'delay', was: 0, is: 40 });
    const failure = await admin('PUT', 'configurations/failure', { failure: true });
    expect(await failure.json()).to.deep.equal({ config: 'failure', was: false, is: true });
    const health = await fetch(`${url}/payments/service-health`);
    expect(await health.json()).to.deep.equal({ failing: true, minResponseTime: 40 });
  });

  it('responds 400 to settings it cannot use', async () => {
    await start();
    for (const delay of [-1, 1.5, '10', 2 ** 31, null]) {
      expect((await admin('PUT', 'configurations/delay', { delay })).status).to.equal(400);
    }
    expect((await admin('PUT', 'configurations/failure', { failure: 'yes' })).status).to.equal(400);
    expect((await admin('PUT', 'configurations/token', { token: '' })).status).to.equal(400);
  });

  it('sums the payments of a window with both ends included', async () => {
    await start();
    for (const [second, amount] of [0.1, 0.2, 19.9, 7].entries()) {
      await post(payment({ amount, requestedAt: `2025-07-15T12:00:0${second}.500Z` }));
    }
    const window = '?from=2025-07-15T12:00:00.500Z&to=2025-07-15T12:00:02.500Z';
    expect(await summary(window)).to.deep.equal({
      totalRequests: 3,
      totalAmount: 20.2,
      totalFee: 1.01,
      feePerTransaction: 0.05,
    });
    const inside = await summary('?from=2025-07-15T12:00:00.501Z&to=2025-07-15T12:00:02.499Z');
    expect([inside['totalRequests'], inside['totalAmount']]).to.deep.equal([1, 0.2]);
    const none = await summary('?from=2025-07-15T13:00:00Z&to=2025-07-15T12:00:00Z');
    expect([none['totalRequests'], none['totalAmount'], none['totalFee']]).to.deep.equal([0, 0, 0]);
  });

  it('sums everything when either bound is absent', async () => {
    await start();
    await post(payment());
    await post(payment());
    for (const query of ['', '?from=2030-01-01T00:00:00Z', '?to=2020-01-01T00:00:00Z', '?from=&to=']) {
      expect((await summary(query))['totalRequests']).to.equal(2);
    }
  });

  it('responds 400 to a bound that is no time', async () => {
    await start();
    expect((await admin('GET', 'payments-summary?from=soon&to=2025-07-15T12:00:00Z')).status).to.equal(400);
  });

  it('sums many amounts without losing a cent', async () => {
    await start({ transactionFee: 0.15 });
    await postMany(1100, { amount: 0.1 });
    expect(await summary()).to.deep.equal({
      totalRequests: 1100,
      totalAmount: 110,
      totalFee: 16.5,
      feePerTransaction: 0.15,
    });
  });

  it('lists every payment, a call that only our gateway has', async () => {
    await start();
    expect(await (await admin('GET', 'payments')).json()).to.deep.equal([]);
    await postMany(700); // over 64 KiB, so that the response comes in more than one piece
    expect(await (await admin('GET', 'payments')).json()).to.deep.equal([...gateway.payments.values()]);
  });

  it('purges the payments, and a purged id may be paid again', async () => {
    await start();
    const sent = payment();
    await post(sent);
    const res = await admin('POST', 'purge-payments');
    expect(res.status).to.equal(200);
    expect(await res.json()).to.deep.equal({ message: 'All payments purged.' });
    expect(gateway.payments.size).to.equal(0);
    expect((await summary())['totalRequests']).to.equal(0);
    expect((await post(sent)).status).to.equal(200);
    expect((await summary())['totalAmount']).to.equal(19.9);
  });
});

describe('simulated gateway: life and control', () => {
  it('drops open connections and payments in the delay when it closes', async () => {
    await start({ delayMs: 600_000 });
    const response = post(payment()).catch((error: Error) => error);
    await gateway.waitFor(({ requests }) => requests.inFlight === 1);
    await gateway.close();
    expect(await response).to.be.an('error');
    expect(gateway.payments.size).to.equal(0);
    expect(gateway.requests.inFlight).to.equal(0);
  });

  it('may be closed twice, and before it listens', async () => {
    await createSimulatedGateway().close();
    await start();
    expect(gateway.close()).to.equal(gateway.close());
    await gateway.close();
    expect(await post(payment()).catch(() => 'refused')).to.equal('refused');
  });

  it('listens again on the same port with the same payments', async () => {
    await start();
    const sent = payment();
    await post(sent);
    await gateway.close();
    const { port } = new URL(url);
    expect(await gateway.listen(Number(port))).to.deep.equal({ url, port: Number(port) });
    expect((await post(sent)).status).to.equal(422);
  });

  it('rejects when the port is taken', async () => {
    await start();
    const second = createSimulatedGateway();
    const error = await second.listen(Number(new URL(url).port)).catch((fault: NodeJS.ErrnoException) => fault);
    expect(error).to.have.property('code', 'EADDRINUSE');
    await second.close();
  });

  it('throws on options that cannot work', async () => {
    const bad = [{ delayMs: -1 }, { delayMs: 2 ** 31 }, { healthIntervalMs: 0 }, { maxConcurrent: 0 }];
    for (const options of [...bad, { maxQueued: -1 }, { transactionFee: Number.NaN }]) {
      expect(() => createSimulatedGateway(options), JSON.stringify(options)).to.throw(RangeError);
    }
    await start();
    expect(() => gateway.set({ delayMs: 0.5 })).to.throw(RangeError);
  });

  it('waitFor rejects when time is up, when the predicate throws and when the gateway closes', async () => {
    await start();
    const late = await gateway.waitFor(({ payments }) => payments.size === 1, 10).catch((error: Error) => error);
    expect(late).to.be.an('error').with.property('message').that.contains('payments.size === 1');
    const thrown = new Error('predicate');
    const broken = await gateway
      .waitFor(() => {
        throw thrown;
      })
      .catch((error: Error) => error);
    expect(broken).to.equal(thrown);
    const open = gateway.waitFor(() => false).catch((error: Error) => error);
    await gateway.close();
    expect(await open)
      .to.be.an('error')
      .with.property('message')
      .that.contains('closed');
  });
});

describe('npm run gateway', () => {
  let child: ChildProcess;

  function run(env: Record<string, string>): void {
    const spawned = spawn(process.execPath, ['dev/simulated-gateway/main.ts'], {
      cwd: new URL('../..', import.meta.url),
      env: { PATH: process.env['PATH'], ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    atTestEnd(async () => {
      if (spawned.exitCode !== null || spawned.signalCode !== null) return;
      spawned.kill('SIGKILL');
      await once(spawned, 'exit');
    });
    child = spawned;
  }

  async function firstLine(stream: NodeJS.ReadableStream | null): Promise<string> {
    const [line] = await once(createInterface({ input: stream as NodeJS.ReadableStream }), 'line');
    return String(line);
  }

  for (const [title, signal] of [
    ['prints its URL, serves with the given settings and exits 0 on SIGTERM', 'SIGTERM'],
    ['prints its URL, serves with the given settings and exits 0 on SIGINT', 'SIGINT'],
  ] as const) {
    it(title, async () => {
      run({ PORT: '0', HOST: '127.0.0.1', TRANSACTION_FEE: '0.15', INITIAL_TOKEN: 'secret' });
      const line = await firstLine(child.stdout);
      url = /http:\S+$/.exec(line)?.[0] ?? expect.fail(`no URL in "${line}"`);
      expect((await post(payment({ amount: 10 }))).status).to.equal(200);
      const res = await admin('GET', 'payments-summary', undefined, { 'X-Rinha-Token': 'secret' });
      expect(await res.json()).to.deep.equal({
        totalRequests: 1,
        totalAmount: 10,
        totalFee: 1.5,
        feePerTransaction: 0.15,
      });
      child.kill(signal);
      expect(await once(child, 'exit')).to.deep.equal([0, null]);
    });
  }

  it('names every wrong setting and exits 1', async () => {
    run({ PORT: '70000', TRANSACTION_FEE: 'much', INITIAL_TOKEN: 'two words', HOST: 'http://x' });
    const [line, exit] = await Promise.all([firstLine(child.stderr), once(child, 'exit')]);
    for (const name of ['PORT', 'TRANSACTION_FEE', 'INITIAL_TOKEN', 'HOST']) expect(line).to.contain(name);
    expect(exit).to.deep.equal([1, null]);
  });

  it('reports that the port is taken and exits 1', async () => {
    await start();
    const { port } = new URL(url);
    run({ PORT: port, HOST: '127.0.0.1' });
    const [line, exit] = await Promise.all([firstLine(child.stderr), once(child, 'exit')]);
    expect(line).to.contain(`port ${port} is taken`);
    expect(exit).to.deep.equal([1, null]);
  });
});
