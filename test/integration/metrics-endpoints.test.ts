import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import { type ServiceProcess, startService } from '../../dev/local/service.ts';
import { startApiProcess } from '../support/api-process.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange, type HttpResponse } from '../support/http-client.ts';
import { NO_DATABASE, NO_REDIS } from '../support/queue.ts';
import { eventually, type TestEnv, testApi } from '../support/relay.ts';
import { startTestStack } from '../support/stack.ts';

const TOKEN = 'a-token-of-more-than-16-letters';

const get = (url: string, headers = {}, method = 'GET') => exchange(url, { method, headers });

/** A worker process without Redis and PostgreSQL, which serves its own port. Killed after the test. */
async function startWorkerProcess(env: TestEnv = {}, port?: number): Promise<ServiceProcess & { url: string }> {
  const ownPort = port ?? (await freePort());
  const worker = await startService({
    name: 'worker',
    script: 'src/main.ts',
    env: { APP_ROLE: 'worker', HOST: '127.0.0.1', WORKER_PORT: `${ownPort}`, ...NO_REDIS, ...NO_DATABASE, ...env },
  });
  atTestEnd(() => worker.kill());
  return Object.assign(worker, { url: `http://127.0.0.1:${ownPort}` });
}

async function takenPort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  atTestEnd(() => server.close());
  await once(server, 'listening');
  return (server.address() as { port: number }).port;
}

function expectMetrics({ status, headers, text }: HttpResponse): void {
  expect(status, text).to.equal(200);
  expect(headers['content-type']).to.match(/^text\/plain; version=0\.0\.4/);
  expect(headers).to.include({ 'x-content-type-options': 'nosniff', 'cache-control': 'no-store' });
  expect(text).to.match(/^payrelay_build_info\{/m);
}

async function expectTokenIsNeeded(url: string): Promise<void> {
  for (const authorization of [
    undefined,
    'Bearer another-token-of-16',
    `Basic ${TOKEN}`,
    `Bearer ${TOKEN}x`,
    'Bearer ',
  ]) {
    const { status, headers, text } = await get(url, authorization === undefined ? {} : { authorization });
    expect(status, authorization).to.equal(401);
    expect(headers['www-authenticate']).to.match(/^Bearer /);
    expect(JSON.parse(text)).to.deep.equal({ error: 'unauthorized' });
  }
  expectMetrics(await get(url, { authorization: `Bearer ${TOKEN}` }));
}

describe('GET /metrics of an API node', () => {
  it('responds right after the start, also without Redis and PostgreSQL', async () => {
    const { url } = await startApiProcess({ ...NO_REDIS });
    expectMetrics(await get(`${url}/metrics`));
  });

  it('demands METRICS_TOKEN when it is set', async () => {
    const { url } = await testApi({ ...NO_DATABASE, METRICS_TOKEN: TOKEN });
    await expectTokenIsNeeded(`${url}/metrics`);
  });

  it('serves HEAD without a body', async () => {
    const { url } = await testApi(NO_DATABASE);
    const { status, headers, text } = await get(`${url}/metrics`, {}, 'HEAD');
    expect([status, text]).to.deep.equal([200, '']);
    expect(headers['content-type']).to.match(/^text\/plain; version=/);
  });

  it('is at PORT for a process with every role, which ignores WORKER_PORT', async () => {
    const port = await takenPort();
    const { url } = await startApiProcess({ ...NO_REDIS, APP_ROLE: 'all', WORKER_PORT: `${port}` });
    expectMetrics(await get(`${url}/metrics`));
  });
});

describe("a worker's own port", () => {
  it('serves metrics and liveness right after the start, also without Redis and PostgreSQL', async () => {
    const { url } = await startWorkerProcess();
    expectMetrics(await get(`${url}/metrics`));
    const { status, text } = await get(`${url}/health/live`);
    expect([status, JSON.parse(text)]).to.deep.equal([200, { status: 'ok' }]);
    const head = await get(`${url}/health/live`, {}, 'HEAD');
    expect([head.status, head.text]).to.deep.equal([200, '']);
  });

  it('demands METRICS_TOKEN for the metrics, and nothing for the liveness', async () => {
    const { url } = await startWorkerProcess({ METRICS_TOKEN: TOKEN });
    await expectTokenIsNeeded(`${url}/metrics`);
    expect((await get(`${url}/health/live`)).status).to.equal(200);
  });

  it('responds 404 to every path of the API, and 405 to a wrong method, as the API does', async () => {
    const { url } = await startWorkerProcess();
    for (const [method, path] of [
      ['GET', '/'],
      ['GET', '/health'],
      ['GET', '/health/ready'],
      ['POST', '/payments'],
      ['GET', '/admin/queues'],
    ] as const) {
      const { status, headers, text } = await get(`${url}${path}`, {}, method);
      expect([status, JSON.parse(text)], path).to.deep.equal([404, { error: 'not_found' }]);
      expect(headers).to.include({ 'x-content-type-options': 'nosniff' }).and.not.have.any.keys('x-powered-by');
    }
    for (const path of ['/metrics', '/health/live']) {
      const { status, headers, text } = await get(`${url}${path}`, {}, 'POST');
      expect([status, JSON.parse(text)], path).to.deep.equal([405, { error: 'method_not_allowed' }]);
      expect(headers['allow']).to.equal('GET, HEAD');
    }
  });

  it('is at 127.0.0.1 when HOST is the path of a Unix socket', async () => {
    const { url } = await startWorkerProcess({ HOST: '/nowhere/api.sock' });
    expect((await get(`${url}/health/live`)).status).to.equal(200);
  });

  it('ends the process with code 1 and one sentence when it is taken', async () => {
    const port = await takenPort();
    const failure = await startWorkerProcess({}, port).catch((error: Error) => error);
    expect((failure as Error).message)
      .to.match(/ended with code 1/)
      .and.to.include(`WORKER_PORT is taken: another process listens at 127.0.0.1, port ${port} (EADDRINUSE)`);
  });

  it('responds until the last payment of a shutdown is made', async () => {
    const { startWorker, post, primary, settled } = await startTestStack({ workers: 0, primary: { delayMs: 800 } });
    const port = await freePort();
    const worker = await startWorker({ WORKER_PORT: `${port}` });
    await post();
    await primary.waitFor(({ requests }) => requests.inFlight === 1);
    worker.signal('SIGTERM');
    await eventually(() => worker.hasLogged({ reason: 'SIGTERM' }));
    expect((await get(`http://127.0.0.1:${port}/health/live`)).status).to.equal(200);
    expect(await worker.exited).to.equal(0);
    await settled();
  });

  it('does not delay the exit, whatever its clients do', async () => {
    const { url, stop } = await startWorkerProcess();
    const client = connect(Number(new URL(url).port), '127.0.0.1');
    client.on('error', () => {});
    atTestEnd(() => client.destroy());
    await once(client, 'connect');
    client.write('GET /metrics HTTP/1.1\r\nHost: x\r\n');
    const startedAt = performance.now();
    expect(await stop()).to.equal(0);
    // Draining would wait 3 s for the rest of this request.
    expect(performance.now() - startedAt).to.be.below(2_500);
  });
});
