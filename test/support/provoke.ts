import { once } from 'node:events';
import { connect } from 'node:net';
import { UnrecoverableError } from 'bullmq';
import { createApp } from '../../src/http/app.ts';
import { MAX_UNDER_WAY } from '../../src/http/connections.ts';
import { startServer } from '../../src/http/server.ts';
import { type Documented, type Exchange, routesOf } from './api-document.ts';
import { atTestEnd } from './cleanup.ts';
import { exchange } from './http-client.ts';
import { recordingLogger } from './logger.ts';
import { bullQueue, bullWorker, connectedApi, lookInto, NO_REDIS } from './queue.ts';
import { aPayment, postPayment, type TestApi, type TestEnv, testApi } from './relay.ts';
import { holdTable, sql } from './services.ts';
import { pretendDrained } from './settling.ts';

interface Request {
  readonly method: string;
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string;
}

const basic = (password: string) => ({
  authorization: `Basic ${Buffer.from(`operator:${password}`).toString('base64')}`,
});
const bearer = (token: string) => ({ authorization: `Bearer ${token}` });

const TOKEN = 'a-token-of-at-least-16-characters';
const OPERATOR = basic('secret');

/** Everything that a setting enables. */
export const EVERYTHING: TestEnv = {
  ALLOW_PURGE: 'true',
  PAYMENTS_VALIDATE: 'true',
  DASHBOARD_USER: 'operator',
  DASHBOARD_PASSWORD: 'secret',
  DASHBOARD_VIEWER_USER: 'viewer',
  DASHBOARD_VIEWER_PASSWORD: 'only looks',
  STATUS_TOKEN: TOKEN,
  METRICS_TOKEN: TOKEN,
};

const BOARD = '/admin/queues';
const RANGE = '/payments-summary?from=2025-01-01&to=2026-01-01';
const retry = (id: string): Request => ({
  method: 'PUT',
  path: `${BOARD}/api/queues/payments/${id}/retry`,
  headers: OPERATOR,
});

const WITH_REASON = { headers: OPERATOR, body: JSON.stringify({ reason: 'a test' }) };
function deadLetters(verb: 'retry' | 'discard', body: object): Request {
  return { method: 'POST', path: `/admin/api/dead-letters/${verb}`, headers: OPERATOR, body: JSON.stringify(body) };
}

const UNKNOWN = aPayment().correlationId;
/** Has what each act on payments needs. */
const STATEMENT = JSON.stringify({
  gateway: 'primary',
  amount: 19.9,
  requestedAt: '2026-01-01T00:00:00.000Z',
  reason: 'a test',
});
const SETTLING = ['recordPayment', 'releasePayment', 'rejectPayment', 'releaseUnresolved', 'rejectUnresolved'];

/** A request that gets a usual response, by operation. */
export const REQUESTS: Readonly<Record<string, Request>> = {
  postPayment: { method: 'POST', path: '/payments', body: JSON.stringify(aPayment()) },
  getPayment: { method: 'GET', path: `/payments/${aPayment().correlationId}`, headers: bearer(TOKEN) },
  getSummary: { method: 'GET', path: RANGE },
  getHealth: { method: 'GET', path: '/health' },
  getLiveness: { method: 'GET', path: '/health/live' },
  getReadiness: { method: 'GET', path: '/health/ready' },
  getMetrics: { method: 'GET', path: '/metrics', headers: bearer(TOKEN) },
  purgePayments: { method: 'POST', path: '/purge-payments' },
  getDashboard: { method: 'GET', path: `${BOARD}/api/queues`, headers: OPERATOR },
  changeQueue: { method: 'PUT', path: `${BOARD}/api/queues/payments/resume`, headers: OPERATOR },
  listActions: { method: 'GET', path: '/admin/api/actions', headers: OPERATOR },
  pauseQueue: { method: 'POST', path: '/admin/api/pause', ...WITH_REASON },
  resumeQueue: { method: 'POST', path: '/admin/api/resume', ...WITH_REASON },
  getGateways: { method: 'GET', path: '/admin/api/gateways', headers: OPERATOR },
  stopGateway: { method: 'POST', path: '/admin/api/gateways/primary/stop', ...WITH_REASON },
  drainGateway: { method: 'POST', path: '/admin/api/gateways/primary/drain', ...WITH_REASON },
  resumeGateway: { method: 'POST', path: '/admin/api/gateways/primary/resume', ...WITH_REASON },
  listDeadLetters: { method: 'GET', path: '/admin/api/dead-letters?reason=rejected', headers: OPERATOR },
  retryDeadLetters: deadLetters('retry', { all: true, dryRun: true }),
  discardDeadLetters: deadLetters('discard', { all: true, dryRun: true }),
  getAction: { method: 'GET', path: '/admin/api/actions/987654321', headers: OPERATOR },
  stopAction: { method: 'DELETE', path: '/admin/api/actions/987654321', headers: OPERATOR },
  ...Object.fromEntries(
    ['record', 'release', 'reject'].map((act) => [
      `${act}Payment`,
      { method: 'POST', path: `/admin/api/payments/${UNKNOWN}/${act}`, headers: OPERATOR, body: STATEMENT },
    ]),
  ),
  ...Object.fromEntries(
    ['release', 'reject'].map((act) => [
      `${act}Unresolved`,
      { method: 'POST', path: `/admin/api/unresolved/${act}`, headers: OPERATOR, body: STATEMENT },
    ]),
  ),
  getAdmin: { method: 'GET', path: '/admin', headers: OPERATOR },
  getRelayState: { method: 'GET', path: '/admin/api/state', headers: OPERATOR },
  getPaymentAsOperator: {
    method: 'GET',
    path: `/admin/api/payments/${aPayment().correlationId}`,
    headers: OPERATOR,
  },
  getOpenApi: { method: 'GET', path: '/openapi.json' },
  getDocs: { method: 'GET', path: '/docs' },
  other: { method: 'GET', path: '/nothing' },
};

