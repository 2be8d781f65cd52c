import { expect } from 'chai';
import { QueueUnavailableError } from '../../src/errors.ts';
import type { SettleDeps } from '../../src/operations/settle-by-hand.ts';
import { steeringKey } from '../../src/queue/bullmq-layout.ts';
import { bullWorker } from '../support/queue.ts';
import { aPayment, eventually, postPayment, testApi, testWorker } from '../support/relay.ts';
import { hang } from '../support/scripted-gateway.ts';
import { scriptedRelay } from '../support/scripted-relay.ts';
import { sql } from '../support/services.ts';
import { pretendDrained, refusalOf, settling, unresolvedPayments } from '../support/settling.ts';

/** Nothing listens there, so an attempt is certainly not sent. */
const NO_PRIMARY = { GATEWAY_PRIMARY_URL: 'http://127.0.0.1:1' };
const BY = { who: 'ana', reason: 'ticket 7: the provider has not made it' };
const AT = new Date('2026-01-02T03:04:05.678Z');

type Unresolved = Awaited<ReturnType<typeof unresolvedPayments>>;

/** A worker whose primary is down, so that a payment that is free goes to the fallback. */
function workWithoutPrimary({ relay }: Pick<Unresolved, 'relay'>) {
  const env = { DATABASE_URL: relay.databaseUrl, GATEWAY_FALLBACK_URL: relay.fallback.url, FALLBACK_ON: 'not_sent' };
  return testWorker({ ...env, ...NO_PRIMARY, GATEWAY_EMPTY_500: 'unknown' }, relay.prefix);
}

const deadLetters = (databaseUrl: string) =>
  sql<{ state: string; gateway: string | null; reason: string }>(
    databaseUrl,
    'SELECT state, gateway, reason FROM dead_letters ORDER BY id',
  );

/** Starts a run at the moment when the operation is about to change the job. */
function raced<Name extends 'release' | 'end' | 'tie'>(name: Name, before: () => Promise<unknown>) {
  return (deps: SettleDeps): SettleDeps => {
    const act = deps.waitingJobs[name] as (...args: unknown[]) => Promise<never>;
    const first = async (...args: unknown[]) => {
      await before();
      return act(...args);
    };
    return { ...deps, waitingJobs: { ...deps.waitingJobs, [name]: first } };
  };
}

