import { spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import type { ShownAction } from '../../src/operations/dead-letter-actions.ts';
import type { DryRun } from '../../src/operations/dead-letter-verdicts.ts';
import { jobKey } from '../../src/queue/bullmq-layout.ts';
import { paymentQueues, shardOf } from '../../src/queue/shards.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { insertLetters, statesOf } from '../support/dead-letters.ts';
import { exchange } from '../support/http-client.ts';
import { bullQueue } from '../support/queue.ts';
import { eventually, type TestEnv, testApi, testGateway, testRedis, testWorker } from '../support/relay.ts';
import { freshDatabase, freshPrefix, sql, startTestPostgres } from '../support/services.ts';
import { countPayments } from '../support/shards.ts';

const SCRIPT = fileURLToPath(new URL('../../src/commands/dead-letters.ts', import.meta.url));

const OPERATOR = { DASHBOARD_USER: 'operator', DASHBOARD_PASSWORD: 'secret' };
const AUTHORIZATION = `Basic ${Buffer.from('operator:secret').toString('base64')}`;

/** Quick, so that tests do not wait for the pace. */
const QUICK = { perSecond: 1_000, reason: 'a test' };

/** An API with an operator. `work` starts a worker. */
async function relay(env: TestEnv = {}) {
  const prefix = freshPrefix();
  const [primary, fallback] = [await testGateway(), await testGateway()];
  const { url, config } = await testApi({ ...OPERATOR, ...env }, prefix);
  const databaseUrl = config.database.url;
  async function call<Body>(method: string, path: string, body?: unknown): Promise<{ status: number; body: Body }> {
    const sent = body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) };
    const headers = { authorization: AUTHORIZATION };
    const response = await exchange(`${url}/admin/api${path}`, { method, headers, ...sent });
    return { status: response.status, body: JSON.parse(response.text) };
  }
  const action = async (id: string) => (await call<ShownAction>('GET', `/actions/${id}`)).body;
  return {
    url,
    prefix,
    config,
    databaseUrl,
    primary,
    fallback,
    call,
    action,
    async start(verb: 'retry' | 'discard', body: object): Promise<ShownAction> {
      const { status, body: started } = await call<ShownAction>('POST', `/dead-letters/${verb}`, { ...QUICK, ...body });
      expect(status, JSON.stringify(started)).to.equal(202);
      return started;
    },
    dryRun: async (verb: 'retry' | 'discard', body: object) =>
      (await call<DryRun>('POST', `/dead-letters/${verb}`, { dryRun: true, ...body })).body,
    /** Resolves with the action once it has ended. */
    ended: (id: string, timeoutMs?: number) =>
      eventually(async () => {
        const found = await action(id);
        return found.state !== 'running' && found;
      }, timeoutMs),
    work: (workerEnv: TestEnv = {}) =>
      testWorker(
        {
          GATEWAY_PRIMARY_URL: primary.url,
          GATEWAY_FALLBACK_URL: fallback.url,
          DATABASE_URL: databaseUrl,
          ...env,
          ...workerEnv,
        },
        prefix,
      ),
    insert: (count: number, options: Parameters<typeof insertLetters>[2] = {}) =>
      insertLetters(databaseUrl, count, options),
    states: () => statesOf(databaseUrl),
  };
}

const BRACKETS = `${'['.repeat(32_000)}${']'.repeat(32_000)}`;