const settle = (id: string, act: string): Request => ({
  ...REQUESTS[`${act}Payment`]!,
  path: `/admin/api/payments/${id}/${act}`,
});
/** Not the gateway that may have been paid, and not the one that is stopped. */
const CONTRADICTING = { body: STATEMENT.replace('"primary"', '"fallback"') };

/** Knows how to get each response that an API with {@link EVERYTHING} documents. */
export async function createProvocations() {
  const api = await testApi(EVERYTHING);
  const full = await testApi({ ...EVERYTHING, PAYMENT_QUEUE_MAX_SIZE: '1' });
  const withoutRedis = await testApi({ ...EVERYTHING, ...NO_REDIS });
  const withoutLedger = await connectedApi(EVERYTHING);
  const broken = await brokenApi(api);
  await postPayment(full.url);

  /** By the kind of response, for all operations that have it. */
  const situations: Readonly<Record<string, (request: Request) => Promise<Exchange>>> = {
    malformed_request: ({ method, path }) => sendRaw(api, method, path, '\r\n'),
    request_timeout: ({ method, path }) => sendRaw(api, method, path, 'Host: x\r\n'),
    payload_too_large: ({ method, path }) =>
      sendRaw(api, method, path, `Host: x\r\nTransfer-Encoding: chunked\r\n\r\n1;${'a'.repeat(20_000)}\r\n`),
    expectation_failed: ({ method, path }) => sendRaw(api, method, path, 'Host: x\r\nExpect: nothing\r\n\r\n'),
    headers_too_large: ({ method, path }) =>
      sendRaw(api, method, path, `Host: x\r\nLong: ${'a'.repeat(20_000)}\r\n\r\n`),
    invalid_request: (request) => send(api.url, { ...request, path: `${request.path.replace(/\?.*|[^/]+$/, '')}%zz` }),
    unauthorized: (request) => send(api.url, { ...request, headers: {} }),
    too_many_logins: (request) => guessUntil(429, api, request),
    forbidden: (request) =>
      send(api.url, { ...request, headers: { ...request.headers, origin: 'http://elsewhere.example' } }),
    internal_error: (request) => send(broken, request),
    queue_unavailable: (request) => send(withoutRedis.url, request),
    ledger_unavailable: (request) => send(withoutLedger.url, request),
    busy: (request) => beBusy(api, request),
    queue_full: (request) => send(full.url, { ...request, body: JSON.stringify(aPayment()) }),
    not_found: (request) => send(api.url, request),
  };

  /** By operation, status and kind: what the situation alone does not bring about. */
  const particular: Readonly<Record<string, () => Promise<Exchange>>> = {
    'postPayment 400 invalid_json': () => send(api.url, { ...REQUESTS['postPayment']!, body: '{' }),
    'postPayment 400 invalid_request': () => send(api.url, { ...REQUESTS['postPayment']!, body: '{}' }),
    'getPayment 200 application/json': async () => {
      const payment = aPayment();
      await postPayment(api.url, payment);
      return send(api.url, { ...REQUESTS['getPayment']!, path: `/payments/${payment.correlationId}` });
    },
    'getSummary 400 invalid_request': () => send(api.url, { method: 'GET', path: '/payments-summary?from=yesterday' }),
    'getHealth 503 application/json': () => send(withoutRedis.url, REQUESTS['getHealth']!),
    'getReadiness 503 application/json': () => send(withoutRedis.url, REQUESTS['getReadiness']!),
    'listDeadLetters 400 invalid_request': () =>
      send(api.url, { ...REQUESTS['listDeadLetters']!, path: '/admin/api/dead-letters?reason=none' }),
    ...Object.fromEntries(
      (['retry', 'discard'] as const).flatMap((verb) => {
        const name = `${verb}DeadLetters`;
        const sent = (to: TestApi, change: object) => () => send(to.url, { ...REQUESTS[name]!, ...change });
        return [
          [`${name} 202 application/json`, () => send(api.url, deadLetters(verb, { all: true, reason: 'a test' }))],
          [
            `${name} 503 queue_unavailable`,
            async () => {
              await insertDeadLetter(withoutRedis);
              return sent(withoutRedis, {})();
            },
          ],
          [`${name} 400 invalid_json`, sent(api, { body: '{' })],
          [`${name} 400 invalid_request`, sent(api, { body: '{}' })],
        ];
      }),
    ),
    'getAction 200 application/json': async () =>
      send(api.url, { ...REQUESTS['getAction']!, path: await runningAction(api) }),
    'stopAction 200 application/json': async () =>
      send(api.url, { ...REQUESTS['stopAction']!, path: await runningAction(api) }),
    'stopAction 409 conflict': async () => {
      const request = { ...REQUESTS['stopAction']!, path: await runningAction(api) };
      await send(api.url, request);
      return send(api.url, request);
    },
    'getOpenApi 304 ': async () => {
      const { headers } = await send(api.url, REQUESTS['getOpenApi']!);
      return send(api.url, { ...REQUESTS['getOpenApi']!, headers: { 'if-none-match': String(headers['etag']) } });
    },
    'getPaymentAsOperator 200 application/json': async () => {
      const payment = aPayment();
      await postPayment(api.url, payment);
      return send(api.url, {
        ...REQUESTS['getPaymentAsOperator']!,
        path: `/admin/api/payments/${payment.correlationId}`,
      });
    },
    'getAdmin 200 text/css': () => send(api.url, { ...REQUESTS['getAdmin']!, path: '/admin/page.css' }),
    'getAdmin 200 text/javascript': () => send(api.url, { ...REQUESTS['getAdmin']!, path: '/admin/page.js' }),
    'getAdmin 200 text/markdown': () => send(api.url, { ...REQUESTS['getAdmin']!, path: '/admin/runbook.md' }),
    'getAdmin 304 ': async () => {
      const { headers } = await send(api.url, REQUESTS['getAdmin']!);
      const known = { ...OPERATOR, 'if-none-match': String(headers['etag']) };
      return send(api.url, { ...REQUESTS['getAdmin']!, headers: known });
    },
    'getAdmin 308 */*': () => send(api.url, { ...REQUESTS['getAdmin']!, path: '/admin/' }),
    'getAdmin 404 not_found': () => send(api.url, { ...REQUESTS['getAdmin']!, path: '/admin/nothing' }),
    'getAdmin 400 invalid_request': () => send(api.url, { ...REQUESTS['getAdmin']!, path: '/admin/%zz' }),
    'getDocs 200 text/css': () => send(api.url, { method: 'GET', path: '/docs/swagger-ui.css' }),
    'getDocs 200 text/javascript': () => send(api.url, { method: 'GET', path: '/docs/swagger-ui-bundle.js' }),
    'getDocs 404 not_found': () => send(api.url, { method: 'GET', path: '/docs/package.json' }),
    'getDocs 400 invalid_request': () => send(api.url, { method: 'GET', path: '/docs/%zz' }),
    'getDashboard 404 */*': () => send(api.url, { ...REQUESTS['getDashboard']!, path: `${BOARD}/nothing/at/all` }),
    'changeQueue 204 ': async () => send(api.url, retry(await deadLetter(api))),
    'changeQueue 404 */*': () =>
      send(api.url, {
        ...REQUESTS['changeQueue']!,
        path: `${BOARD}/api/queues/others/${aPayment().correlationId}/retry`,
      }),
    'changeQueue 405 method_not_allowed': () =>
      send(api.url, { ...REQUESTS['changeQueue']!, path: `${BOARD}/api/queues/payments/obliterate` }),
    'changeQueue 409 application/json': () => send(api.url, retry(aPayment().correlationId)),
    'changeQueue 503 queue_full': async () => send(full.url, retry(await deadLetter(full))),
    'changeQueue 503 ledger_unavailable': async () => send(withoutLedger.url, retry(await deadLetter(withoutLedger))),
    'listActions 400 invalid_request': () =>
      send(api.url, { ...REQUESTS['listActions']!, path: '/admin/api/actions?before=the-last&limit=0' }),
    ...Object.fromEntries(
      ['pauseQueue', 'resumeQueue', 'stopGateway', 'drainGateway', 'resumeGateway'].flatMap((id) => [
        [`${id} 400 invalid_json`, () => send(api.url, { ...REQUESTS[id]!, body: '{' })],
        [`${id} 400 invalid_request`, () => send(api.url, { ...REQUESTS[id]!, body: '{"reason":" "}' })],
        [
          `${id} 404 not_found`,
          () => send(api.url, { ...REQUESTS[id]!, path: REQUESTS[id]!.path.replace('primary', 'other') }),
        ],
      ]),
    ),
    ...Object.fromEntries(
      SETTLING.flatMap((id) => [
        [`${id} 400 invalid_json`, () => send(api.url, { ...REQUESTS[id]!, body: '{' })],
        [`${id} 400 invalid_request`, () => send(api.url, { ...REQUESTS[id]!, body: '{"reason":" "}' })],
      ]),
    ),
    ...Object.fromEntries(
      ['record', 'release', 'reject'].flatMap((act) => [
        [`${act}Payment 200 application/json`, async () => send(api.url, settle(await unresolvedPayment(api), act))],
      ]),
    ),
    'recordPayment 409 application/json': async () =>
      send(api.url, { ...settle(await unresolvedPayment(api), 'record'), ...CONTRADICTING }),
    ...Object.fromEntries(
      ['release', 'reject'].map((act) => [
        `${act}Payment 409 application/json`,
        async () => {
          const payment = aPayment();
          await postPayment(api.url, payment);
          return send(api.url, settle(payment.correlationId, act));
        },
      ]),
    ),
    ...Object.fromEntries(
      ['releaseUnresolved', 'rejectUnresolved'].flatMap((id) => [
        [
          `${id} 200 application/json`,
          async () => {
            await unresolvedPayment(api);
            return send(api.url, REQUESTS[id]!);
          },
        ],
        [`${id} 409 application/json`, () => send(api.url, { ...REQUESTS[id]!, ...CONTRADICTING })],
      ]),
    ),
    'other 405 method_not_allowed': () => send(api.url, { method: 'DELETE', path: '/payments' }),
  };

  return {
    config: api.config,
    /** @throws an Error for a response that this file does not know how to get */
    async provoke({ operationId, status, kind }: Documented): Promise<Exchange> {
      const own = particular[`${operationId} ${status} ${kind}`];
      if (own !== undefined) return own();
      const request = REQUESTS[operationId];
      const situation = status < 300 ? (usual: Request) => send(api.url, usual) : situations[kind];
      if (request === undefined || situation === undefined)
        throw new Error('test/support/provoke.ts has no way to get it');
      return situation(request);
    },
  };
}

