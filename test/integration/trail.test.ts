import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import { createTcpProxy } from '../../dev/tcp-proxy.ts';
import { LedgerUnavailableError, QueueUnavailableError } from '../../src/errors.ts';
import { createDb } from '../../src/ledger/db.ts';
import { createOperatorActions } from '../../src/ledger/operator-actions.ts';
import { createLateRows } from '../../src/operations/late-rows.ts';
import { type Act, createTrail } from '../../src/operations/trail.ts';
import { createActionOutbox } from '../../src/queue/action-outbox.ts';
import { outboxKey } from '../../src/queue/bullmq-layout.ts';
import { createProducerConnection, firstConnection } from '../../src/queue/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { recordingLogger } from '../support/logger.ts';
import { NO_DATABASE } from '../support/queue.ts';
import { eventually, testRedis } from '../support/relay.ts';
import { freshDatabase, freshPrefix, holdTable, sharedRedis, sql } from '../support/services.ts';

const ACT: Act = { who: 'anna', action: 'gateway.stop', target: { gateway: 'primary' }, reason: 'it hangs' };

const NOWHERE = NO_DATABASE.DATABASE_URL;

interface Place {
  readonly redisUrl?: string;
  readonly databaseUrl?: string;
  readonly prefix?: string;
}

/** A trail as a node has it. `at` is where the node believes its PostgreSQL to be. */
async function node({ redisUrl, databaseUrl, prefix = freshPrefix() }: Place = {}) {
  const redis = createProducerConnection({ url: redisUrl ?? (await sharedRedis()).url, clusterNodes: [] });
  redis.on('error', () => {});
  atTestEnd(() => redis.disconnect());
  await firstConnection(redis);
  const db = createDb({ url: databaseUrl ?? (await freshDatabase()), poolSize: 5, ssl: false });
  atTestEnd(() => db.destroy());
  const queue = { name: 'payments', prefix };
  const { logger, entries } = recordingLogger();
  const actions = createOperatorActions(db);
  const outbox = createActionOutbox({ redis, queue });
  const lateRows = createLateRows({ outbox, actions, logger });
  const trail = createTrail({ actions, lateRows, logger });
  const rows = async () =>
    (await actions.list({ limit: 100 })).map(({ action, state, outcome }) => ({ action, state, outcome }));
  return { trail, lateRows, outbox, actions, entries, rows, prefix, waiting: () => outbox.read(0, 100) };
}

/** An act that notes whether it was carried out. */
function change() {
  const made = { count: 0 };
  return {
    made,
    async perform() {
      made.count += 1;
      return { result: made.count, state: 'done', outcome: { before: 'open' } } as const;
    },
  };
}

async function failureOf(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => undefined,
    (error: unknown) => error,
  );
}

