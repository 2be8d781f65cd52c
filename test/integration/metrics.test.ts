import { once } from 'node:events';
import { connect } from 'node:net';
import { expect } from 'chai';
import { startServer } from '../../src/http/server.ts';
import { events, type RequestFinished } from '../../src/telemetry/events.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { parseExposition } from '../support/exposition.ts';
import { exchange } from '../support/http-client.ts';
import { aPayment, eventually, postPayment, testApi, testWorker } from '../support/relay.ts';
import { respond, scriptedGateway } from '../support/scripted-gateway.ts';

/** The finished requests of this process, but for those of the API's own start. */
function finishedRequests(): RequestFinished[] {
  const finished: RequestFinished[] = [];
  atTestEnd(events.requestFinished.subscribe((request) => finished.push(request)));
  return finished;
}

/** Sends these bytes over a connection of its own. */
async function sendRaw(url: string, bytes: string) {
  const socket = connect(Number(new URL(url).port), '127.0.0.1');
  atTestEnd(() => socket.destroy());
  socket.on('error', () => {});
  socket.resume();
  await once(socket, 'connect');
  socket.write(bytes);
  return socket;
}

describe('metrics of a relay', () => {
  it('say exactly what happened to its payments', async () => {
    const [primary, fallback] = await Promise.all([scriptedGateway(), scriptedGateway()]);
    const settings = {
      GATEWAY_PRIMARY_URL: primary.url,
      GATEWAY_FALLBACK_URL: fallback.url,
      PAYMENT_QUEUE_MAX_SIZE: '6',
      PAYMENT_QUEUE_MAX_CONCURRENCY: '4',
    };
    const { url, prefix, config, telemetry } = await testApi(settings);
    const scrape = async () => parseExposition(await telemetry.metrics.text());

    const amounts = [19.9, 0.1, 5, 100];
    const payments = [...amounts.map((amount) => aPayment(amount)), aPayment(1)];
    const late = payments.at(-1)!.correlationId;
    for (const payment of [...payments, { ...aPayment(), amount: -1 }]) await postPayment(url, payment);
    // The queue is full now.
    for (let n = 0; n < 2; n += 1) await postPayment(url);
    await postPayment(url, '{"amount":');
    await postPayment(url, `{"text":"${'x'.repeat(70_000)}"}`);

    const unresolved: unknown[] = [];
    atTestEnd(events.paymentUnresolved.subscribe((payload) => unresolved.push(payload)));
    primary.onPayment = ({ correlationId, attempt }) =>
      correlationId === late && attempt === 1 ? respond(503) : undefined;
    await testWorker({ ...settings, DATABASE_URL: config.database.url }, prefix);
    const values = await eventually(async () => {
      const scraped = await scrape();
      const paid = scraped.get('payrelay_payments_paid_total{gateway="primary"}')!;
      return paid + scraped.get('payrelay_dead_letters_total{reason="invalid_payment"}')! >= 6 && scraped;
    });

    const expected: Record<string, number> = {
      payrelay_payments_accepted_total: 6,
      'payrelay_payments_not_accepted_total{reason="queue_full"}': 2,
      'payrelay_payments_not_accepted_total{reason="invalid_json"}': 1,
      'payrelay_payments_not_accepted_total{reason="payload_too_large"}': 1,
      'payrelay_payments_not_accepted_total{reason="queue_unavailable"}': 0,
      'payrelay_payments_paid_total{gateway="primary"}': 5,
      'payrelay_payments_paid_total{gateway="fallback"}': 0,
      'payrelay_amount_paid_cents_total{gateway="primary"}': 12_600,
      'payrelay_amount_paid_cents_total{gateway="fallback"}': 0,
      'payrelay_attempts_total{gateway="primary",outcome="paid"}': 5,
      'payrelay_attempts_total{gateway="primary",outcome="unknown"}': 1,
      'payrelay_attempts_total{gateway="fallback",outcome="paid"}': 0,
      'payrelay_dead_letters_total{reason="invalid_payment"}': 1,
      'payrelay_dead_letters_total{reason="rejected"}': 0,
      'payrelay_hop_duration_seconds_count{hop="accept"}': 6,
      'payrelay_hop_duration_seconds_count{hop="wait"}': 6,
      'payrelay_hop_duration_seconds_count{hop="send"}': 6,
      'payrelay_hop_duration_seconds_count{hop="record"}': 5,
      'payrelay_batch_size_sum{batch="enqueue"}': 8,
      'payrelay_batch_size_sum{batch="record"}': 5,
    };
    const actual = Object.fromEntries(Object.keys(expected).map((series) => [series, values.get(series)]));
    expect(actual).to.deep.equal(expected);

    expect(unresolved).to.deep.equal([{ correlationId: late, gateway: 'primary' }]);

    const requests = 'http_server_request_duration_seconds_count{http_route="/payments",http_request_method="POST"';
    const ofStatus = (status: number) => values.get(`${requests},http_response_status_code="${status}"}`);
    expect([204, 400, 413, 503].map(ofStatus)).to.deep.equal([6, 1, 1, 2]);

    const sent = 'http_client_request_duration_seconds_count{gateway="primary"';
    expect(values.get(`${sent},http_response_status_code="503",error_type="503"}`)).to.equal(1);
    const answered = values.get(`${sent},http_response_status_code="200"}`);
    expect(answered).to.equal(primary.posts.length - 1 + primary.lookUps.length);
  });

  it('count an attempt that no gateway heard, by its failure', async () => {
    const primary = await scriptedGateway();
    await primary.close();
    const settings = { GATEWAY_PRIMARY_URL: primary.url, PAYMENT_QUEUE_MAX_CONCURRENCY: '1' };
    const { url, prefix, config, telemetry } = await testApi(settings);
    const changes: unknown[] = [];
    atTestEnd(
      events.circuitChanged.subscribe(({ gateway, state, cause }) => changes.push([gateway, state, cause?.code])),
    );
    await testWorker({ ...settings, DATABASE_URL: config.database.url }, prefix);
    for (let n = 0; n < 3; n += 1) await postPayment(url);
    await eventually(() => changes.length > 0);
    const values = parseExposition(await telemetry.metrics.text());
    const name = 'http_client_request_duration_seconds_count';
    expect(values.get(`${name}{gateway="primary",error_type="ECONNREFUSED"}`)).to.be.at.least(3);
    expect(values.get('payrelay_attempts_total{gateway="primary",outcome="not_sent"}')).to.be.at.least(3);

    const again = await scriptedGateway({ port: primary.port });
    await eventually(() => changes.length > 1);
    expect(changes).to.deep.equal([
      ['primary', 'open', 'ECONNREFUSED'],
      ['primary', 'closed', undefined],
    ]);
    await eventually(() => again.onRecord.size === 3);
  });
});

