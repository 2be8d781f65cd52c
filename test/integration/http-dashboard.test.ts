import { UnrecoverableError } from 'bullmq';
import { expect } from 'chai';
import type { Test } from 'supertest';
import { startRedis } from '../../dev/local/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange, http } from '../support/http-client.ts';
import { bullQueue, bullWorker, lookInto, NO_DATABASE, NO_REDIS } from '../support/queue.ts';
import { aPayment, eventually, type TestEnv, testApi } from '../support/relay.ts';
import { freshDatabase, sql } from '../support/services.ts';

const USER = 'operator';
const PASSWORD = 'geheim: \u00fc';
const PATH = '/admin/queues';

/** An API with a dashboard, and its operator. */
async function dashboard(env: TestEnv = {}) {
  const { url, prefix, entries } = await testApi({
    DASHBOARD_USER: USER,
    DASHBOARD_PASSWORD: PASSWORD,
    ...NO_DATABASE,
    ...env,
  });
  const authorization = `Basic ${Buffer.from(`${USER}:${PASSWORD}`).toString('base64')}`;
  const operator = http(url).set('Authorization', authorization);
  return {
    url,
    prefix,
    entries,
    operator,
    authorization,
    /** Resolves once the dashboard's own connection to Redis is up; its first requests are before that. */
    opened: () => eventually(async () => (await operator.get(`${PATH}/api/queues`)).status === 200),
  };
}

/** A dead letter, as the worker leaves one. */
async function deadLetter(url: string, prefix: string, reason = 'invalid_payment: amount') {
  const payment = aPayment();
  const worker = await bullWorker(prefix);
  await http(url).post('/payments').send(payment).expect(204);
  const job = await worker.getNextJob('token');
  await job!.moveToFailed(new UnrecoverableError(reason), 'token', false);
  return payment.correlationId;
}