/** One letter for each reason why it cannot be retried, and three that can. The queue is paused. */
async function mixed({ insert, databaseUrl, prefix }: Awaited<ReturnType<typeof relay>>) {
  const good = [
    ...(await insert(1)),
    ...(await insert(1, { payload: (id) => `{"correlationId":"${id}","amount":19.9,"note":"a\\u0000b"}` })),
    ...(await insert(1, { payload: (id) => `{"correlationId":"${id}","amount":19.9,"note":${BRACKETS}}` })),
  ];
  await insert(1, { code: 'invalid_payment', gateway: null, payloadBytes: 60_000 });
  await insert(1, { code: 'payload_missing', payload: () => null });
  await insert(1, { code: 'invalid_payment', gateway: null, payload: (id) => `{"correlationId":"${id}","amount":0}` });
  await insert(1, { code: 'invalid_payment', gateway: null, payload: () => BRACKETS });
  const [queued] = await insert(1);
  const queue = await bullQueue(prefix);
  await queue.pause();
  await queue.add('payment', {}, { jobId: queued!.correlation_id });
  const [paid] = await insert(1);
  // A payment and a row that did not see each other.
  await sql(databaseUrl, 'ALTER TABLE payments DISABLE TRIGGER ALL');
  await sql(
    databaseUrl,
    `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at) VALUES ($1, 'default', 1990, now())`,
    [paid!.correlation_id],
  );
  await sql(databaseUrl, 'ALTER TABLE payments ENABLE TRIGGER ALL');
  return { good, queue };
}

const MIXED_SKIPPED = { payload_cut: 1, payload_missing: 1, still_invalid: 2, in_queue: 1, paid: 1 };

describe('the list of dead letters', () => {
  interface Page {
    matching: Record<string, number>;
    deadLetters: { id: string; payload?: string; reason: string; gateway?: string }[];
    next?: string;
  }

  it('has open ones by pages, the newest first, and their number by reason', async () => {
    const { call, insert, databaseUrl } = await relay();
    const old = await insert(3, { diedAt: '2026-01-01T00:00:00Z' });
    const fresh = await insert(4, { code: 'invalid_payment', gateway: null, diedAt: '2026-02-01T00:00:00Z' });
    await insert(2, { diedAt: '2026-01-15T00:00:00Z', gateway: 'fallback' });
    await sql(databaseUrl, `UPDATE dead_letters SET state = 'discarded' WHERE id = $1`, [old[0]!.id]);
    const seen: string[] = [];
    let path = '/dead-letters?limit=3';
    for (;;) {
      const { body } = await call<Page>('GET', path);
      expect(body.matching).to.deep.equal({ invalid_payment: 4, rejected: 4, payload_missing: 0 });
      seen.push(...body.deadLetters.map(({ id }) => id));
      if (body.next === undefined) break;
      path = `/dead-letters?limit=3&after=${body.next}`;
    }
    expect(seen).to.have.length(8);
    expect(seen.slice(0, 4)).to.deep.equal(fresh.map(({ id }) => id).reverse());
    expect(seen.at(-1)).to.equal(old[1]!.id);
  });

  it('fits every part of the filter, both ends of the time included', async () => {
    const { call, insert } = await relay();
    await insert(1, { diedAt: '2026-01-01T00:00:00Z' });
    const [wanted] = await insert(1, { diedAt: '2026-01-02T00:00:00Z', gateway: 'fallback' });
    await insert(1, { diedAt: '2026-01-02T00:00:00Z' });
    const { body } = await call<Page>(
      'GET',
      '/dead-letters?from=2026-01-02&to=2026-01-02&gateway=fallback&reason=rejected',
    );
    expect(body.deadLetters.map(({ id }) => id)).to.deep.equal([wanted!.id]);
    expect(body.deadLetters[0]).to.include({ gateway: 'fallback', reason: 'rejected' });
    expect(body.matching).to.deep.equal({ invalid_payment: 0, rejected: 1, payload_missing: 0 });
  });

  it('shows the beginning of a payload', async () => {
    const { call, insert } = await relay();
    await insert(1, { payload: (id) => `{"correlationId":"${id}","note":${BRACKETS}}` });
    const { body } = await call<Page>('GET', '/dead-letters');
    expect(body.deadLetters[0]!.payload).to.have.length(200);
  });

  it('names every fault of its filter at once', async () => {
    const { call } = await relay();
    const { status, body } = await call<{ errors: { param: string }[] }>(
      'GET',
      '/dead-letters?reason=x&gateway=y&from=z&to=z&after=a&limit=0',
    );
    expect(status).to.equal(400);
    expect(body.errors.map(({ param }) => param)).to.have.members([
      'reason',
      'gateway',
      'from',
      'to',
      'after',
      'limit',
    ]);
  });
});