describe('a finished request', () => {
  it('has the path of the table, not that of the request', async () => {
    const { url } = await testApi({ DASHBOARD_USER: 'admin', DASHBOARD_PASSWORD: 'secret' });
    const finished = finishedRequests();
    const login = { authorization: `Basic ${btoa('admin:secret')}` };
    const asked: [method: string, path: string, headers?: Record<string, string>][] = [
      ['HEAD', '/health/live'],
      ['GET', '/health/live/?x=1'],
      ['GET', '/payments'],
      ['GET', '/nowhere/4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3'],
      ['GET', '/admin/queues'],
      ['GET', '/admin/queues/api/queues?activeQueue=payments', login],
      ['GET', '/admin/queues/queue/payments/4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3', login],
    ];
    for (const [method, path, headers = {}] of asked) await exchange(`${url}${path}`, { method, headers });
    await eventually(() => finished.length === asked.length);
    expect(finished.map(({ method, route, status, code }) => [method, route, status, code])).to.deep.equal([
      ['HEAD', '/health/live', 200, undefined],
      ['GET', '/health/live', 200, undefined],
      ['GET', '/payments', 405, 'method_not_allowed'],
      ['GET', 'unmatched', 404, 'not_found'],
      ['GET', '/admin/queues', 401, 'unauthorized'],
      ['GET', '/admin/queues', 200, undefined],
      ['GET', '/admin/queues', 200, undefined],
    ]);
    expect(finished.every(({ durationMs }) => durationMs > 0 && durationMs < 10_000)).to.equal(true);
  });

  it('is also what is no HTTP request', async () => {
    const { url } = await testApi();
    const finished = finishedRequests();
    const headers = 'Host: x\r\nTransfer-Encoding: chunked\r\n\r\n';
    for (const bytes of [
      'rubbish\r\n\r\n',
      'GET / HTTP/1.1\r\n\r\n',
      'CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n',
      `GET / HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`,
      `POST /payments HTTP/1.1\r\n${headers}zz\r\n`,
    ]) {
      await once(await sendRaw(url, bytes), 'close');
    }
    await eventually(() => finished.length >= 5);
    expect(finished.map(({ method, route, status, code }) => [method, route, status, code])).to.deep.equal([
      ['', 'unmatched', 400, 'malformed_request'],
      ['GET', 'unmatched', 400, 'malformed_request'],
      ['', 'unmatched', 405, 'method_not_allowed'],
      ['', 'unmatched', 431, 'headers_too_large'],
      ['POST', '/payments', 400, 'malformed_request'],
    ]);
  });

  it('has the status 499 when the client hung up before the response', async () => {
    const started = Promise.withResolvers<void>();
    const server = await startServer(() => started.resolve(), {
      host: '127.0.0.1',
      port: 0,
      keepAliveTimeoutMs: 1_000,
    });
    atTestEnd(() => server.drain(performance.now()));
    const finished = finishedRequests();
    const client = await sendRaw(`http://127.0.0.1:${server.port}`, 'GET / HTTP/1.1\r\nHost: x\r\n\r\n');
    await started.promise;
    client.destroy();
    await eventually(() => finished.length > 0);
    expect(finished.map(({ route, status, code }) => [route, status, code])).to.deep.equal([
      ['unmatched', 499, undefined],
    ]);
  });
});
