import { expect } from 'chai';
import type { RelayState } from '../../src/operations/relay-state.ts';
import { http } from '../support/http-client.ts';
import { bullQueue, NO_DATABASE, NO_REDIS } from '../support/queue.ts';
import { aPayment, eventually, postPayment, type TestEnv, testApi, testGateway, testWorker } from '../support/relay.ts';

const LOGIN = { DASHBOARD_USER: 'operator', DASHBOARD_PASSWORD: 'secret' };
const NO_GATEWAY = { GATEWAY_PRIMARY_URL: 'http://127.0.0.1:1', GATEWAY_FALLBACK_URL: 'http://127.0.0.1:1' };

type Shown = RelayState & { readonly you: { readonly user: string; readonly mayAct: boolean } };

/** An API with the operator's page. */
async function relay(env: TestEnv = {}, prefix?: string) {
  const node = await testApi({ ...LOGIN, ...env }, prefix);
  const operator = http(node.url).auth('operator', 'secret');
  const { DATABASE_URL = node.config.database.url } = env;
  const state = async (): Promise<Shown> => (await operator.get('/admin/api/state').expect(200)).body;
  return {
    ...node,
    operator,
    state,
    work: (own: TestEnv = {}) => testWorker({ ...NO_GATEWAY, ...env, DATABASE_URL, ...own }, node.prefix),
    /** Resolves with the first state that has these problems. */
    shows: (...codes: string[]) =>
      eventually(async () => {
        const shown = await state();
        return `${shown.problems.map(({ code }) => code)}` === `${codes}` && shown;
      }),
  };
}

const sum = (counts: readonly number[] | undefined) => (counts ?? []).reduce((total, count) => total + count, 0);

describe('GET /admin', () => {
  it('does not exist without a login, and wants it', async () => {
    const { url } = await testApi(NO_DATABASE);
    for (const path of ['/admin', '/admin/', '/admin/page.js', '/admin/api/state']) {
      await http(url).get(path).auth('operator', 'secret').expect(404);
    }
    const { url: guarded } = await relay(NO_DATABASE);
    for (const path of ['/admin', '/admin/page.js', '/admin/api/state', '/admin/nothing']) {
      await http(guarded).get(path).expect(401);
    }
  });

  it('is a page whose files are all there, of this node alone, and without a script in it', async () => {
    const { operator } = await relay(NO_DATABASE);
    const { text, headers } = await operator
      .get('/admin')
      .expect(200)
      .expect('content-type', /^text\/html/);
    expect(headers['content-security-policy']).to.match(/script-src 'self';/);
    expect(text).to.not.match(/https?:|<script(?![^>]* src=)|\son\w+=/);
    const names = [...text.matchAll(/(?:src|href)="\/admin\/([^"/]+)"/g)].map(([, name]) => name!);
    expect(names).to.include.members(['page.css', 'page.js']);
    const seen = new Set<string>();
    for (const name of names.filter((each) => each !== 'queues')) await follow(name);
    expect(seen.size).to.be.above(8);

    /** Reads a file, and what it imports. */
    async function follow(name: string): Promise<void> {
      if (seen.has(name)) return;
      seen.add(name);
      const file = await operator.get(`/admin/${name}`).expect(200);
      expect(file.headers).to.include({ 'x-content-type-options': 'nosniff' });
      expect(file.headers['content-type']).to.match(/^text\/(css|javascript)/);
      expect(file.text ?? '').to.not.match(/innerHTML|insertAdjacentHTML|https?:\/\/(?!www\.w3\.org)/);
      for (const [, imported] of (file.text ?? '').matchAll(/from '\.\/([^']+)'/g)) await follow(imported!);
    }
  });

  it('comes once: a browser that sends the ETag back gets 304', async () => {
    const { operator } = await relay(NO_DATABASE);
    for (const path of ['/admin', '/admin/page.js', '/admin/runbook.md']) {
      const { headers } = await operator.get(path).expect(200);
      expect(headers['cache-control']).to.equal('private, no-cache');
      await operator.get(path).set('If-None-Match', headers['etag']!).expect(304);
    }
  });

  it('redirects to the path without a slash at its end', async () => {
    const { operator } = await relay(NO_DATABASE);
    for (const path of ['/admin/', '/admin/?a=/']) {
      await operator.get(path).redirects(0).expect(308).expect('location', '/admin');
    }
    await operator.get('/admin?a=/').expect(200);
  });

  it('leaves bull-board and unknown paths to others', async () => {
    const { operator } = await relay(NO_DATABASE);
    expect((await operator.get('/admin/queues').expect(200)).text).to.include('<base href="/admin/queues/"');
    for (const path of ['/admin/api', '/admin/api/nothing', '/admin/../package.json', '/admin/constructor']) {
      await operator.get(path).expect(404);
    }
    await operator.post('/admin').expect(405);
  });
});