describe('release by hand', () => {
  it('frees an unresolved payment, which is then paid at the fallback, once', async () => {
    const stage = await unresolvedPayments();
    const { relay, ids } = stage;
    const { settle, rows } = await settling(relay);
    expect(await settle.release(ids[0], BY)).to.deep.equal({
      correlationId: ids[0],
      gateway: 'primary',
      result: 'released',
    });
    expect(await relay.unresolved()).to.deep.equal([]);
    expect(await relay.status(ids[0]))
      .to.include({ state: 'queued' })
      .and.nested.include({
        'released.gateway': 'primary',
      });
    await workWithoutPrimary(stage);
    await relay.recorded(ids);
    await relay.drained();
    await relay.expectTrueBooks();
    expect(relay.fallback.posts).to.have.length(1);
    const [{ who, action, target, reason, state } = {} as never] = rows;
    expect({ who, action, reason, state }).to.deep.equal({ ...BY, action: 'payment.release', state: 'done' });
    expect(target).to.deep.include({ correlationId: ids[0], gateway: 'primary' });
    expect(target['before']).to.have.nested.property('job.attempts', 1);
    expect(target['before']).to.have.nested.property('job.notClean', 1);
    expect(target['before']).to.have.nested.property('job.code', 'http_502');
  });

  it('frees a payment that is bound to the fallback, and it goes to the primary', async () => {
    const relay = await scriptedRelay();
    relay.fallback.onPayment = () => hang;
    const id = await relay.post();
    const worker = await workWithoutPrimary({ relay });
    await eventually(async () => (await relay.redis.zscore(relay.key('delayed'), id)) !== null);
    await worker.close();
    const { settle } = await settling(relay);
    expect(await settle.release(id, BY)).to.include({ gateway: 'fallback' });
    await relay.work();
    await relay.recorded([id]);
    expect([...relay.primary.onRecord.keys()]).to.deep.equal([id]);
    expect(relay.fallback.posts).to.have.length(1);
  });

  it('is refused while the gateway is not stopped and drained', async () => {
    const { relay, ids } = await unresolvedPayments();
    const stopped = (at: Date) => ({ state: 'stopped', by: { who: 'ana', reason: undefined, at: at.toISOString() } });
    for (const options of [
      { steered: { state: 'open' } },
      { steered: { ...stopped(new Date(0)), state: 'draining' } },
      { steered: stopped(new Date()) },
      { vitals: { waiting: 0, steered: 'stopped', underWay: 1 } },
      { vitals: { waiting: 0, steered: 'draining', underWay: 0 } },
      { vitals: { waiting: 0 } },
    ] as Parameters<typeof settling>[1][]) {
      const { settle, rows } = await settling(relay, options);
      const refusal = await refusalOf(settle.release(ids[0], BY));
      expect(refusal).to.include({ code: 'conflict', reason: 'not_drained' });
      expect(rows[0]).to.include({ state: 'refused' });
    }
    expect(await relay.unresolved()).to.deep.equal(ids);
  });

  it('is refused while the last attempt is younger than RELEASE_AFTER_MS, by the clock of Redis', async () => {
    const { relay, ids } = await unresolvedPayments();
    const { settle } = await settling(relay, { releaseAfterMs: 60_000 });
    expect(await refusalOf(settle.release(ids[0], BY))).to.include({ reason: 'too_recent' });
    const { attemptedAt } = await relay.job(ids[0]);
    await relay.redis.hset(relay.key(ids[0]), 'attemptedAt', Number(attemptedAt) - 60_001);
    expect(await settle.release(ids[0], BY)).to.include({ result: 'released' });
  });

  it('is refused after a run that died, until the next one has left its note of the time', async () => {
    const { relay, ids } = await unresolvedPayments();
    await relay.redis.hset(relay.key(ids[0]), 'attemptedAt', 1_000);
    const { settle } = await settling(relay, { releaseAfterMs: 60_000 });
    await relay.hurry(ids);
    const worker = await bullWorker(relay.prefix);
    await worker.getNextJob('token');
    await relay.redis.del(`${relay.key(ids[0])}:lock`);
    expect(await refusalOf(settle.release(ids[0], BY))).to.include({ reason: 'too_recent' });
    await relay.work();
    const attemptedAt = await eventually(async () => {
      const job = await relay.job(ids[0]);
      return job['noted'] === '3' && Number(job['attemptedAt']);
    }, 20_000);
    expect(attemptedAt).to.be.above(1_000);
  });

  it('is refused in flight, also when the lock has expired', async () => {
    const { relay, ids } = await unresolvedPayments();
    const worker = await bullWorker(relay.prefix);
    const { settle } = await settling(relay);
    await relay.hurry(ids);
    await worker.getNextJob('token');
    expect(await refusalOf(settle.release(ids[0], BY))).to.include({ reason: 'in_flight' });
    await relay.redis.del(`${relay.key(ids[0])}:lock`);
    // As a run that had left its note would look: in the list of active jobs, without a lock.
    await relay.redis.hset(relay.key(ids[0]), 'noted', (await relay.job(ids[0]))['ats']!);
    expect(await refusalOf(settle.release(ids[0], BY))).to.include({ reason: 'in_flight' });
    expect(await relay.unresolved()).to.deep.equal(ids);
  });

  it('changes nothing when a worker takes the payment at the last moment', async () => {
    const { relay, ids } = await unresolvedPayments();
    const worker = await bullWorker(relay.prefix);
    const take = async () => {
      await relay.hurry(ids);
      await worker.getNextJob('token');
    };
    const { settle } = await settling(relay, { change: raced('release', take) });
    expect(await refusalOf(settle.release(ids[0], BY))).to.include({ reason: 'changed' });
    const job = await relay.job(ids[0]);
    expect(job).to.include({ ats: '2' }).and.not.have.property('released');
    expect(job['atm'] ?? '0').to.equal('0');
  });

  it('is harmless after a promotion, and done once by two operators', async () => {
    const stage = await unresolvedPayments();
    const { relay, ids } = stage;
    const { settle } = await settling(relay, { change: raced('release', () => relay.hurry(ids)) });
    const results = await Promise.allSettled([settle.release(ids[0], BY), settle.release(ids[0], BY)]);
    expect(results.map(({ status }) => status)).to.include('fulfilled');
    expect(await refusalOf(settle.release(ids[0], BY))).to.include({ reason: 'not_unresolved' });
    await workWithoutPrimary(stage);
    await relay.recorded(ids);
    expect(relay.fallback.posts).to.have.length(1);
  });

  it('is refused for a payment that is free, paid or unknown', async () => {
    const relay = await scriptedRelay();
    const id = await relay.post();
    const { settle } = await settling(relay);
    expect(await refusalOf(settle.release(id, BY))).to.include({ reason: 'not_unresolved' });
    await relay.work();
    await relay.recorded([id]);
    expect(await refusalOf(settle.release(id, BY))).to.include({ reason: 'paid' });
    expect(await refusalOf(settle.release(aPayment().correlationId, BY))).to.include({ code: 'not_found' });
    expect(await refusalOf(settle.release('id', BY))).to.include({ code: 'invalid_request' });
  });

  it('unties a dead letter, so that a later post of its id is free', async () => {
    const stage = await unresolvedPayments();
    const { relay, ids } = stage;
    const { settle } = await settling(relay);
    await settle.reject(ids[0], BY);
    expect(await deadLetters(relay.databaseUrl)).to.deep.equal([
      { state: 'open', gateway: 'default', reason: BY.reason },
    ]);
    expect(await settle.release(ids[0], BY)).to.include({ gateway: 'primary' });
    expect(await deadLetters(relay.databaseUrl)).to.deep.equal([{ state: 'open', gateway: null, reason: BY.reason }]);
    const { url } = await testApi({ DATABASE_URL: relay.databaseUrl }, relay.prefix);
    await postPayment(url, { correlationId: ids[0], amount: 19.9 });
    await workWithoutPrimary(stage);
    await relay.recorded(ids);
    expect([...relay.fallback.onRecord.keys()]).to.deep.equal(ids);
    expect((await deadLetters(relay.databaseUrl))[0]).to.include({ state: 'paid' });
  });

  it('leaves the tie of a dead letter when the job cannot be freed, and frees both at once otherwise', async () => {
    const stage = await unresolvedPayments();
    const { relay, ids } = stage;
    await sql(
      relay.databaseUrl,
      `INSERT INTO dead_letters (job_id, correlation_id, reason_code, reason, gateway, attempts, accepted_at, died_at, state, state_by)
       VALUES ($1::text, $1::uuid, 'rejected', '', 'default', 1, now(), now(), 'queued_again', 'worker')`,
      [ids[0]],
    );
    const fail = () => Promise.reject(new QueueUnavailableError('down'));
    const broken = await settling(relay, { change: raced('release', fail) });
    expect(await refusalOf(broken.settle.release(ids[0], BY))).to.include({ code: 'queue_unavailable' });
    expect((await deadLetters(relay.databaseUrl))[0]).to.include({ gateway: 'default' });
    const { settle } = await settling(relay);
    await settle.release(ids[0], BY);
    expect((await deadLetters(relay.databaseUrl))[0]).to.include({ gateway: null });
    await workWithoutPrimary(stage);
    await relay.recorded(ids);
    await relay.expectTrueBooks();
  });
});