describe('Trail.run', () => {
  it('has the row before the act, and the outcome when it returns', async () => {
    const { trail, actions } = await node();
    const result = await trail.run(ACT, async () => {
      const [row] = await actions.list({ limit: 1 });
      expect(row).to.deep.include({ ...ACT, state: 'started', outcome: undefined, endedAt: undefined });
      return { result: 42, state: 'refused', outcome: { because: 'in flight' } };
    });
    expect(result).to.equal(42);
    const [row] = await actions.list({ limit: 1 });
    expect(row).to.deep.include({ ...ACT, state: 'refused', outcome: { because: 'in flight' } });
    expect(row!.endedAt!.getTime()).to.be.at.least(row!.at.getTime());
  });

  it('changes nothing while PostgreSQL is down', async () => {
    const { trail, waiting } = await node({ databaseUrl: NOWHERE });
    const { made, perform } = change();
    expect(await failureOf(trail.run(ACT, perform))).to.be.instanceOf(LedgerUnavailableError);
    expect(made.count).to.equal(0);
    expect(await waiting()).to.deep.equal([]);
  });

  it('changes nothing while PostgreSQL hangs, and says so before a client gives up', async () => {
    const databaseUrl = await freshDatabase();
    const { trail } = await node({ databaseUrl });
    await holdTable(databaseUrl, 'operator_actions');
    const { made, perform } = change();
    const startedAt = performance.now();
    expect(await failureOf(trail.run(ACT, perform))).to.be.instanceOf(LedgerUnavailableError);
    expect(performance.now() - startedAt).to.be.below(3_000);
    expect(made.count).to.equal(0);
  });

  it('needs no Redis', async () => {
    const { trail, rows } = await node({ redisUrl: 'redis://127.0.0.1:1' });
    await trail.run(ACT, change().perform);
    expect(await rows()).to.deep.equal([{ action: ACT.action, state: 'done', outcome: { before: 'open' } }]);
  });

  it('has an act that met an error as failed, and passes the error on', async () => {
    const { trail, rows } = await node();
    const error = new QueueUnavailableError('no Redis');
    expect(await failureOf(trail.run(ACT, () => Promise.reject(error)))).to.equal(error);
    const [row] = await rows();
    expect(row!.state).to.equal('failed');
    expect(row!.outcome).to.include({ error: 'queue_unavailable' });
  });

  it('keeps the outcome in Redis when PostgreSQL ends in the middle of the act', async () => {
    const databaseUrl = await freshDatabase();
    const { trail, rows, waiting, lateRows } = await node({ databaseUrl });
    let release = async () => {};
    const result = await trail.run(ACT, async () => {
      release = await holdTable(databaseUrl, 'operator_actions');
      return change().perform();
    });
    expect(result).to.equal(1);
    expect(await waiting()).to.have.length(1);
    await release();
    await lateRows.move();
    expect(await rows()).to.deep.equal([{ action: ACT.action, state: 'done', outcome: { before: 'open' } }]);
    expect(await waiting()).to.deep.equal([]);
  });

  it('has written the outcome of an act that has ended when the trail is closed', async () => {
    const databaseUrl = await freshDatabase();
    const { trail, waiting } = await node({ databaseUrl });
    const acted = Promise.withResolvers<void>();
    const run = trail.run(ACT, async () => {
      await holdTable(databaseUrl, 'operator_actions');
      setImmediate(acted.resolve);
      return change().perform();
    });
    await acted.promise;
    await trail.close();
    expect(await waiting()).to.have.length(1);
    await run;
  });

  it('logs an outcome that neither store takes, and returns what was done', async () => {
    const databaseUrl = await freshDatabase();
    const { trail, entries } = await node({ databaseUrl, redisUrl: 'redis://127.0.0.1:1' });
    const result = await trail.run(ACT, async () => {
      await holdTable(databaseUrl, 'operator_actions');
      return change().perform();
    });
    expect(result).to.equal(1);
    expect(entries.filter(({ level }) => level === 'error')).to.have.length(1);
    expect(entries[0]).to.deep.include({ ...ACT, state: 'done', outcome: { before: 'open' } });
  });
});

describe('Trail.runAtOnce', () => {
  it('has its row in PostgreSQL when it returns', async () => {
    const { trail, rows, waiting } = await node();
    expect(await trail.runAtOnce(ACT, change().perform)).to.equal(1);
    expect(await rows()).to.deep.equal([{ action: ACT.action, state: 'done', outcome: { before: 'open' } }]);
    expect(await waiting()).to.deep.equal([]);
  });

  it('has its row in Redis before the act', async () => {
    const { trail, waiting } = await node();
    await trail.runAtOnce(ACT, async () => {
      const [text, ...others] = await waiting();
      expect(others).to.deep.equal([]);
      expect(JSON.parse(text!)).to.include({ who: 'anna', action: 'gateway.stop', state: 'started' });
      return { result: undefined, state: 'done' };
    });
  });

  it('acts while PostgreSQL is down, and another node writes the rows in order when it is back', async () => {
    const { trail, prefix, waiting } = await node({ databaseUrl: NOWHERE });
    for (const number of [1, 2, 3]) {
      await trail.runAtOnce({ ...ACT, action: `gateway.${number}` }, change().perform);
    }
    const error = await failureOf(trail.runAtOnce(ACT, () => Promise.reject(new Error('no'))));
    expect(error).to.be.an('error');
    expect(await waiting()).to.have.length(8);
    const other = await node({ prefix });
    await other.lateRows.move();
    expect(await waiting()).to.deep.equal([]);
    const rows = await other.rows();
    expect(rows.map(({ action, state }) => `${action} ${state}`)).to.deep.equal([
      'gateway.stop failed',
      'gateway.3 done',
      'gateway.2 done',
      'gateway.1 done',
    ]);
  });

  it('acts within two seconds while PostgreSQL hangs', async () => {
    const databaseUrl = await freshDatabase();
    const { trail, waiting } = await node({ databaseUrl });
    await holdTable(databaseUrl, 'operator_actions');
    const startedAt = performance.now();
    expect(await trail.runAtOnce(ACT, change().perform)).to.equal(1);
    expect(performance.now() - startedAt).to.be.below(2_000);
    expect(await waiting()).to.have.length(2);
  });

  it('does nothing while Redis is down', async () => {
    const { trail, rows } = await node({ redisUrl: 'redis://127.0.0.1:1' });
    const { made, perform } = change();
    expect(await failureOf(trail.runAtOnce(ACT, perform))).to.be.instanceOf(QueueUnavailableError);
    expect(made.count).to.equal(0);
    expect(await rows()).to.deep.equal([]);
  });

  it('writes its outcome to PostgreSQL when Redis ends in the middle of the act', async () => {
    const server = await startRedis();
    atTestEnd(server.dispose);
    const { trail, rows } = await node({ redisUrl: server.url });
    await trail.runAtOnce(ACT, async () => {
      await server.stop();
      return change().perform();
    });
    expect(await rows()).to.deep.equal([{ action: ACT.action, state: 'done', outcome: { before: 'open' } }]);
  });

  it('leaves a row without an end when its process ends in the middle of the act', async () => {
    const { trail, prefix } = await node({ databaseUrl: NOWHERE });
    void trail.runAtOnce(ACT, () => new Promise<never>(() => {}));
    const other = await node({ prefix });
    await eventually(async () => (await other.waiting()).length === 1);
    await other.lateRows.move();
    expect(await other.rows()).to.deep.equal([{ action: ACT.action, state: 'started', outcome: undefined }]);
  });
});