describe('GET /admin/queues', () => {
  it('gets 404 without DASHBOARD_USER and DASHBOARD_PASSWORD', async () => {
    const { url } = await testApi(NO_DATABASE);
    for (const path of [PATH, `${PATH}/`, `${PATH}/api/queues`]) {
      const { body } = await http(url).get(path).auth(USER, PASSWORD).expect(404);
      expect(body).to.deep.equal({ error: 'not_found' });
    }
  });

  for (const [name, authorize] of Object.entries({
    'no credentials': (request) => request,
    'a wrong password': (request) => request.auth(USER, 'guess'),
    'a wrong user': (request) => request.auth('admin', PASSWORD),
    'the password alone': (request) => request.auth('', PASSWORD),
    'another scheme': (request) => request.set('Authorization', `Bearer ${PASSWORD}`),
    'an empty header': (request) => request.set('Authorization', ''),
  } satisfies Record<string, (request: Test) => Test>)) {
    it(`gets 401 for ${name}, whatever the path`, async () => {
      const { url } = await dashboard();
      // With the one below five, which is the limit of wrong logins in a second.
      for (const path of [PATH, `${PATH}/api/queues`, `${PATH}/static/favicon.ico`, `${PATH}/nothing`]) {
        const { headers, body } = await authorize(http(url).get(path)).expect(401);
        expect(headers['www-authenticate']).to.match(/^Basic realm=/);
        expect(body).to.deep.equal({ error: 'unauthorized' });
      }
      await authorize(http(url).put(`${PATH}/api/queues/payments/pause`)).expect(401);
    });
  }

  it('loads as a page, with its scripts and styles', async () => {
    const { operator } = await dashboard();
    for (const path of [PATH, `${PATH}/`, `${PATH}/queue/payments`]) {
      const { text } = await operator
        .get(path)
        .expect(200)
        .expect('content-type', /^text\/html/);
      expect(text).to.include('<title>Payrelay</title>');
      expect(text).to.include(`<base href="${PATH}/"`);
    }
    const { text } = await operator.get(PATH);
    const files = [...text.matchAll(/(?:src|href)="(static\/[^"]+\.(?:js|css))"/g)].map(([, file]) => file!);
    expect(files).to.not.be.empty;
    for (const file of files) await operator.get(`${PATH}/${file}`).expect(200);
  });

  it('shows the queue the first time it is asked', async () => {
    const { operator } = await dashboard();
    await operator.get(`${PATH}/api/queues`).expect(200);
  });

  it('shows what is in the queue', async () => {
    const { url, prefix, operator, opened } = await dashboard();
    const dead = await deadLetter(url, prefix, 'invalid_payment: amount must be positive');
    const waiting = aPayment(12.34);
    await http(url).post('/payments').send(waiting).expect(204);
    await opened();
    const { body } = await operator.get(`${PATH}/api/queues`).expect(200);
    expect(body.queues).to.have.length(1);
    expect(body.queues[0]).to.include({ name: 'payments' });
    expect(body.queues[0].counts).to.include({ waiting: 1, failed: 1, active: 0 });
    const job = await operator.get(`${PATH}/api/queues/payments/${waiting.correlationId}`).expect(200);
    expect(job.body.job.data).to.deep.equal(waiting);
    const letter = await operator.get(`${PATH}/api/queues/payments/${dead}`).expect(200);
    expect(letter.body.job.failedReason).to.equal('invalid_payment: amount must be positive');
  });

  it('responds with 404 to an unknown path', async () => {
    const { operator, opened } = await dashboard();
    await opened();
    await operator.get(`${PATH}/nothing/at/all`).expect(404);
    await operator.get(`${PATH}/api/queues/payments/${aPayment().correlationId}`).expect(404);
    await operator.get(`${PATH}/api/queues/others/pause`).expect(404);
  });

  describe('retry', () => {
    /** A dashboard with a ledger, whose dead letters are those of the failed jobs. */
    async function withLedger() {
      const databaseUrl = await freshDatabase();
      const { url, prefix, operator, opened } = await dashboard({ DATABASE_URL: databaseUrl });
      const queue = await lookInto(prefix);
      await opened();
      return {
        queue,
        operator,
        prefix,
        dead: () => deadLetter(url, prefix),
        /** The row of a dead letter, with this payload in full or cut to so many bytes. */
        async bury(id: string, payload: string, bytes = Buffer.byteLength(payload)) {
          const { timestamp } = await queue.job(id);
          await sql(
            databaseUrl,
            `INSERT INTO dead_letters (job_id, correlation_id, payload, payload_bytes, reason_code, reason, attempts,
               accepted_at, died_at, state_by)
             VALUES ($1::text, $1::uuid, $2, $3, 'rejected', 'HTTP 400', 1, $4, now(), 'worker')`,
            [id, payload, bytes, new Date(Number(timestamp))],
          );
        },
        states: async () => (await sql(databaseUrl, 'SELECT state FROM dead_letters')).map(({ state }) => state),
        retry: (id: string) => operator.put(`${PATH}/api/queues/payments/${id}/retry`),
      };
    }

    it('queues a dead letter with its payload from the ledger, as old as it is', async () => {
      const { queue, prefix, dead, bury, retry, states } = await withLedger();
      const id = await dead();
      const { timestamp } = await queue.job(id);
      const payload = `{"correlationId": "${id}", "amount": 1.50, "note": "${'x'.repeat(5_000)}"}`;
      await bury(id, payload);
      await queue.redis.hset(queue.key(id), 'data', `{"correlationId":"${id}","amount":1.5,"payload":"{"}`);
      await retry(id).expect(204);
      expect(await queue.waiting()).to.deep.equal([id]);
      expect(await queue.redis.zcard(queue.key('failed'))).to.equal(0);
      expect(await queue.job(id)).to.include({ data: payload, timestamp });
      expect(await states()).to.deep.equal(['open']);
      const worker = await bullWorker(prefix);
      expect((await worker.getNextJob('token'))!.id).to.equal(id);
    });

    it('takes the payload from the ledger however the path is spelled', async () => {
      const { queue, operator, dead, bury } = await withLedger();
      for (const spell of [
        (id: string) => `/API/Queues/payments/${id}/RETRY`,
        (id: string) => `/api/queues/payments/${id}/retry/`,
        (id: string) => `/api/queues/%70ayments/${id}/Retry`,
        () => '/api/queues/payments/RETRY/Failed/',
      ]) {
        const id = await dead();
        const payload = `{"correlationId": "${id}", "amount": 1.50}`;
        await bury(id, payload);
        await operator.put(PATH + spell(id)).expect(({ status }) => expect(status, spell(id)).to.be.within(200, 204));
        expect(await queue.job(id), spell(id)).to.include({ data: payload });
        await queue.redis.del(queue.key(id), queue.key('wait'));
      }
    });

    it('responds with 404 for a queue that there is not', async () => {
      const { queue, operator, dead } = await withLedger();
      const id = await dead();
      await operator.put(`${PATH}/api/queues/others/${id}/retry`).expect(404);
      await operator.put(`${PATH}/api/queues/others/retry/failed`).expect(404);
      expect(await queue.waiting()).to.deep.equal([]);
    });

    it('keeps what is known of earlier attempts', async () => {
      const { queue, dead, bury, retry } = await withLedger();
      const id = await dead();
      await bury(id, '{}');
      await queue.redis.hset(queue.key(id), { ats: '5', atm: '3', progress: '{"gateway":"fallback"}' });
      await retry(id).expect(204);
      expect(await queue.job(id)).to.include({ ats: '5', atm: '3', progress: '{"gateway":"fallback"}' });
    });

    it('queues one of an older worker that has no row yet, with its payload from Redis', async () => {
      const { queue, dead, retry } = await withLedger();
      const id = await dead();
      const { data } = await queue.job(id);
      await retry(id).expect(204);
      expect(await queue.job(id)).to.include({ data });
    });

    it('responds with 409 and the reason when the payload was cut', async () => {
      const { queue, dead, bury, retry } = await withLedger();
      const id = await dead();
      await bury(id, '{"corr', 60_000);
      const { body } = await retry(id).expect(409);
      expect(body.message).to.match(/payload/);
      expect(await queue.waiting()).to.deep.equal([]);
      expect(await queue.redis.zcard(queue.key('failed'))).to.equal(1);
    });

    it('changes nothing for a payment that is not dead, or not there', async () => {
      const { queue, prefix, retry } = await withLedger();
      const job = await (await bullQueue(prefix)).add('payment', aPayment(), { jobId: aPayment().correlationId });
      for (const id of [job.id!, '%25', aPayment().correlationId, 'clean', 'CLEAN']) {
        const { body } = await retry(id).expect(409);
        expect(body.message, id).to.match(/no dead letter/);
      }
      expect(await queue.waiting()).to.deep.equal([job.id]);
    });

    it('responds with 503 while the ledger is unreachable', async () => {
      const { url, prefix, operator, opened } = await dashboard();
      const id = await deadLetter(url, prefix);
      await opened();
      const { body } = await operator.put(`${PATH}/api/queues/payments/${id}/retry`).expect(503);
      expect(body).to.deep.equal({ error: 'ledger_unavailable' });
      expect(await (await lookInto(prefix)).waiting()).to.deep.equal([]);
    });

    it('queues all that can be retried and counts the others', async () => {
      const { queue, operator, dead, bury } = await withLedger();
      const ids = [await dead(), await dead(), await dead()];
      await bury(ids[0]!, '{"corr', 60_000);
      const { body } = await operator.put(`${PATH}/api/queues/payments/retry/failed`).expect(200);
      expect(body).to.deep.equal({ retried: 2, skipped: 1 });
      expect(await queue.waiting()).to.have.members(ids.slice(1));
    });
  });

  for (const [status, title] of [
    ['failed', 'lists dead letters beside one whose payload is nested 5,000 deep'],
    ['waiting', 'lists waiting payments beside one whose payload is nested 5,000 deep'],
  ] as const) {
    it(title, async () => {
      const { url, prefix, operator, opened } = await dashboard();
      const nested = aPayment();
      const deep = JSON.stringify(nested).replace('}', `,"note":${'['.repeat(5_000)}${']'.repeat(5_000)}}`);
      await http(url).post('/payments').set('content-type', 'application/json').send(deep).expect(204);
      if (status === 'failed') {
        const worker = await bullWorker(prefix);
        const job = await worker.getNextJob('token');
        await job!.moveToFailed(new UnrecoverableError('amount'), 'token', false);
        await deadLetter(url, prefix);
      } else {
        await http(url).post('/payments').send(aPayment()).expect(204);
      }
      await opened();
      const { body } = await operator
        .get(`${PATH}/api/queues?activeQueue=payments&status=${status}&page=1&jobsPerPage=10`)
        .expect(200);
      expect(body.queues[0].jobs).to.have.length(2);
      const { body: shown } = await operator.get(`${PATH}/api/queues/payments/${nested.correlationId}`).expect(200);
      expect(shown.job.data).to.include({ correlationId: nested.correlationId });
    });
  }

  it('promotes a delayed payment', async () => {
    const { prefix, operator, opened } = await dashboard({ DATABASE_URL: await freshDatabase() });
    const job = await (await bullQueue(prefix)).add('payment', aPayment(), { delay: 60_000 });
    await opened();
    await operator.put(`${PATH}/api/queues/payments/${job.id}/promote`).expect(204);
    expect(await job.getState()).to.equal('waiting');
  });

  it('pauses the queue, which still takes payments, and resumes it', async () => {
    const { url, prefix, operator, opened } = await dashboard({ DATABASE_URL: await freshDatabase() });
    const queue = await bullQueue(prefix);
    await opened();
    await operator.put(`${PATH}/api/queues/payments/pause`).expect(200);
    expect(await queue.isPaused()).to.equal(true);
    const payment = aPayment();
    await http(url).post('/payments').send(payment).expect(204);
    const worker = await bullWorker(prefix);
    expect(await worker.getNextJob('token', { block: false })).to.equal(undefined);
    await operator.put(`${PATH}/api/queues/payments/resume`).expect(200);
    expect((await worker.getNextJob('token'))!.id).to.equal(payment.correlationId);
  });

  it('responds with 405 to every change that could lose or alter a payment', async () => {
    const { url, prefix, operator, opened } = await dashboard();
    const queue = await lookInto(prefix);
    const dead = await deadLetter(url, prefix);
    const payment = aPayment();
    await http(url).post('/payments').send(payment).expect(204);
    await opened();
    const before = await queue.keys();
    const of = (id: string, change: string) => `/api/queues/payments/${id}/${change}`;
    for (const [method, path] of [
      ['put', of(payment.correlationId, 'clean')],
      ['put', of(dead, 'clean')],
      ['patch', of(payment.correlationId, 'update-data')],
      ['patch', of(payment.correlationId, 'delay')],
      ['patch', of(payment.correlationId, 'priority')],
      ['put', of(payment.correlationId, 'remove-unprocessed-children')],
      ['put', '/api/queues/payments/clean/failed'],
      ['put', '/api/queues/payments/clean/waiting'],
      ['put', '/api/queues/payments/clean/wait/'],
      ['put', '/api/queues/payments/clean/waiting?x=/retry'],
      ['put', '/api/queues/payments/empty'],
      ['put', '/api/queues/payments/obliterate'],
      ['put', '/API/QUEUES/payments/OBLITERATE'],
      ['put', '/api/queues/payments/CLEAN/failed'],
      ['put', '/api/queues/payments/%63lean/failed/'],
      ['put', '/api/queues/payments/retry/completed'],
      ['put', '/api/queues/payments/concurrency'],
      ['put', '/api/queues/payments/rate-limit'],
      ['post', '/api/queues/payments/add'],
      ['post', of(dead, 'retry')],
      ['delete', '/api/queues/payments'],
    ] as const) {
      const { headers, body } = await operator[method](`${PATH}${path}`).expect(405);
      expect(headers['allow'], path).to.equal('GET, HEAD');
      expect(body).to.deep.equal({ error: 'method_not_allowed' });
    }
    expect(await queue.keys()).to.deep.equal(before);
    expect(await queue.waiting()).to.deep.equal([payment.correlationId]);
  });

  it('changes nothing by a path that bull-board reads as another change', async () => {
    const { prefix, operator, opened } = await dashboard({ DATABASE_URL: await freshDatabase() });
    const queue = await bullQueue(prefix);
    await queue.add('payment', aPayment(), { delay: 60_000 });
    await opened();
    // For bull-board these remove all jobs of the state `retry` or `promote`.
    for (const path of ['CLEAN/retry', 'clean/retry', 'Clean/promote', '%63lean/retry']) {
      const { status } = await operator.put(`${PATH}/api/queues/payments/${path}`);
      expect(status, path).to.be.oneOf([404, 409]);
    }
    expect(await queue.getDelayedCount()).to.equal(1);
  });

  it('responds with 405 to other methods, also to those that no page uses', async () => {
    const { url, authorization } = await dashboard();
    for (const method of ['OPTIONS', 'TRACE', 'PROPFIND', 'DELETE']) {
      const { status, headers } = await exchange(`${url}${PATH}/api/queues`, { method, headers: { authorization } });
      expect([status, headers['allow']], method).to.deep.equal([405, 'GET, HEAD']);
    }
  });

  it('lets the right login in while others guess, and logs the guesses once', async () => {
    const { url, operator, entries } = await dashboard();
    const guesses = Array.from({ length: 50 }, () => http(url).get(PATH).auth(USER, 'guess'));
    const statuses = (await Promise.all(guesses)).map(({ status }) => status);
    expect(statuses.filter((status) => status === 401)).to.have.length(5);
    expect(statuses.filter((status) => status === 429)).to.have.length(45);
    await operator.get(PATH).expect(200);
    expect(entries.filter(({ code }) => code === 'unauthorized')).to.have.length(1);
  });

  it('responds with 403 to a change that another site has made the browser send', async () => {
    const { url, prefix, operator, opened } = await dashboard({ DATABASE_URL: await freshDatabase() });
    const id = await deadLetter(url, prefix);
    await opened();
    const retry = () => operator.put(`${PATH}/api/queues/payments/${id}/retry`);
    for (const origin of ['https://evil.example', `${url}0`, 'null']) {
      const { body } = await retry().set('Origin', origin).expect(403);
      expect(body).to.deep.equal({ error: 'forbidden' });
    }
    await retry().set('Origin', url).expect(204);
  });

  it('responds 4xx without a stack to a malformed escape', async () => {
    const { url, operator, opened, authorization } = await dashboard();
    await opened();
    for (const path of ['/queue/%E0%A4%A', '/api/queues/payments/%E0%A4%A', '/%']) {
      const { status, text } = await exchange(`${url}${PATH}${path}`, { method: 'GET', headers: { authorization } });
      expect(status, path).to.be.within(400, 499);
      expect(text).to.not.match(/node_modules|\.js:\d/);
    }
    await operator.get(PATH).expect(200);
  });

  it('loads while Redis is down, and shows the queue once it is', async () => {
    const redis = await startRedis();
    atTestEnd(() => redis.dispose());
    await redis.stop();
    const { operator, opened } = await dashboard({ REDIS_URL: redis.url });
    await operator.get(PATH).expect(200);
    const { text } = await operator.get(`${PATH}/api/queues`).expect((response) => response.status >= 500);
    expect(text).to.not.match(/node_modules|\.js:\d/);
    await redis.start();
    await opened();
  });

  it('responds with 503 queue_unavailable while Redis is down', async () => {
    const { operator } = await dashboard(NO_REDIS);
    const { body } = await operator.get(`${PATH}/api/queues`).expect(503);
    expect(body).to.deep.equal({ error: 'queue_unavailable' });
  });
});