describe('GET /admin/api/state', () => {
  it('shows what was accepted and paid, by gateway and minute, and how long each hop took', async () => {
    const [primary, fallback] = [await testGateway(), await testGateway()];
    const { url, work, state } = await relay();
    await work({ GATEWAY_PRIMARY_URL: primary.url, GATEWAY_FALLBACK_URL: fallback.url });
    for (let n = 0; n < 3; n += 1) await postPayment(url, aPayment(10.5));
    const shown = await eventually(async () => {
      const now = await state();
      const { accepted, paid } = now.lastHour ?? {};
      // The worker is in this process, and counts what the process has accepted as well.
      return sum(accepted) === 6 && sum(paid?.primary.payments) === 3 && now.hops!.record.count > 0 && now;
    });
    expect(sum(shown.lastHour!.paid!.primary.amountCents)).to.equal(3_150);
    expect(sum(shown.lastHour!.paid!.fallback.payments)).to.equal(0);
    expect(shown.rates!.paid.primary).to.be.above(0);
    for (const hop of ['accept', 'wait', 'send', 'record'] as const) expect(shown.hops![hop].p99Ms).to.be.above(0);
    expect(shown.problems).to.deep.equal([]);
    expect(shown.queue).to.include({ size: 0, capacity: 50_000, isPaused: false });
    expect(shown.processes!.map(({ role }) => role)).to.deep.equal(['api', 'worker']);
    expect(shown.deadLetters).to.deep.equal({ invalid_payment: 0, rejected: 0, payload_missing: 0 });
    expect(shown.you).to.deep.equal({ user: 'operator', mayAct: true });
  });

  it('shows a paused queue, a full one and no worker', async () => {
    const { url, prefix, shows } = await relay({ PAYMENT_QUEUE_MAX_SIZE: '2' });
    await (await bullQueue(prefix)).pause();
    for (let n = 0; n < 2; n += 1) await postPayment(url);
    const { queue, gateways, processes } = await shows('queue_full', 'queue_paused', 'no_worker');
    expect(queue).to.include({ size: 2, capacity: 2, waiting: 2, isPaused: true });
    expect(queue!.oldestSeconds).to.be.above(0);
    expect(gateways!.primary).to.deep.include({ waiting: 0, followed: { open: 0, draining: 0, stopped: 0 } });
    expect(processes).to.have.length(1);
  });

  it('shows an open circuit with its cause, and what waits for it', async () => {
    const { url, work, shows } = await relay({ FALLBACK_ON: 'not_sent' });
    await work();
    for (let n = 0; n < 3; n += 1) await postPayment(url);
    const { gateways, problems } = await shows('primary_down', 'fallback_down');
    const { down } = gateways!.primary;
    expect(down).to.include({ workers: 1 });
    expect(down!.detail).to.match(/ECONNREFUSED/);
    expect(problems[0]!.since).to.equal(down!.since);
  });

  it('is a 200 without Redis, with what PostgreSQL knows', async () => {
    const { state } = await relay(NO_REDIS);
    const { problems, lastHour, queue, deadLetters } = await state();
    expect(problems.map(({ code }) => code)).to.deep.equal(['queue_unavailable']);
    expect(queue).to.equal(undefined);
    expect(lastHour!.accepted).to.equal(undefined);
    expect(sum(lastHour!.paid!.primary.payments)).to.equal(0);
    expect(deadLetters).to.include({ rejected: 0 });
  });

  it('is a 200 without PostgreSQL, with what Redis knows', async () => {
    const { url, shows } = await relay(NO_DATABASE);
    await postPayment(url);
    const { queue, lastHour, deadLetters } = await shows('no_worker', 'ledger_unavailable');
    expect(queue).to.include({ size: 1 });
    expect([lastHour!.paid, deadLetters]).to.deep.equal([undefined, undefined]);
  });

  it('has the status of a payment for the login, also when STATUS_TOKEN is set', async () => {
    const { url, operator } = await relay({ STATUS_TOKEN: 'a-token-of-at-least-16-characters' });
    const payment = aPayment();
    await postPayment(url, payment);
    const path = `/payments/${payment.correlationId}`;
    await http(url).get(path).expect(401);
    const { body } = await operator.get(`/admin/api${path}`).expect(200);
    expect(body).to.include({ correlationId: payment.correlationId, state: 'queued', amount: 19.9 });
    await operator.get(`/admin/api/payments/${aPayment().correlationId}`).expect(404);
  });
});

describe('what was accepted by the minute', () => {
  it('is of all nodes together, and outlives one that ends', async () => {
    const first = await relay(NO_DATABASE);
    const second = await relay(NO_DATABASE, first.prefix);
    for (const { url } of [first, first, second]) await postPayment(url);
    // Both nodes are in this process, and each counts what the process has accepted.
    await eventually(async () => sum((await first.state()).lastHour!.accepted) === 6);
    await second.api.close(performance.now());
    expect(sum((await first.state()).lastHour!.accepted)).to.equal(6);
  });
});