describe('reject by hand', () => {
  it('makes a dead letter with the reason, and the payment is sent no more', async () => {
    const { relay, ids } = await unresolvedPayments();
    const { settle, rows } = await settling(relay);
    await settle.reject(ids[0], BY);
    expect(await relay.status(ids[0])).to.include({
      state: 'dead_letter',
      reason: 'rejected',
      detail: BY.reason,
      boundTo: 'primary',
    });
    expect(await relay.unresolved()).to.deep.equal([]);
    await relay.drained();
    expect(rows[0]).to.include({ action: 'payment.reject', state: 'done' });
    expect(await refusalOf(settle.reject(ids[0], BY))).to.include({ reason: 'dead_letter' });
  });

  it('ends a payment that is due and waits in the list', async () => {
    const { relay, ids } = await unresolvedPayments();
    await relay.hurry(ids);
    const { settle } = await settling(relay);
    await settle.reject(ids[0], BY);
    expect(await relay.redis.llen(relay.key('wait'))).to.equal(0);
    await relay.drained();
  });

  it('loses nothing when it ends between the row and the job: the gateway still decides', async () => {
    const { relay, ids } = await unresolvedPayments();
    const crash = () => Promise.reject(new QueueUnavailableError('killed'));
    const { settle } = await settling(relay, { change: raced('end', crash) });
    expect(await refusalOf(settle.reject(ids[0], BY))).to.include({ code: 'queue_unavailable' });
    expect((await deadLetters(relay.databaseUrl))[0]).to.include({ state: 'open', gateway: 'default' });
    relay.primary.onPayment = () => undefined;
    await relay.work();
    await relay.hurry(ids);
    await relay.recorded(ids);
    await relay.drained();
    await relay.expectTrueBooks();
    expect(relay.fallback.posts).to.deep.equal([]);
    expect((await deadLetters(relay.databaseUrl))[0]).to.include({ state: 'paid' });
  });
});