/** Without one, a dry run asks Redis for nothing. */
function insertDeadLetter({ config }: TestApi): Promise<unknown> {
  return sql(
    config.database.url,
    `INSERT INTO dead_letters (job_id, payload, reason_code, reason, attempts, accepted_at, died_at, state_by)
     VALUES ($1, '{}', 'rejected', '', 1, now(), now(), 'worker')`,
    [aPayment().correlationId],
  );
}

/** No worker takes it. */
async function runningAction({ url }: TestApi): Promise<string> {
  const { headers } = await send(url, deadLetters('retry', { all: true, reason: 'a test' }));
  return String(headers['location']);
}

async function send(url: string, { method, path, headers = {}, body }: Request): Promise<Exchange> {
  const response = await exchange(`${url}${path}`, { method, headers, ...(body !== undefined && { body }) });
  return { method, path, ...response };
}

/**
 * Sends a request line and these bytes.
 * @returns the last response on the connection; an earlier one is of the head alone, or to an earlier request in the bytes
 */
async function sendRaw({ api }: TestApi, method: string, path: string, rest: string): Promise<Exchange> {
  const socket = connect(api.port!, '127.0.0.1');
  let received = '';
  socket.on('error', () => {});
  socket.on('data', (data) => {
    received += data;
  });
  await once(socket, 'connect');
  socket.write(`${method} ${path} HTTP/1.1\r\n${rest}`);
  await once(socket, 'close');
  const [head, text] = received.slice(received.lastIndexOf('HTTP/1.1 ')).split('\r\n\r\n') as [string, string];
  const [statusLine, ...lines] = head.split('\r\n') as [string, ...string[]];
  const headers = lines.map((line) => line.split(': ') as [string, string]);
  return {
    method,
    path,
    status: Number(statusLine.split(' ')[1]),
    headers: Object.fromEntries(headers.map(([name, value]) => [name.toLowerCase(), value])),
    text,
  };
}

