import { UnrecoverableError } from 'bullmq';
import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import { createTcpProxy } from '../../dev/tcp-proxy.ts';
import { QueueUnavailableError } from '../../src/errors.ts';
import { createPaymentFinder } from '../../src/queue/find-payment.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange, http } from '../support/http-client.ts';
import { bullQueue, bullWorker, lookInto, NO_DATABASE, NO_REDIS } from '../support/queue.ts';
import { aPayment, eventually, postPayment, type TestEnv, testApi, testRedis, testWorker } from '../support/relay.ts';
import { accept, hang, html, json, type Reply, scriptedGateway } from '../support/scripted-gateway.ts';
import { holdTable, sql } from '../support/services.ts';
import { groupsSideBySide } from '../support/side-by-side.ts';

interface Status {
  readonly state: string;
  readonly reason?: string;
  readonly detail?: string;
  readonly since?: string;
  readonly acceptedAt?: string;
  readonly [field: string]: unknown;
}

/** Above the time of a heartbeat, on a busy machine. */
const PATIENCE_MS = 8_000;

/** An API, two scripted gateways, and a worker that starts with `work`. */
async function stage(env: TestEnv = {}) {
  const [primary, fallback] = await Promise.all([scriptedGateway(), scriptedGateway()]);
  const settings = { GATEWAY_PRIMARY_URL: primary.url, GATEWAY_FALLBACK_URL: fallback.url, ...env };
  const { url, prefix, config } = await testApi(settings);
  const databaseUrl = config.database.url;
  const get = async (id: string) => {
    const { status, body } = await http(url).get(`/payments/${id}`);
    return { status, body: body as Status & { readonly error?: string } };
  };
  return {
    url,
    prefix,
    config,
    databaseUrl,
    primary,
    fallback,
    get,
    queue: await lookInto(prefix, env['REDIS_URL']),
    work: (more: TestEnv = {}) => testWorker({ DATABASE_URL: databaseUrl, ...settings, ...more }, prefix),
    async post(payment: object = aPayment()): Promise<string> {
      expect((await postPayment(url, payment)).status).to.equal(204);
      return (payment as { correlationId: string }).correlationId;
    },
    /** Resolves with the first status that has these fields. */
    async until(id: string, fields: Partial<Status>): Promise<Status> {
      let last: Status | undefined;
      const found = eventually(async () => {
        last = (await get(id)).body;
        return Object.entries(fields).every(([name, value]) => last![name] === value) && last;
      }, PATIENCE_MS);
      return found.catch((error: Error) => {
        throw new Error(`${error.message}: ${JSON.stringify(last)}`);
      });
    },
  };
}

const unreachable = { GATEWAY_PRIMARY_URL: 'http://127.0.0.1:1' };

/** A failure from something that may stand in the gateway's place. */
const badGateway: Reply = html(502, '502 Bad Gateway');

