import { expect } from 'chai';
import type { AppDeps } from '../../src/http/app.ts';
import { createOperations } from '../../src/http/openapi/operations.ts';
import type { OperatorDeps } from '../../src/http/operator/routes.ts';
import type { Route } from '../../src/http/routes.ts';
import { outboxKey } from '../../src/queue/bullmq-layout.ts';
import { routesOf } from '../support/api-document.ts';
import { exchange } from '../support/http-client.ts';
import { recordingLogger } from '../support/logger.ts';
import { EVERYTHING, REQUESTS } from '../support/provoke.ts';
import { bullQueue, connectedApi } from '../support/queue.ts';
import { aPayment, eventually, type TestApi, testApi, testRedis } from '../support/relay.ts';
import { holdTable, sql } from '../support/services.ts';

const login = (user: string, password: string) => ({
  authorization: `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}`,
});
const OPERATOR = login(EVERYTHING['DASHBOARD_USER']!, EVERYTHING['DASHBOARD_PASSWORD']!);
const VIEWER = login(EVERYTHING['DASHBOARD_VIEWER_USER']!, EVERYTHING['DASHBOARD_VIEWER_PASSWORD']!);

/** What may change at any time. */
const NO_STATE = /:(heartbeats?|accepted|late-actions)(:|$)/;

/** A node over a queue with a delayed payment, with the table of its routes. */
async function stage(api: TestApi) {
  const redis = await testRedis();
  const { http: config } = api.config;
  const routes = routesOf({ config, logger: recordingLogger().logger } as unknown as AppDeps & OperatorDeps);
  const job = await (await bullQueue(api.prefix)).add('payment', aPayment(), { delay: 60_000 });
  const operations = createOperations(config);

  /** Sends what the route is for: of bull-board's routes by their path, of others the usual request of the tests. */
  async function send(route: Route, headers: Record<string, string>) {
    const { method, path, mount } = route;
    const usual = mount === undefined ? REQUESTS[operations[`${method} ${path}`]!.id]! : undefined;
    const ownPath = path
      .replace(/\{.*\}$/, '')
      .replace(':queueName', 'payments')
      .replace(':jobId', job.id!);
    const body = usual?.body;
    const { status, text } = await exchange(api.url + (usual?.path ?? ownPath), {
      method,
      headers,
      ...(body !== undefined && { body }),
    });
    return { status, text, isDryRun: body?.includes('"dryRun":true') ?? false };
  }

  return {
    send,
    changes: routes.filter(({ changesState, row }) => changesState && row !== 'none'),
    ofOperator: routes.filter(({ role }) => role === 'operator'),
    /** Everything in Redis that an operator's change can alter. */
    async state(): Promise<Record<string, string>> {
      const keys = (await redis.keys(`${api.prefix}:*`)).filter((key) => !NO_STATE.test(key)).sort();
      const dumps = await Promise.all(keys.map((key) => redis.dump(key)));
      return Object.fromEntries(keys.map((key, index) => [key, `${dumps[index]}`]));
    },
    rows: () =>
      sql<{ action: string; who: string; state: string; outcome: { status?: number } | null }>(
        api.config.database.url,
        'SELECT action, who, state, outcome FROM operator_actions ORDER BY id',
      ),
    late: async () =>
      (await redis.zrange(outboxKey({ name: 'payments', prefix: api.prefix }), 0, -1)).map(
        (text) => JSON.parse(text) as { action: string; who: string; state: string },
      ),
  };
}

const nameOf = ({ method, path }: Route) => `${method} ${path}`;