/** Sends wrong logins until the response has this status, ten at most. */
async function guessUntil(status: number, { url }: TestApi, request: Request): Promise<Exchange> {
  const isBasic = request.headers?.['authorization']?.startsWith('Basic');
  const headers = isBasic ? basic('guess') : bearer('another-token-of-some-length');
  const guesses = await Promise.all(Array.from({ length: 10 }, () => send(url, { ...request, headers })));
  return guesses.find((guess) => guess.status === status) ?? guesses[0]!;
}

/** Each has as many requests under way as it can. The last of them get nothing but `busy`, whichever limit of waiting requests it is. */
const CROWDED_CONNECTIONS = 50;

/** @returns the response of the connection that has all its responses first */
async function beBusy(api: TestApi, { method, path, headers = {}, body = '' }: Request): Promise<Exchange> {
  const fields = Object.entries({ Host: 'x', 'Content-Length': body.length, ...headers });
  const head = fields.map(([name, value]) => `${name}: ${value}\r\n`).join('');
  const requests = [
    ...Array<string>(MAX_UNDER_WAY - 1).fill(`${head}\r\n${body}`),
    `${head}Connection: close\r\n\r\n${body}`,
  ].join(`${method} ${path} HTTP/1.1\r\n`);
  const release = await holdTable(api.config.database.url);
  const all = Array.from({ length: CROWDED_CONNECTIONS }, () => sendRaw(api, method, path, requests));
  try {
    return await Promise.race(all);
  } finally {
    // Not only after a response: whatever needs the ledger later would wait for the lock.
    await release();
    await Promise.allSettled(all);
  }
}