describe('late rows', () => {
  /** A node whose Redis has the rows of this many acts, made while PostgreSQL was down. */
  async function withLateRows(count: number) {
    const away = await node({ databaseUrl: NOWHERE });
    for (let index = 0; index < count; index += 1) {
      await away.trail.runAtOnce({ ...ACT, target: { index } }, change().perform);
    }
    return away;
  }

  it('are each written once by several nodes at once', async () => {
    const databaseUrl = await freshDatabase();
    const { prefix, waiting } = await withLateRows(120);
    const nodes = [await node({ databaseUrl, prefix }), await node({ databaseUrl, prefix })];
    await Promise.all(nodes.map(({ lateRows }) => lateRows.move()));
    expect(await waiting()).to.deep.equal([]);
    const rows = await sql<{ state: string; index: string }>(
      databaseUrl,
      `SELECT state, target->>'index' AS index FROM operator_actions`,
    );
    expect(new Set(rows.map(({ index }) => index)).size).to.equal(120);
    expect(rows).to.have.length(120);
    expect(rows.every(({ state }) => state === 'done')).to.equal(true);
  });

  it('are still there when PostgreSQL is lost after some of them, and then are moved once', async () => {
    const databaseUrl = await freshDatabase();
    const proxy = await createTcpProxy(Number(new URL(databaseUrl).port));
    atTestEnd(() => proxy.close());
    const proxied = new URL(databaseUrl);
    proxied.port = String(proxy.port);
    const { prefix, waiting } = await withLateRows(200);
    const mover = await node({ databaseUrl: proxied.href, prefix });
    const moved = failureOf(mover.lateRows.move());
    await eventually(async () => (await waiting()).length < 100);
    await proxy.close();
    expect(await moved).to.be.instanceOf(LedgerUnavailableError);
    expect(await waiting()).to.not.be.empty;
    const other = await node({ databaseUrl, prefix });
    await other.lateRows.move();
    expect(await waiting()).to.deep.equal([]);
    const rows = await sql<{ state: string; count: string }>(
      databaseUrl,
      'SELECT state, count(*) FROM operator_actions GROUP BY state',
    );
    expect(rows).to.deep.equal([{ state: 'done', count: '200' }]);
  });

  it('do not wait for one that PostgreSQL never takes, which stays and is logged', async () => {
    const { prefix, outbox } = await withLateRows(1);
    const unreadable = ['{', '{"key":"no uuid","at":"2026-01-01","target":{}}'];
    for (const text of unreadable) await outbox.add(text, new Date(0));
    const { lateRows, rows, waiting, entries } = await node({ prefix });
    await lateRows.move();
    expect((await rows()).map(({ state }) => state)).to.deep.equal(['done']);
    expect(await waiting()).to.have.members(unreadable);
    expect(entries.filter(({ level, code }) => level === 'error' && code === 'row_refused')).to.have.length(1);
  });

  it('wait outside of the keys of the queue', async () => {
    const { prefix } = await withLateRows(1);
    const redis = await testRedis();
    expect(await redis.keys(`${prefix}:*`)).to.deep.equal([outboxKey({ name: 'payments', prefix })]);
    expect(outboxKey({ name: 'payments', prefix })).to.not.include('payments');
  });
});
