import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import type { ManagedServer } from '../../dev/local/processes.ts';
import { atTestEnd as afterTest } from '../support/cleanup.ts';
import { exchange, http } from '../support/http-client.ts';
import { lookInto } from '../support/queue.ts';
import { aPayment, eventually, testApi } from '../support/relay.ts';
import { freshDatabase, sql, startTestPostgres } from '../support/services.ts';

const STUB = {
  default: { totalRequests: 0, totalAmount: 0 },
  fallback: { totalRequests: 0, totalAmount: 0 },
};

/** An API over a PostgreSQL of the test's own whose ledger has one payment. */
async function apiOver(postgres: ManagedServer) {
  const databaseUrl = await freshDatabase(postgres);
  await sql(
    databaseUrl,
    `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
     VALUES (gen_random_uuid(), 'default', 1990, '2025-07-15T12:00:00Z')`,
  );
  return { databaseUrl, start: () => startApi(databaseUrl) };
}

async function startApi(databaseUrl: string) {
  const { url, prefix, entries } = await testApi({ DATABASE_URL: databaseUrl });
  const summary = async () => {
    const { status, headers, text, elapsedMs } = await exchange(
      `${url}/payments-summary?from=2025-01-01&to=2026-01-01`,
      { method: 'GET' },
    );
    return { status, source: headers['x-summary-source'], body: JSON.parse(text), elapsedMs };
  };
  const ready = () => http(url).get('/health/ready');
  return {
    url,
    entries,
    summary,
    ready,
    queue: await lookInto(prefix),
    /** Resolves once the ledger responds and the whole node is ready. */
    serves: async () => {
      const { body } = await eventually(async () => {
        const response = await summary();
        return response.source === 'ledger' && response;
      });
      expect(body.default).to.deep.equal({ totalRequests: 1, totalAmount: 19.9 });
      await eventually(async () => (await ready()).body.checks.postgres === true);
    },
  };
}

type Node = Awaited<ReturnType<typeof startApi>>;

/** Checks what must be true while PostgreSQL does not respond, for any reason. */
async function expectOutage({ url, entries, summary, ready, queue }: Node, limitMs: number): Promise<void> {
  const payment = aPayment();
  const [{ elapsedMs, ...stub }, { body }] = await Promise.all([
    summary(),
    ready().expect(200),
    http(url).post('/payments').send(payment).expect(204),
    http(url).get('/health').expect(200),
  ]);
  expect(stub).to.deep.equal({ status: 200, source: 'stub', body: STUB });
  expect(elapsedMs).to.be.below(limitMs);
  // An outage of the ledger must not become one of accepting.
  expect(body).to.deep.equal({ status: 'ok', checks: { redis: true, postgres: false, accepting: true } });
  expect(await queue.isStored(payment.correlationId)).to.equal(true);
  expect(entries.filter(({ level, code }) => level === 'warn' && code === 'ledger_unavailable')).to.have.length(1);
  expect(entries.filter(({ level }) => level === 'error')).to.deep.equal([]);
}

/**
 * Hangs all of PostgreSQL: the server that accepts connections, and those that serve them.
 * @returns what lets it go on.
 */
async function hang(postgres: ManagedServer): Promise<() => void> {
  const backends = await sql<{ pid: number }>(
    postgres.url,
    `SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`,
  );
  const pids = [postgres.pid, ...backends.map(({ pid }) => pid)];
  const goOn = () => {
    for (const pid of pids.splice(0)) process.kill(pid, 'SIGCONT');
  };
  afterTest(goOn);
  for (const pid of pids) process.kill(pid, 'SIGSTOP');
  return goOn;
}

describe('the API without PostgreSQL', () => {
  /** One for all tests here: each gives it back running. */
  let postgres: ManagedServer;
  before(async () => {
    postgres = await startTestPostgres();
  });
  after(() => postgres.dispose());
  const stop = async () => {
    await postgres.stop();
    // Does nothing but fail after a test that has come to its end.
    afterTest(() => postgres.start().catch(() => undefined));
  };

  it('serves marked zeros and accepts payments while PostgreSQL is stopped, and serves by itself once it is back', async () => {
    const node = await (await apiOver(postgres)).start();
    await node.serves();
    await stop();
    await expectOutage(node, 1_000);
    await postgres.start();
    await node.serves();
  });

  it('starts without it, and serves by itself once it comes', async () => {
    const { start } = await apiOver(postgres);
    await stop();
    const node = await start();
    await expectOutage(node, 1_000);
    await postgres.start();
    await node.serves();
  });

  it('responds within three seconds while PostgreSQL hangs, and serves by itself once it goes on', async () => {
    const node = await (await apiOver(postgres)).start();
    await node.serves();
    const goOn = await hang(postgres);
    await expectOutage(node, 3_000);
    goOn();
    await node.serves();
  });

  it('serves marked zeros when the address is wrong', async () => {
    const node = await startApi(`postgres://nobody@127.0.0.1:${await freePort()}/none`);
    await expectOutage(node, 1_000);
  });

  it('serves on after all its connections were cut', async () => {
    const { databaseUrl, start } = await apiOver(postgres);
    const node = await start();
    await node.serves();
    await sql(
      databaseUrl,
      'SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()',
    );
    await node.serves();
    expect(node.entries.filter(({ level }) => level === 'error')).to.deep.equal([]);
  });
});