/** A dead letter that only Redis has. */
async function deadLetter({ prefix }: TestApi): Promise<string> {
  const payment = aPayment();
  const queue = await bullQueue(prefix);
  await queue.add('payment', payment, { jobId: payment.correlationId, lifo: true });
  const job = await (await bullWorker(prefix)).getNextJob('token');
  await job!.moveToFailed(new UnrecoverableError('invalid_payment: amount'), 'token', false);
  return job!.id!;
}

/** An API that has a fault of its own wherever it uses a part. */
async function brokenApi({ config }: TestApi): Promise<string> {
  const part = new Proxy(
    {},
    {
      get: () => () => {
        throw new Error('a fault of our own');
      },
    },
  ) as never;
  const { logger } = recordingLogger();
  const routes = routesOf({
    config: config.http,
    metricsToken: config.metricsToken,
    logger,
    enqueuer: part,
    ledger: part,
    findPaymentStatus: () => Promise.reject(new Error('a fault of our own')),
    deadLetters: part,
    openDeadLetters: part,
    expectShards: async () => {},
    areQueued: () => Promise.reject(new Error('a fault of our own')),
    actions: part,
    trail: part,
    queueAdmin: part,
    queueWatch: part,
    steering: part,
    settleByHand: part,
    settleUnresolved: part,
    healthCheck: part,
    readState: () => Promise.reject(new Error('a fault of our own')),
    metrics: part,
    isAccepting: () => true,
  });
  const app = createApp(routes, { logins: { operator: config.http.dashboard! }, trail: part, logger });
  const server = await startServer(app, { host: '127.0.0.1', port: 0, keepAliveTimeoutMs: 1_000 });
  atTestEnd(() => server.drain(performance.now()));
  return `http://127.0.0.1:${server.port}`;
}

/** A payment that is unresolved at a primary that is stopped and drained. */
async function unresolvedPayment({ url, prefix }: TestApi): Promise<string> {
  const payment = aPayment();
  await postPayment(url, payment);
  const { redis, key } = await lookInto(prefix);
  await redis.hset(key(payment.correlationId), { ats: 1, noted: 1, attemptedAt: 1 });
  await redis.zadd(key('unresolved'), 1, payment.correlationId);
  await pretendDrained(prefix, 'primary');
  return payment.correlationId;
}