describe('record by hand', () => {
  const made = { gateway: 'primary', amountCents: 1_990, requestedAt: AT } as const;

  it('writes the row, and the job ends without another attempt', async () => {
    const { relay, ids } = await unresolvedPayments();
    const { settle, rows } = await settling(relay, { steered: { state: 'open' } });
    expect(await settle.record(ids[0], made, BY)).to.include({ result: 'recorded', gateway: 'primary' });
    expect(await relay.status(ids[0])).to.include({ state: 'paid', amount: 19.9, requestedAt: AT.toISOString() });
    expect(await settle.record(ids[0], made, BY)).to.include({ result: 'recorded' });
    expect(rows.map(({ action, state }) => [action, state])).to.deep.equal(
      Array.from({ length: 2 }, () => ['payment.record', 'done']),
    );
    await relay.work();
    await relay.hurry(ids);
    await relay.drained();
    expect(relay.primary.posts).to.have.length(1);
    expect(await relay.unresolved()).to.deep.equal([]);
  });

  it('refuses a row that differs from the one in the ledger, and shows that one', async () => {
    const { relay, ids } = await unresolvedPayments();
    const { settle } = await settling(relay);
    await settle.record(ids[0], made, BY);
    const other = { ...made, requestedAt: new Date('2026-01-02T03:04:05.679Z') };
    const refusal = await refusalOf(settle.record(ids[0], other, BY));
    expect(refusal).to.deep.include({
      reason: 'differs',
      recorded: { gateway: 'primary', amount: 19.9, requestedAt: AT },
    });
    expect(await relay.status(ids[0])).to.include({ requestedAt: AT.toISOString() });
  });

  it('refuses another amount than the one that was posted', async () => {
    const { relay, ids } = await unresolvedPayments();
    const { settle } = await settling(relay);
    const refusal = await refusalOf(settle.record(ids[0], { ...made, amountCents: 1_991 }, BY));
    expect(refusal).to.include({ reason: 'amount_differs' });
    expect((await relay.ledger()).size).to.equal(0);
  });

  it('refuses a gateway other than the one that may have been paid, until it is released there', async () => {
    const { relay, ids } = await unresolvedPayments();
    const { settle } = await settling(relay);
    const elsewhere = { ...made, gateway: 'fallback' } as const;
    expect(await refusalOf(settle.record(ids[0], elsewhere, BY))).to.include({ reason: 'tied_elsewhere' });
    await settle.release(ids[0], BY);
    expect(await settle.record(ids[0], elsewhere, BY)).to.include({ gateway: 'fallback' });
    await relay.work();
    await relay.drained();
    expect(relay.primary.posts).to.have.length(1);
    expect(relay.fallback.posts).to.deep.equal([]);
  });

  it('binds a free payment to the gateway before the row is there', async () => {
    const relay = await scriptedRelay();
    const id = await relay.post();
    const { settle } = await settling(relay, {
      change: (deps) => ({
        ...deps,
        byHand: { ...deps.byHand, record: () => Promise.reject(new QueueUnavailableError('killed')) },
      }),
    });
    const elsewhere = { ...made, gateway: 'fallback' } as const;
    await refusalOf(settle.record(id, elsewhere, BY));
    await relay.work();
    await relay.recorded([id]);
    expect(relay.primary.posts).to.deep.equal([]);
  });

  it('records a payment in flight at that gateway, and refuses one whose first run is under way', async () => {
    const { relay, ids } = await unresolvedPayments();
    const worker = await bullWorker(relay.prefix);
    const { settle } = await settling(relay);
    await relay.hurry(ids);
    await worker.getNextJob('one');
    expect(await settle.record(ids[0], made, BY)).to.include({ result: 'recorded' });
    const free = await relay.post();
    await worker.getNextJob('two');
    expect(await refusalOf(settle.record(free, made, BY))).to.include({ reason: 'in_flight' });
  });

  it('closes a dead letter as recorded', async () => {
    const { relay, ids } = await unresolvedPayments();
    const { settle } = await settling(relay);
    await settle.reject(ids[0], BY);
    await settle.record(ids[0], made, BY);
    expect((await deadLetters(relay.databaseUrl))[0]).to.include({ state: 'recorded' });
    expect(await refusalOf(settle.record(aPayment().correlationId, made, BY))).to.include({ code: 'not_found' });
  });
});