describe('an action over dead letters', () => {
  it('is refused without a filter, unless it says `all`, and with any fault of its body', async () => {
    const { call, insert, states } = await relay();
    await insert(1);
    const faults = async (body: unknown) => {
      const response = await call<{ errors: { param: string }[] }>('POST', '/dead-letters/discard', body);
      expect(response.status).to.equal(400);
      return response.body.errors.map(({ param }) => param);
    };
    expect(await faults({ reason: 'x' })).to.deep.equal(['filter']);
    expect(await faults({ reason: 'x', filter: {} })).to.deep.equal(['filter']);
    expect(await faults({ reason: 'x', filter: { from: '' } })).to.deep.equal(['filter']);
    expect(await faults({ reason: 'x', filter: { gatway: 'primary' } })).to.include('filter.gatway');
    expect(await faults({ reason: 'x', all: true, filter: { reason: 'rejected' } })).to.deep.equal(['all']);
    expect(await faults({ reason: 'x', all: true, ids: ['1'] })).to.deep.equal(['ids']);
    expect(await faults({ reason: 'x', ids: [] })).to.deep.equal(['ids']);
    expect(await faults({ all: true })).to.deep.equal(['reason']);
    expect(await faults({ all: 'yes', dryRun: 1, perSecond: 1_001, reason: ' ' })).to.have.members([
      'all',
      'dryRun',
      'perSecond',
      'reason',
      'filter',
    ]);
    expect(await faults('[]')).to.deep.equal(['body']);
    expect(await states()).to.deep.equal({ open: 1 });
  });

  it('says in a dry run what would be retried and what not, and why, and changes nothing', async () => {
    const started = await relay();
    await mixed(started);
    const { dryRun, states, databaseUrl } = started;
    const before = await states();
    const result = await dryRun('retry', { all: true });
    expect(result).to.deep.include({ examined: 9, eligible: 3, skipped: MIXED_SKIPPED });
    expect(result.matching).to.deep.equal({ invalid_payment: 3, rejected: 5, payload_missing: 1 });
    expect(result.summary).to.match(/^3 would be retried, 6 not, because /);
    expect(await dryRun('discard', { all: true })).to.deep.include({ eligible: 7, skipped: { in_queue: 1, paid: 1 } });
    expect(await dryRun('retry', { filter: { reason: 'payload_missing' } })).to.include({ examined: 1, eligible: 0 });
    expect(await states()).to.deep.equal(before);
    expect(await sql(databaseUrl, 'SELECT FROM operator_actions')).to.have.length(0);
  });

  it('retries what the dry run has promised, and leaves a row with who, why and what came of it', async () => {
    const started = await relay();
    const { good, queue } = await mixed(started);
    const { start, ended, work, primary, states } = started;
    const { id } = await start('retry', { all: true, reason: 'the gateway is repaired' });
    await work();
    const action = await ended(id);
    expect(action).to.deep.include({
      state: 'done',
      who: 'operator',
      action: 'dead_letters.retry',
      reason: 'the gateway is repaired',
      outcome: { done: 3, skipped: MIXED_SKIPPED },
      remaining: 0,
    });
    expect(action.target).to.have.property('letters', 9);
    await queue.resume();
    await eventually(async () => (await states())['paid'] === 3);
    for (const { correlation_id } of good) expect(primary.payments.get(correlation_id)!.amount).to.equal(19.9);
  });

  it('discards what a filter fits, and nothing else', async () => {
    const { insert, start, ended, work, databaseUrl } = await relay();
    await insert(30, { code: 'invalid_payment', gateway: null });
    await insert(20);
    await work();
    const { id } = await start('discard', { filter: { reason: 'invalid_payment' } });
    expect(await ended(id)).to.deep.include({ state: 'done', outcome: { done: 30, skipped: {} } });
    const rows = await sql(
      databaseUrl,
      'SELECT reason_code, state, state_by, count(*)::int FROM dead_letters GROUP BY 1, 2, 3 ORDER BY 1',
    );
    expect(rows).to.deep.equal([
      { reason_code: 'invalid_payment', state: 'discarded', state_by: 'operator', count: 30 },
      { reason_code: 'rejected', state: 'open', state_by: 'worker', count: 20 },
    ]);
  });

  it('takes ids, and counts those that are not open', async () => {
    const { insert, start, ended, work, states } = await relay();
    const [first, second] = await insert(3);
    await work();
    const { id } = await start('discard', { ids: [first!.id, second!.id, '999999'] });
    expect((await ended(id)).outcome).to.deep.equal({ done: 2, skipped: { not_open: 1 } });
    expect(await states()).to.deep.equal({ discarded: 2, open: 1 });
  });

  it('leaves what dies after its start, also what it retried itself', async () => {
    const { insert, start, ended, work, states, databaseUrl, primary } = await relay();
    // Tied to the fallback, where nobody listens; the row is opened again as if it had died there.
    const rows = await insert(3, { payload: (id) => `{"correlationId":"${id}","amount":19.9}` });
    await sql(databaseUrl, `UPDATE dead_letters SET died_at = now() + interval '1 second' WHERE id = $1`, [
      rows[1]!.id,
    ]);
    const { id } = await start('retry', { all: true });
    await work();
    expect((await ended(id)).outcome).to.deep.equal({ done: 2, skipped: {} });
    await eventually(async () => (await states())['paid'] === 2);
    expect(primary.payments.has(rows[1]!.correlation_id)).to.equal(false);
  });

  it('skips a letter that was retried by hand meanwhile', async () => {
    const { insert, start, ended, work, states, prefix } = await relay();
    const [, byHand] = await insert(3);
    const { id } = await start('retry', { all: true });
    const queue = await bullQueue(prefix);
    await queue.add(
      'payment',
      { correlationId: byHand!.correlation_id, amount: 19.9 },
      { jobId: byHand!.correlation_id },
    );
    await queue.pause();
    await work();
    expect((await ended(id)).outcome).to.deep.equal({ done: 2, skipped: { in_queue: 1 } });
    await queue.resume();
    await eventually(async () => (await states())['paid'] === 3);
  });

  it('stops within a second, with what it has done in its row, and the stop has a row of its own', async () => {
    const { insert, start, ended, action, work, call, states, databaseUrl } = await relay();
    await insert(300);
    await work();
    const { id } = await start('discard', { all: true, perSecond: 50 });
    await eventually(async () => ((await action(id)).progress?.done ?? 0) > 0);
    const stoppedAtMs = performance.now();
    const { status, body } = await call<ShownAction>(
      'DELETE',
      `/actions/${id}?reason=${encodeURIComponent('too many')}`,
    );
    expect(status).to.equal(200);
    expect(body.state).to.equal('stopped');
    // The batch under way ends, and no other begins.
    await new Promise((resolve) => setTimeout(resolve, 1_000 - (performance.now() - stoppedAtMs)));
    const { discarded } = (await states()) as { discarded: number };
    expect(discarded).to.be.within(1, 200);
    await new Promise((resolve) => setTimeout(resolve, 700));
    expect((await states())['discarded']).to.equal(discarded);
    expect((await ended(id)).outcome).to.deep.equal({ done: discarded, skipped: {}, stoppedBy: 'operator' });
    expect((await call('DELETE', `/actions/${id}`)).status).to.equal(409);
    const stops = await sql(
      databaseUrl,
      `SELECT who, target ->> 'id' AS target, reason, state FROM operator_actions WHERE action = 'action.stop' ORDER BY id`,
    );
    expect(stops).to.deep.equal([
      { who: 'operator', target: id, reason: 'too many', state: 'done' },
      { who: 'operator', target: id, reason: null, state: 'refused' },
    ]);
  });

  it('waits while the queue is nearly full, says so, and leaves room for clients', async () => {
    const { insert, start, action, ended, work, states, prefix, databaseUrl } = await relay({
      PAYMENT_QUEUE_MAX_SIZE: '20',
    });
    await insert(50);
    const queue = await bullQueue(prefix);
    await queue.pause();
    await work();
    const { id } = await start('retry', { all: true });
    const waiting = await eventually(async () => {
      const { progress } = await action(id);
      return progress?.waiting && progress;
    });
    expect(waiting.waiting!.code).to.equal('queue_full');
    const name = { name: 'payments', prefix };
    expect(await countPayments(await testRedis(), name)).to.deep.equal({ size: 18, inFlight: 0 });
    await queue.resume();
    const { outcome } = await ended(id, 20_000);
    expect(outcome).to.deep.equal({ done: 50, skipped: {} });
    await eventually(async () => (await states())['paid'] === 50);
    expect(await sql(databaseUrl, 'SELECT FROM payments')).to.have.length(50);
  }).timeout(30_000);

  it('runs alone, the oldest first', async () => {
    const { insert, start, ended, work } = await relay();
    await insert(60);
    const first = await start('discard', { filter: { reason: 'rejected' }, perSecond: 60 });
    const second = await start('discard', { all: true });
    await work();
    await work();
    const [a, b] = [await ended(first.id), await ended(second.id)];
    expect(a.outcome).to.deep.equal({ done: 60, skipped: {} });
    expect(b.outcome).to.deep.equal({ done: 0, skipped: { not_open: 60 } });
  });

  it('goes on at once with another worker when its own shuts down', async () => {
    const { insert, start, ended, action, work, states } = await relay();
    await insert(100);
    const first = await work();
    const { id } = await start('discard', { all: true, perSecond: 50 });
    await eventually(async () => ((await action(id)).progress?.done ?? 0) > 0);
    await first.close();
    const closedAtMs = performance.now();
    const { done } = (await action(id)).progress!;
    expect((await states())['discarded']).to.equal(done);
    await work();
    await eventually(async () => (await action(id)).progress!.done > done);
    // The lease would last 6 s.
    expect(performance.now() - closedAtMs).to.be.lessThan(4_000);
    expect((await ended(id)).outcome).to.deep.equal({ done: 100, skipped: {} });
  });

  it('survives an outage of Redis and says why it waits', async function () {
    this.timeout(40_000);
    const redis = await startRedis();
    atTestEnd(() => redis.dispose());
    const { insert, start, action, ended, work, states } = await relay({ REDIS_URL: redis.url });
    await insert(100);
    await work();
    const { id } = await start('retry', { all: true, perSecond: 50 });
    await eventually(async () => ((await action(id)).progress?.done ?? 0) > 0);
    await redis.stop();
    await eventually(async () => (await action(id)).progress?.waiting?.code === 'queue_unavailable');
    await redis.start();
    const { outcome, progress } = await ended(id, 20_000);
    expect(outcome).to.deep.equal({ done: 100, skipped: {} });
    expect(progress).to.not.have.property('waiting');
    await eventually(async () => (await states())['paid'] === 100);
  });

  it('survives an outage of PostgreSQL', async function () {
    this.timeout(40_000);
    const postgres = await startTestPostgres();
    atTestEnd(() => postgres.dispose());
    const { insert, start, action, work, states } = await relay({ DATABASE_URL: await freshDatabase(postgres) });
    await insert(100);
    await work();
    const { id } = await start('retry', { all: true, perSecond: 50 });
    await eventually(async () => ((await action(id)).progress?.done ?? 0) > 0);
    await postgres.stop();
    await postgres.start();
    const { outcome } = await eventually(async () => {
      const found = await action(id);
      return found.state === 'done' && found;
    }, 20_000);
    const { done, skipped } = outcome as { done: number; skipped: Record<string, number> };
    expect(done + Object.values(skipped).reduce((sum, count) => sum + count, 0)).to.equal(100);
    await eventually(async () => (await states())['paid'] === 100);
  });
});