describe('Every response with a body', () => {
  it('has headers that keep browsers from framing, guessing and caching it', async () => {
    const { operator, opened } = await dashboard({ ALLOW_PURGE: 'true', DATABASE_URL: await freshDatabase() });
    await opened();
    const { text } = await operator.get(PATH);
    const script = /src="(static\/[^"]+\.js)"/.exec(text)![1]!;
    for (const [method, path, status] of [
      ['get', '/payments-summary?from=2026-01-01&to=2026-01-02', 200],
      ['get', '/payments-summary?from=x', 400],
      ['get', '/health', 200],
      ['get', '/health/live', 200],
      ['get', '/health/ready', 200],
      ['get', '/nothing', 404],
      ['get', `${PATH}/api/queues/payments/%E0%A4%A`, 400],
      ['put', '/payments', 405],
      ['post', '/payments', 400],
      ['get', PATH, 200],
      ['get', `${PATH}/api/queues`, 200],
      ['get', `${PATH}/${script}`, 200],
      ['get', `${PATH}/nothing/at/all`, 404],
      ['put', `${PATH}/api/queues/payments/obliterate`, 405],
      ['post', '/purge-payments', 200],
    ] as const) {
      const { headers } = await operator[method](path).expect(status);
      expect(headers, path).to.include({ 'x-content-type-options': 'nosniff', 'cache-control': 'no-store' });
      expect(headers, path).to.include({ 'x-frame-options': 'DENY', 'referrer-policy': 'same-origin' });
      expect(headers['content-security-policy'], path).to.match(/^default-src 'none'; .*frame-ancestors 'none'$/);
      expect(headers['content-security-policy'], path).to.not.match(/https?:|\*|unsafe-eval|script-src[^;]*unsafe/);
      expect(headers, path).to.not.have.property('x-powered-by');
    }
  });

  it('is a page without a file of another host', async () => {
    const { operator } = await dashboard();
    const { text } = await operator.get(PATH).expect(200);
    expect(text).to.not.match(/(?:href|src)="(?:https?:)?\/\//);
  });

  it('does not include the 204 of a payment, which has no headers but its date', async () => {
    const { url } = await dashboard();
    const { headers } = await http(url).post('/payments').send(aPayment()).expect(204);
    expect(Object.keys(headers)).to.have.members(['connection', 'date']);
  });
});

describe('POST /purge-payments', () => {
  it('gets 403 when the page of another site sends it, and purges for a program', async () => {
    const { url, prefix } = await testApi({ ALLOW_PURGE: 'true' });
    await http(url).post('/payments').send(aPayment()).expect(204);
    for (const headers of [{ Origin: 'https://evil.example' }, { 'Sec-Fetch-Site': 'cross-site' }]) {
      const { body } = await http(url).post('/purge-payments').set(headers).expect(403);
      expect(body).to.deep.equal({ error: 'forbidden' });
    }
    expect(await (await lookInto(prefix)).waiting()).to.have.length(1);
    await http(url).post('/purge-payments').expect(200);
    expect(await (await lookInto(prefix)).waiting()).to.deep.equal([]);
  });
});