describe('settling unresolved payments by filter', () => {
  it('changes nothing in a dry run, and then releases page by page', async () => {
    const { relay, ids } = await unresolvedPayments(3);
    const { unresolved, rows } = await settling(relay);
    const filter = { gateway: 'primary', olderThan: undefined, offset: 0, limit: 2 } as const;
    const preview = await unresolved.preview('released', filter);
    expect(preview.payments.map(({ correlationId }) => correlationId)).to.deep.equal(ids.slice(0, 2));
    expect(preview.next).to.equal(2);
    expect(rows).to.deep.equal([]);
    expect(await relay.unresolved()).to.deep.equal(ids);

    const first = await unresolved.release(filter, BY);
    expect(first.payments.map(({ result }) => result)).to.deep.equal(['released', 'released']);
    const second = await unresolved.release({ ...filter, offset: first.next! }, BY);
    expect(second.payments.map(({ correlationId }) => correlationId)).to.deep.equal(ids.slice(2));
    expect(second.next).to.equal(undefined);
    expect(await relay.unresolved()).to.deep.equal([]);
    const actions = rows.map(({ action }) => action);
    expect(actions.filter((action) => action === 'payment.release')).to.have.length(3);
    expect(actions.filter((action) => action === 'unresolved.release')).to.have.length(2);
  });

  it('passes over what it refuses, and takes only what is unresolved since the time', async () => {
    const { relay, ids } = await unresolvedPayments(2);
    const [first, second] = ids as [string, string];
    await relay.redis.hdel(relay.key(first), 'noted');
    const { unresolved } = await settling(relay);
    const page = await unresolved.reject({ gateway: 'primary', olderThan: undefined, offset: 0, limit: 2 }, BY);
    expect(page.payments.map(({ result }) => result)).to.deep.equal(['refused', 'rejected']);
    expect(page.next).to.equal(1);
    expect(await relay.status(second)).to.include({ state: 'dead_letter' });
    const filter = { gateway: 'primary', olderThan: new Date(0), offset: 0, limit: 2 } as const;
    expect((await unresolved.preview('released', filter)).payments).to.deep.equal([]);
  });

  it('is refused as a whole while the gateway is not drained', async () => {
    const { relay } = await unresolvedPayments();
    const { unresolved } = await settling(relay, { steered: { state: 'open' } });
    const filter = { gateway: 'primary', olderThan: undefined, offset: 0, limit: 2 } as const;
    expect(await refusalOf(unresolved.preview('released', filter))).to.include({ reason: 'not_drained' });
  });
});