describe('npm run dead-letters', () => {
  async function command(
    { config, prefix }: Pick<Awaited<ReturnType<typeof relay>>, 'config' | 'prefix'>,
    args: string[],
  ) {
    const env = {
      REDIS_URL: config.redis.url,
      DATABASE_URL: config.database.url,
      REDIS_KEY_PREFIX: prefix.slice(1, -1),
      PATH: process.env['PATH'],
    };
    const child = spawn(process.execPath, [SCRIPT, ...args], { env });
    const [out, err, code] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      new Promise((resolve) => child.once('exit', resolve)),
    ]);
    return { out, err, code };
  }

  it('lists, shows and dry-runs as the API does', async () => {
    const started = await relay();
    await mixed(started);
    const [hostile] = await started.insert(1, { payload: () => '"\u001b[31m"' });
    await sql(started.databaseUrl, `UPDATE dead_letters SET reason = E'\\x1b[31m' WHERE id = $1`, [hostile!.id]);
    const { out, err } = await command(started, ['list', '--limit', '5']);
    expect(out, err)
      .to.match(/^rejected +6$/m)
      .and.match(/^More: --after \d+-\d+$/m);
    expect(out).to.not.include('\u001b');
    const { out: one } = await command(started, ['show', hostile!.id]);
    expect(JSON.parse(one)).to.include({ id: hostile!.id, state: 'open', payload: '"\u001b[31m"' });
    const { out: dry, code } = await command(started, ['retry', '--all', '--dry-run']);
    expect(dry).to.match(/^3 would be retried, 7 not, because /);
    expect(code).to.equal(0);
  });

  it('starts an action in its own name and waits for its end', async () => {
    const started = await relay();
    await started.insert(20);
    await started.work();
    const args = ['discard', '--reason-code', 'rejected', '--reason', 'by command', '--per-second', '100', '--wait'];
    const { out, err, code } = await command(started, args);
    expect(out, err).to.match(/done: 20 done; 0 remaining\n$/);
    expect(code).to.equal(0);
    const [row] = await sql<{ who: string; reason: string }>(
      started.databaseUrl,
      'SELECT who, reason FROM operator_actions',
    );
    expect(row!.who).to.match(/^.+@.+$/);
    expect(row!.reason).to.equal('by command');
  });

  it('refuses an empty filter and a missing reason, and exits with 2', async () => {
    const started = await relay();
    await started.insert(1);
    for (const args of [['discard', '--reason', 'x'], ['discard', '--all'], ['bury'], ['show', 'x']]) {
      expect((await command(started, args)).code, args.join(' ')).to.equal(2);
    }
    expect(await started.states()).to.deep.equal({ open: 1 });
  });
});

describe('a worker with another number of shards than the relay', () => {
  it('leaves actions and letters that were queued again to those that fit', async () => {
    const { insert, start, ended, work, databaseUrl, prefix } = await relay({ QUEUE_SHARDS: '4' });
    const [queued] = await insert(1);
    await sql(databaseUrl, `UPDATE dead_letters SET state = 'queued_again', state_at = now() - interval '2 minutes'`);
    const id = queued!.correlation_id;
    const { shards } = paymentQueues({ name: 'payments', prefix, shards: 4 });
    await (await testRedis()).hset(jobKey(shards[shardOf(id, 4)]!, id), 'data', '{}');
    await insert(3);
    const action = await start('retry', { all: true });
    const { entries } = await work({ QUEUE_SHARDS: '2' });
    await eventually(() => entries.some(({ code }) => code === 'other_shards'));
    await work();
    expect(await ended(action.id)).to.include({ state: 'done' });
    const [row] = await sql(databaseUrl, 'SELECT state FROM dead_letters WHERE id = $1', [queued!.id]);
    expect(row).to.deep.equal({ state: 'queued_again' });
  });
});