describe('Every change by an operator', function () {
  this.timeout(60_000);

  it('leaves a row with its outcome', async () => {
    const { send, changes, rows } = await stage(await testApi(EVERYTHING));
    expect(changes).to.have.length.above(8);
    for (const route of changes) {
      const { length: before } = await rows();
      const { status, isDryRun } = await send(route, OPERATOR);
      const { row = 'by_guard', action, role } = route;
      // A handler that writes its own row may find a fault in the request before.
      if (row === 'by_handler' && (status >= 400 || isDryRun)) continue;
      const added = await eventually(async () => {
        const [found] = (await rows()).slice(before);
        return found !== undefined && found.state !== 'started' && found;
      });
      expect(added.action, nameOf(route)).to.equal(action);
      expect(added.who, nameOf(route)).to.equal(role === undefined ? '127.0.0.1' : 'operator');
      expect(added.state, nameOf(route)).to.be.oneOf(status < 400 ? ['done', 'running'] : ['refused']);
      if (row === 'by_guard') expect(added.outcome, nameOf(route)).to.include({ status });
    }
  });

  it('is not made while PostgreSQL is down, but for those that must work then', async () => {
    const { send, changes, state, late } = await stage(await connectedApi(EVERYTHING));
    for (const route of changes) {
      const before = await state();
      const { length: lateBefore } = await late();
      const { status, text, isDryRun } = await send(route, OPERATOR);
      if (route.worksWithoutLedger) {
        expect(status, nameOf(route)).to.be.within(200, 299);
        const rows = await eventually(async () => {
          const found = await late();
          return found.length === lateBefore + 2 && found.slice(lateBefore);
        });
        expect(rows.map((each) => each.state)).to.have.members(['started', 'done']);
        expect(rows.map((each) => each.action)).to.deep.equal([route.action, route.action]);
        continue;
      }
      if (status >= 500 || !isDryRun) {
        expect(status, nameOf(route)).to.be.at.least(400);
        if (status >= 500) expect(JSON.parse(text), nameOf(route)).to.deep.equal({ error: 'ledger_unavailable' });
      }
      expect(await state(), nameOf(route)).to.deep.equal(before);
    }
    expect(changes.filter((route) => route.worksWithoutLedger)).to.have.length.above(1);
  });

  it('is refused to the viewer, who may see everything', async () => {
    const { send, changes, ofOperator, rows, state } = await stage(await testApi(EVERYTHING));
    const withLogin = changes.filter(({ role }) => role === 'operator');
    expect(withLogin).to.have.length.above(7);
    const before = await state();
    for (const route of withLogin) {
      const { status, text } = await send(route, VIEWER);
      expect(status, nameOf(route)).to.equal(403);
      expect(JSON.parse(text), nameOf(route)).to.include({ error: 'forbidden' }).and.to.have.property('message');
    }
    expect(await rows()).to.deep.equal([]);
    expect(await state()).to.deep.equal(before);
    for (const route of ofOperator.filter(({ method }) => method === 'GET')) {
      const { status } = await send(route, VIEWER);
      expect(status, nameOf(route)).to.not.be.oneOf([401, 403]);
      expect((await send(route, {})).status, nameOf(route)).to.equal(401);
    }
  });

  it('leaves a row however its path is spelled', async () => {
    const api = await testApi(EVERYTHING);
    const { rows } = await stage(api);
    const paths = ['/API/Queues/payments/RESUME', '/api/queues/payments/resume/', '/api/queues/%70ayments/resume?x=1'];
    for (const path of paths) {
      await exchange(`${api.url}/admin/queues${path}`, { method: 'PUT', headers: OPERATOR });
    }
    await eventually(async () => (await rows()).filter(({ state }) => state === 'done').length === paths.length);
  });

  it('keeps its row through a purge', async () => {
    const api = await testApi(EVERYTHING);
    const { rows } = await stage(api);
    await exchange(`${api.url}/admin/queues/api/queues/payments/pause`, { method: 'PUT', headers: OPERATOR });
    const { status } = await exchange(`${api.url}/purge-payments`, { method: 'POST' });
    expect(status).to.equal(200);
    const kept = await eventually(async () => {
      const found = await rows();
      return found.length === 2 && found.every(({ state }) => state === 'done') && found;
    });
    expect(kept.map(({ action }) => action)).to.have.members(['queue.pause', 'payments.purge']);
  });

  it('has its row also when the client hangs up before the response', async () => {
    const api = await testApi(EVERYTHING);
    const { rows } = await stage(api);
    const release = await holdTable(api.config.database.url);
    const impatient = new AbortController();
    const response = fetch(`${api.url}/purge-payments`, { method: 'POST', signal: impatient.signal });
    response.catch(() => {});
    await eventually(async () => (await rows()).length === 1);
    impatient.abort();
    await response.catch(() => {});
    expect((await rows())[0]!.state).to.equal('started');
    await release();
    await eventually(async () => (await rows())[0]!.state === 'done');
  });
});

describe('bull-board for the viewer', () => {
  it('has no button for a change, and has them for the operator', async () => {
    const api = await testApi(EVERYTHING);
    const look = async (headers: Record<string, string>) => {
      const { text } = await exchange(`${api.url}/admin/queues/api/queues`, { method: 'GET', headers });
      return (JSON.parse(text) as { queues: { readOnlyMode: boolean }[] }).queues.map((queue) => queue.readOnlyMode);
    };
    expect(await look(VIEWER)).to.deep.equal([true]);
    expect(await look(OPERATOR)).to.deep.equal([false]);
  });
});

describe('GET /admin/api/actions', () => {
  it('lists the trail by pages, the newest first', async () => {
    const api = await testApi(EVERYTHING);
    const put = (change: string) =>
      exchange(`${api.url}/admin/queues/api/queues/payments/${change}`, { method: 'PUT', headers: OPERATOR });
    await put('pause');
    await put('resume');
    await put('promote');
    const page = async (query: string) => {
      const { status, text } = await exchange(`${api.url}/admin/api/actions${query}`, {
        method: 'GET',
        headers: OPERATOR,
      });
      expect(status).to.equal(200);
      return (JSON.parse(text) as { actions: { id: string; action: string; at: string; key?: string }[] }).actions;
    };
    const all = await eventually(async () => {
      const found = await page('');
      return found.length === 3 && found;
    });
    expect(all.map(({ action }) => action)).to.deep.equal(['queue.promote', 'queue.resume', 'queue.pause']);
    expect(all[0]).to.not.have.property('key');
    expect(all[0]).to.deep.include({ who: 'operator', target: { queueName: 'payments' } });
    const [first] = await page('?limit=1');
    expect(first!.id).to.equal(all[0]!.id);
    expect((await page(`?limit=2&before=${first!.id}`)).map(({ action }) => action)).to.deep.equal([
      'queue.resume',
      'queue.pause',
    ]);
    expect(await page(`?before=${all.at(-1)!.id}`)).to.deep.equal([]);
  });

  it('gets 400 for a page that there cannot be, and 503 while PostgreSQL is down', async () => {
    const api = await connectedApi(EVERYTHING);
    const ask = (query: string) => exchange(`${api.url}/admin/api/actions${query}`, { method: 'GET', headers: VIEWER });
    for (const query of [
      '?before=',
      '?before=0',
      '?before=9999999999999999999',
      '?limit=0',
      '?limit=201',
      '?limit=x',
    ]) {
      expect((await ask(query)).status, query).to.equal(400);
    }
    expect((await ask('?before=1&before=2')).status).to.equal(400);
    expect((await ask('')).text).to.equal('{"error":"ledger_unavailable"}');
  });
});