describe('release while an operator has stopped the primary', function () {
  this.timeout(40_000);

  it('waits for no attempt, keeps the time of the last one, and the payment is paid at the fallback, once', async () => {
    const { relay, ids } = await unresolvedPayments();
    await relay.redis.hset(steeringKey({ name: 'payments', prefix: relay.prefix }), {
      primary: JSON.stringify({ state: 'stopped', who: 'ana', reason: 'a test', at: 1 }),
    });
    const { attemptedAt } = await relay.job(ids[0]);
    await relay.work();
    await relay.hurry(ids);
    await eventually(async () => (await relay.job(ids[0]))['reasonCode'] === 'stopped');
    await eventually(async () => (await relay.redis.zscore(relay.key('delayed'), ids[0])) !== null);
    expect(await relay.job(ids[0])).to.include({ attemptedAt, noted: (await relay.job(ids[0]))['ats'] });
    const { settle } = await settling(relay, { isPretended: false });
    await eventually(() => settle.release(ids[0], BY).catch(() => false as const));
    await relay.recorded(ids);
    await relay.drained();
    await relay.expectTrueBooks();
    expect(relay.primary.posts).to.have.length(1);
    expect(relay.fallback.posts).to.have.length(1);
  });
});

describe('two API nodes and a client that posts again', () => {
  const login = { DASHBOARD_USER: 'ana', DASHBOARD_PASSWORD: 'secret', RELEASE_AFTER_MS: '60000' };
  const headers = { authorization: `Basic ${Buffer.from('ana:secret').toString('base64')}` };

  it('release one payment once, with the name of the login in the trail', async () => {
    const stage = await unresolvedPayments();
    const { relay, ids } = stage;
    const [id] = ids;
    await relay.redis.hset(relay.key(id), 'attemptedAt', 1);
    await pretendDrained(relay.prefix, 'primary');
    const env = { ...login, DATABASE_URL: relay.databaseUrl };
    const nodes = [await testApi(env, relay.prefix), await testApi(env, relay.prefix)];
    const release = (url: string) =>
      fetch(`${url}/admin/api/payments/${id}/release`, { method: 'POST', headers, body: '{"reason":"ticket 7"}' });
    const [responses] = await Promise.all([
      Promise.all(nodes.map(({ url }) => release(url))),
      ...nodes.map(({ url }) => postPayment(url, { correlationId: id, amount: 19.9 })),
    ]);
    const statuses = responses.map(({ status }) => status);
    expect(statuses).to.include(200);
    expect(statuses.every((status) => status === 200 || status === 409)).to.equal(true);
    expect((await release(nodes[0]!.url)).status).to.equal(409);
    await relay.redis.hdel(steeringKey({ name: 'payments', prefix: relay.prefix }), 'primary');
    await workWithoutPrimary(stage);
    await relay.recorded(ids);
    await relay.drained();
    await relay.expectTrueBooks();
    expect(relay.fallback.posts).to.have.length(1);
    const rows = await sql<{ who: string; action: string }>(
      relay.databaseUrl,
      'SELECT who, action FROM operator_actions',
    );
    expect(new Set(rows.map(({ who, action }) => `${who} ${action}`))).to.deep.equal(new Set(['ana payment.release']));
  });
});