groupsSideBySide(
  {
    'GET /payments/{correlationId} of a payment that waits': {
      'is queued without a worker; upper case and HEAD work': async () => {
        const { url, get, post } = await stage();
        const id = await post();
        const { status, body } = await get(id);
        expect(status).to.equal(200);
        expect(body).to.include({ correlationId: id, state: 'queued', amount: 19.9, attempts: 0, reason: 'no_worker' });
        expect(body).to.not.have.any.keys('boundTo', 'gateway');
        expect(Date.now() - Date.parse(body.acceptedAt!)).to.be.within(-1_000, PATIENCE_MS);
        expect((await get(id.toUpperCase())).body).to.deep.equal(body);
        const head = await exchange(`${url}/payments/${id}`, { method: 'HEAD' });
        expect(head).to.include({ status: 200, text: '' });
        expect(Number(head.headers['content-length'])).to.equal(JSON.stringify(body).length);
      },

      'is queued in a paused queue': async () => {
        const { prefix, get, post, work } = await stage();
        await (await bullQueue(prefix)).pause();
        await work();
        expect((await get(await post())).body).to.include({ state: 'queued', reason: 'queue_paused' });
      },

      'waits its turn behind a payment that is being paid': async () => {
        const { primary, post, work, until } = await stage({ PAYMENT_QUEUE_MAX_CONCURRENCY: '1' });
        primary.onPayment = () => hang;
        const ids = [await post(), await post()];
        await work();
        const first = await until(ids[0]!, { state: 'in_flight', reason: 'being_paid' });
        expect(first['attempts']).to.equal(1);
        await until(ids[1]!, { state: 'queued', reason: 'waits_its_turn' });
      },

      'names the primary that is down, since when and why, in the queue and in flight': async () => {
        const { post, work, get } = await stage({ ...unreachable, PAYMENT_QUEUE_MAX_CONCURRENCY: '1' });
        const ids: string[] = [];
        for (let n = 0; n < 8; n += 1) ids.push(await post());
        await work();
        const [queued, inFlight] = await eventually(async () => {
          const all = (await Promise.all(ids.map(get))).map(({ body }) => body);
          const down = all.filter(({ reason }) => reason === 'primary_down');
          const found = ['queued', 'in_flight'].map((wanted) => down.find(({ state }) => state === wanted));
          return found.every((status) => status !== undefined) && found;
        });
        expect(queued!.since).to.equal(inFlight!.since);
        expect(Date.now() - Date.parse(queued!.since!)).to.be.within(0, PATIENCE_MS);
        expect(queued!.detail).to.include('ECONNREFUSED');
      },

      'is without memory when Redis is, and its look-up works all the same': async () => {
        const { dispose, url: redisUrl } = await startRedis();
        atTestEnd(dispose);
        const { queue, post, get, until } = await stage({ REDIS_URL: redisUrl });
        const id = await eventually(() => post().catch(() => undefined));
        await queue.redis.config('SET', 'maxmemory', '1');
        await until(id, { state: 'queued', reason: 'redis_memory' });
        expect((await get(aPayment().correlationId)).status).to.equal(404);
      },

      'is retried after its gateway refused it, with the reason': async () => {
        const { primary, post, work, until } = await stage();
        primary.onPayment = () => json(429, { message: 'slow down' });
        const id = await post();
        await work();
        const status = await until(id, { state: 'retrying' });
        expect(status).to.include({ reason: 'gateway_response' });
        expect(status).to.not.have.property('boundTo');
        expect(status.detail).to.include('HTTP 429').and.to.include('slow down');
      },
    },

    'GET /payments/{correlationId} of an unresolved payment': {
      'names the response that proves nothing': async () => {
        const { primary, post, work, until } = await stage();
        primary.onPayment = () => badGateway;
        const id = await post();
        await work();
        const status = await until(id, { state: 'unresolved' });
        expect(status).to.include({ boundTo: 'primary', reason: 'gateway_response', amount: 19.9 });
        expect(status.detail).to.include('HTTP 502');
        primary.onPayment = () => accept;
        await until(id, { state: 'paid' });
      },

      'is one without a response': async () => {
        const { primary, post, work, until } = await stage({ GATEWAY_RECEIVE_TIMEOUT_MS: '200' });
        primary.onPayment = () => hang;
        const id = await post();
        await work();
        await until(id, { state: 'unresolved', reason: 'no_response', boundTo: 'primary' });
      },

      'is one whose gateway responds 400': async () => {
        const { primary, post, work, until } = await stage();
        primary.onPayment = () => json(400, { message: 'bad amount' });
        const id = await post();
        await work();
        const status = await until(id, { state: 'unresolved', reason: 'gateway_response' });
        expect(status.detail).to.include('bad amount');
      },

      'is one that is bound to the fallback, also in its first run': async () => {
        const { fallback, post, work, until } = await stage({ ...unreachable, FALLBACK_ON: 'not_sent' });
        const response = Promise.withResolvers<void>();
        fallback.onPayment = () => (arrival, gateway) => void response.promise.then(() => badGateway(arrival, gateway));
        const id = await post();
        await work();
        await until(id, { state: 'unresolved', boundTo: 'fallback', reason: 'being_paid' });
        response.resolve();
        await until(id, { state: 'unresolved', boundTo: 'fallback', reason: 'gateway_response' });
      },

      'names the fallback that is down': async () => {
        const { primary, fallback, post, work, until } = await stage({
          ...unreachable,
          FALLBACK_ON: 'not_sent',
          PAYMENT_QUEUE_MAX_CONCURRENCY: '8',
        });
        fallback.onPayment = () => badGateway;
        const ids = [];
        for (let n = 0; n < 6; n += 1) ids.push(await post());
        await work();
        const noted = await until(ids[0]!, { state: 'unresolved', boundTo: 'fallback', reason: 'gateway_response' });
        expect(noted.detail).to.include('fallback gateway').and.to.include('HTTP 502');
        expect(primary.posts).to.deep.equal([]);
      },

      'has lost its worker: in flight without a heartbeat, then without a word': async () => {
        const { prefix, queue, post, get } = await stage();
        const id = await post();
        const worker = await bullWorker(prefix);
        await worker.getNextJob('worker-without-heartbeat:0');
        expect((await get(id)).body).to.include({ state: 'in_flight', reason: 'worker_lost', attempts: 1 });
        // Its lock expires.
        await queue.redis.del(`${queue.key(id)}:lock`);
        expect((await get(id)).body).to.include({ state: 'unresolved', reason: 'worker_lost', boundTo: 'primary' });
      },

      'is one that its gateway has and the ledger has not, after its worker has shut down': async () => {
        const { primary, databaseUrl, post, work, get } = await stage();
        const asked = Promise.withResolvers<void>();
        const response = Promise.withResolvers<void>();
        primary.onPayment = () => (arrival, gateway) => {
          asked.resolve();
          void response.promise.then(() => accept(arrival, gateway));
        };
        const id = await post();
        const worker = await work();
        await asked.promise;
        const release = await holdTable(databaseUrl);
        response.resolve();
        await worker.close();
        await release();
        const { body } = await get(id);
        expect(body).to.include({ state: 'unresolved', reason: 'ledger_unavailable', boundTo: 'primary' });
        expect(body.detail).to.include('paid at the primary gateway');
      },

      'keeps its reason when its worker shuts down': async () => {
        const { primary, post, work, get, until } = await stage();
        primary.onPayment = () => badGateway;
        const id = await post();
        const worker = await work();
        await until(id, { state: 'unresolved', reason: 'gateway_response' });
        await worker.close();
        expect((await get(id)).body).to.include({
          state: 'unresolved',
          reason: 'gateway_response',
          boundTo: 'primary',
        });
      },
    },

    "GET /payments/{correlationId} while its worker's ledger is down": {
      'says so in flight': async () => {
        const { databaseUrl, post, work, until } = await stage();
        const target = new URL(databaseUrl);
        const proxy = await createTcpProxy(Number(target.port));
        atTestEnd(() => proxy.close());
        target.port = String(proxy.port);
        await work({ DATABASE_URL: target.href });
        await until(await post(), { state: 'paid' });
        await proxy.set({ kind: 'refuse' });
        const id = await post();
        const { since } = await until(id, { state: 'in_flight', reason: 'ledger_unavailable' });
        expect(Date.now() - Date.parse(since!)).to.be.within(0, PATIENCE_MS);
        await proxy.set({ kind: 'none' });
        await until(id, { state: 'paid' });
      },
    },

    'GET /payments/{correlationId} of a payment that is over': {
      'is paid, at its gateway, and stays so when it is posted again': async () => {
        const { primary, post, work, get, until } = await stage();
        const payment = aPayment();
        const id = await post(payment);
        const worker = await work();
        const paid = await until(id, { state: 'paid' });
        expect(paid).to.have.all.keys('correlationId', 'state', 'amount', 'gateway', 'requestedAt', 'recordedAt');
        const { requestedAt } = primary.onRecord.get(id)!;
        expect(paid).to.include({ correlationId: id, amount: 19.9, gateway: 'primary', requestedAt });
        await worker.close();
        await post(payment);
        expect((await get(id)).body).to.deep.equal(paid);
      },

      'is paid at the fallback': async () => {
        const { post, work, until } = await stage({ ...unreachable, FALLBACK_ON: 'not_sent' });
        const id = await post();
        await work();
        expect(await until(id, { state: 'paid' })).to.include({ gateway: 'fallback' });
      },

      'is a dead letter, by its row and by the failed job of an older worker; discarded by an operator': async () => {
        const { databaseUrl, queue, post, work, get, until } = await stage();
        const { correlationId: id } = aPayment();
        await post({ correlationId: id, amount: -1 });
        const worker = await work();
        const dead = await until(id, { state: 'dead_letter', reason: 'invalid_payment', attempts: 1 });
        expect(dead).to.not.have.any.keys('amount', 'boundTo');
        expect(dead.detail).to.include('amount');
        await worker.close();
        const row = (await get(id)).body;
        await sql(databaseUrl, 'CREATE TABLE kept AS SELECT * FROM dead_letters');
        await sql(databaseUrl, 'DELETE FROM dead_letters');
        // The failed job itself.
        const { since: _, ...byJob } = (await get(id)).body;
        expect(row).to.include(byJob);
        await sql(databaseUrl, 'INSERT INTO dead_letters OVERRIDING SYSTEM VALUE SELECT * FROM kept');
        await sql(databaseUrl, "UPDATE dead_letters SET state = 'discarded'");
        expect((await get(id)).body).to.include({ state: 'discarded', reason: 'invalid_payment' });
        await queue.redis.del(queue.key('failed'), queue.key(id));
        expect((await get(id)).body).to.include({ state: 'discarded', reason: 'invalid_payment' });
      },

      'is a dead letter that Redis evicted, and one that is queued again and has no job': async () => {
        const { databaseUrl, queue, post, work, get, until } = await stage();
        const id = await post();
        await queue.redis.hdel(queue.key(id), 'data');
        const worker = await work();
        await until(id, { state: 'dead_letter', reason: 'payload_missing', boundTo: 'primary' });
        await worker.close();
        await sql(databaseUrl, "UPDATE dead_letters SET state = 'queued_again'");
        await queue.redis.del(queue.key('failed'), queue.key(id));
        expect((await get(id)).body).to.include({ state: 'dead_letter', reason: 'payload_missing' });
        await sql(databaseUrl, "UPDATE dead_letters SET gateway = 'fallback'");
        await post({ correlationId: id, amount: 1 });
        expect((await get(id)).body).to.include({
          state: 'unresolved',
          reason: 'payload_missing',
          boundTo: 'fallback',
        });
      },

      'is a dead letter that an older worker says was rejected, and has no row': async () => {
        const { prefix, post, until } = await stage();
        const id = await post();
        await bullWorker(prefix, async () => {
          throw new UnrecoverableError('rejected: HTTP 400');
        });
        expect(await until(id, { state: 'dead_letter' })).to.include({ reason: 'rejected', amount: 19.9, attempts: 1 });
      },
    },

    'GET /payments/{correlationId} of what is not there': {
      'is 404 for an id that nobody posted, and 400 for what is no UUID': async () => {
        const { get } = await stage();
        expect(await get(aPayment().correlationId)).to.deep.equal({ status: 404, body: { error: 'not_found' } });
        for (const id of ['x', '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b', '%F0%9F%98%80']) {
          expect(await get(id), id).to.deep.equal({
            status: 400,
            body: { error: 'invalid_request', errors: [{ param: 'correlationId', message: 'must be a UUID' }] },
          });
        }
      },

      'is 404 after a purge': async () => {
        const { url, post, work, get, until } = await stage({ ALLOW_PURGE: 'true' });
        const id = await post();
        await work();
        await until(id, { state: 'paid' });
        await http(url).post('/purge-payments').expect(200);
        expect((await get(id)).status).to.equal(404);
      },

      'needs STATUS_TOKEN when it is set': async () => {
        const token = 'a-token-for-the-status';
        const { url, post } = await stage({ STATUS_TOKEN: token });
        const path = `/payments/${await post()}`;
        const { headers } = await http(url).get(path).expect(401, { error: 'unauthorized' });
        expect(headers['www-authenticate']).to.match(/^Bearer\b/);
        await http(url).get(path).set('Authorization', `Bearer ${token}x`).expect(401);
        await http(url).get(path).set('Authorization', `Bearer ${token}`).expect(200);
      },
    },

    'GET /payments/{correlationId} while a store is down': {
      'is 503 ledger_unavailable without PostgreSQL, and without both': async () => {
        const { correlationId } = aPayment();
        for (const env of [NO_DATABASE, { ...NO_DATABASE, ...NO_REDIS }]) {
          const { url } = await testApi(env);
          const { headers } = await http(url)
            .get(`/payments/${correlationId}`)
            .expect(503, { error: 'ledger_unavailable' });
          expect(headers['retry-after']).to.equal('1');
        }
        const { url, queue, post } = await stage(NO_DATABASE);
        const id = await post();
        expect(await queue.isStored(id)).to.equal(true);
        await http(url).get(`/payments/${id}`).expect(503, { error: 'ledger_unavailable' });
      },

      'is 503 queue_unavailable without Redis, but for a payment that is recorded': async () => {
        const { databaseUrl, post, work, until } = await stage();
        const paid = await post();
        const worker = await work();
        await until(paid, { state: 'paid' });
        const dead = aPayment(-1);
        await post(dead);
        await until(dead.correlationId, { state: 'dead_letter' });
        await worker.close();
        const { url } = await testApi({ ...NO_REDIS, DATABASE_URL: databaseUrl });
        const { body } = await http(url).get(`/payments/${paid}`).expect(200);
        expect(body.state).to.equal('paid');
        for (const id of [dead.correlationId, aPayment().correlationId]) {
          const { headers } = await http(url).get(`/payments/${id}`).expect(503, { error: 'queue_unavailable' });
          expect(headers['retry-after']).to.equal('1');
        }
      },

      'is 503 for what a Redis lacks that cannot be trusted, and 200 for what it has': async () => {
        const { config, prefix, post } = await stage();
        const id = await post();
        const fault = { code: 'not_checked', detail: 'this Redis has not been checked', since: new Date() };
        const jobs = createPaymentFinder({
          redis: await testRedis(),
          queue: { name: config.queue.name, prefix },
          serverCheck: { fault },
        });
        const [found, absent] = await jobs.find([id, aPayment().correlationId]);
        expect(found).to.include({ kind: 'queued' });
        expect(absent).to.be.instanceOf(QueueUnavailableError);
      },

      'is 503 ledger_unavailable while PostgreSQL hangs, for all that wait, and posts go on': async () => {
        const { url, databaseUrl, post, get } = await stage();
        const id = await post();
        const release = await holdTable(databaseUrl);
        const startedAt = performance.now();
        const asked = Promise.all(Array.from({ length: 200 }, () => get(id)));
        await post();
        expect(performance.now() - startedAt).to.be.below(1_000);
        const results = await asked;
        expect(new Set(results.map(({ status, body }) => `${status} ${body.error}`))).to.deep.equal(
          new Set(['503 ledger_unavailable']),
        );
        await release();
        expect((await http(url).get(`/payments/${id}`)).status).to.equal(200);
      },
    },
  },
  { atOnce: 6 },
);
