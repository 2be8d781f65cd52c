import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { createTcpProxy } from '../../dev/tcp-proxy.ts';
import { createArchive } from '../../src/ledger/archive.ts';
import { createDb } from '../../src/ledger/db.ts';
import { MAX_AMOUNT_CENTS } from '../../src/payment.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange, http } from '../support/http-client.ts';
import { NO_DATABASE } from '../support/queue.ts';
import { eventually, testApi } from '../support/relay.ts';
import { freshDatabase, holdTable, sql } from '../support/services.ts';

type Row = readonly [gateway: 'default' | 'fallback', cents: number, requestedAt: string];

const NOON = '2025-07-15T12:00:00.000Z';
const NOTHING = { totalRequests: 0, totalAmount: 0 };

/** An API whose ledger has these payments. */
async function apiWith(rows: readonly Row[], env = {}) {
  const { url, config, entries } = await testApi(env);
  const databaseUrl = config.database.url;
  if (rows.length > 0) {
    await sql(
      databaseUrl,
      `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
       SELECT * FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::timestamptz[])`,
      [rows.map(() => randomUUID()), ...[0, 1, 2].map((column) => rows.map((row) => row[column]))],
    );
  }
  return {
    databaseUrl,
    entries,
    get: (query: string | Record<string, string>) => http(url).get('/payments-summary').query(query),
    /** The query string exactly as it is. */
    getAsItIs: async (query: string) => {
      const { status, text } = await exchange(`${url}/payments-summary?${query}`, { method: 'GET' });
      return { status, body: JSON.parse(text) };
    },
  };
}

const at = (requestedAt: string): Row => ['default', 100, requestedAt];

describe('GET /payments-summary', () => {
  it('includes archived payments, and says so when it begins in archived time', async () => {
    const [old, older, newer] = ['2025-07-15T12:00:00.250Z', '2025-07-15T11:00:00.000Z', '2025-07-15T13:00:00.000Z'];
    const { databaseUrl, get } = await apiWith([at(older), at(old), at(newer)]);
    const db = createDb({ url: databaseUrl, poolSize: 1, ssl: false });
    atTestEnd(() => db.destroy());
    await sql(databaseUrl, 'UPDATE payments SET recorded_at = requested_at');
    await createArchive(db).moveBatch({ from: undefined, before: new Date('2025-07-15T12:30:00Z') });
    const summaryOf = async (from: string, to: string) => {
      const { body, headers } = await get({ from, to }).expect(200);
      return { count: body.default.totalRequests, archivedUntil: headers['x-summary-archived-until'] };
    };
    expect(await summaryOf(older, newer)).to.deep.equal({ count: 3, archivedUntil: old });
    expect(await summaryOf(old, old)).to.deep.equal({ count: 1, archivedUntil: old });
    expect(await summaryOf('2025-07-15T10:00:00Z', '2025-07-15T10:30:00Z')).to.deep.equal({
      count: 0,
      archivedUntil: old,
    });
    expect(await summaryOf('2025-07-15T12:00:00.251Z', newer)).to.deep.equal({ count: 1, archivedUntil: undefined });
  });

  it('responds with 200 with zeros from an empty ledger', async () => {
    const { get } = await apiWith([]);
    const { body, headers } = await get({ from: '2020-01-01', to: '2030-01-01' }).expect(200);
    expect(body).to.deep.equal({ default: NOTHING, fallback: NOTHING });
    expect(headers['x-summary-source']).to.equal('ledger');
    expect(headers['content-type']).to.equal('application/json; charset=utf-8');
  });

  it('counts and adds up each gateway by itself', async () => {
    const { get } = await apiWith([
      ['default', 1990, NOON],
      ['default', 10, NOON],
      ['fallback', 501, NOON],
    ]);
    const { body, text } = await get({ from: '2025-07-15', to: '2025-07-16' }).expect(200);
    expect(body).to.deep.equal({
      default: { totalRequests: 2, totalAmount: 20 },
      fallback: { totalRequests: 1, totalAmount: 5.01 },
    });
    // The order the challenge shows them in.
    expect(Object.keys(JSON.parse(text))).to.deep.equal(['default', 'fallback']);
  });

  it('is exact to the cent', async () => {
    const cases: [name: string, cents: number[], printed: string][] = [
      ['0.1 three times', [10, 10, 10], '0.3'],
      ['0.1 and 0.2', [10, 20], '0.3'],
      ['19.90 a thousand times', Array(1000).fill(1990), '19900'],
      ['0.01 three thousand times', Array(3000).fill(1), '30'],
      ['1.1, 2.2 and 3.3', [110, 220, 330], '6.6'],
      ['4.35 a hundred times', Array(100).fill(435), '435'],
      ['1.15 and 1.25', [115, 125], '2.4'],
      ['the largest amount', [MAX_AMOUNT_CENTS], '45035996273704.96'],
      ['the largest odd sum below it', [MAX_AMOUNT_CENTS - 2, 1], '45035996273704.95'],
      ['a billion and a cent', [100_000_000_000, 1], '1000000000.01'],
    ];
    const noonOf = (day: number) => `2025-07-${String(day + 1).padStart(2, '0')}T12:00:00.000Z`;
    const { get } = await apiWith(
      cases.flatMap(([, cents], day) => cents.map((amount): Row => ['default', amount, noonOf(day)])),
    );
    for (const [day, [name, , printed]] of cases.entries()) {
      const { text } = await get({ from: noonOf(day), to: noonOf(day) }).expect(200);
      expect(/"totalAmount":([^}]*)}/.exec(text)![1], name).to.equal(printed);
    }
  });

  it('includes nothing outside bounds in microseconds', async () => {
    const { get } = await apiWith([at('2025-07-15T12:00:00.000Z'), at('2025-07-15T12:00:00.001Z')]);
    const count = async (from: string, to: string) =>
      (await get({ from, to }).expect(200)).body.default.totalRequests as number;
    expect(await count('2025-07-15T12:00:00.000001Z', '2025-07-15T12:00:00.001Z')).to.equal(1);
    expect(await count('2025-07-15T12:00:00.000000Z', '2025-07-15T12:00:00.000999Z')).to.equal(1);
    expect(await count('2025-07-15T12:00:00.000001Z', '2025-07-15T12:00:00.000999Z')).to.equal(0);
    expect(await count('9999-12-31T23:59:59.999999Z', '9999-12-31T23:59:59.999999Z')).to.equal(0);
  });

  it('includes both ends and not a millisecond more', async () => {
    const { get } = await apiWith([
      at('2025-07-15T11:59:59.999Z'),
      at('2025-07-15T12:00:00.000Z'),
      at('2025-07-15T12:00:01.000Z'),
      at('2025-07-15T12:00:01.001Z'),
    ]);
    const count = async (from: string, to: string) =>
      (await get({ from, to }).expect(200)).body.default.totalRequests as number;
    expect(await count('2025-07-15T12:00:00.000Z', '2025-07-15T12:00:01.000Z')).to.equal(2);
    expect(await count('2025-07-15T12:00:00.001Z', '2025-07-15T12:00:01.000Z')).to.equal(1);
    expect(await count('2025-07-15T12:00:00.000Z', '2025-07-15T12:00:00.999Z')).to.equal(1);
    expect(await count('2025-07-15T12:00:00.000Z', '2025-07-15T12:00:00.000Z')).to.equal(1);
    expect(await count('2025-07-15T11:59:59.999Z', '2025-07-15T12:00:01.001Z')).to.equal(4);
  });

  it('reads ISO 8601 in all its spellings', async () => {
    const { get } = await apiWith([at('2025-07-15T11:59:59.999Z'), at(NOON)]);
    for (const [name, from] of [
      ['milliseconds and Z', '2025-07-15T12:00:00.000Z'],
      ['no milliseconds', '2025-07-15T12:00:00Z'],
      ['no seconds', '2025-07-15T12:00Z'],
      ['no offset, which means UTC', '2025-07-15T12:00:00'],
      ['microseconds', '2025-07-15T11:59:59.999001Z'],
      ['a comma before the fraction', '2025-07-15T12:00:00,0Z'],
      ['an offset east', '2025-07-15T14:00:00+02:00'],
      ['an offset west', '2025-07-15T09:00:00-03:00'],
      ['an offset without colon', '2025-07-15T14:00:00+0200'],
      ['an offset in hours', '2025-07-15T14:00:00+02'],
      ['small letters', '2025-07-15t12:00:00z'],
    ] as const) {
      const { body } = await get({ from, to: '2025-07-16' }).expect(200);
      expect(body.default.totalRequests, name).to.equal(1);
    }
  });

  it('takes a date for its 00:00, as either end', async () => {
    const { get } = await apiWith([
      at('2025-07-14T23:59:59.999Z'),
      at('2025-07-15T00:00:00.000Z'),
      at('2025-07-15T00:00:00.001Z'),
    ]);
    expect((await get({ from: '2025-07-15', to: '2025-07-16' })).body.default.totalRequests).to.equal(2);
    expect((await get({ from: '2025-07-14', to: '2025-07-15' })).body.default.totalRequests).to.equal(2);
  });

  it('reads the plus of an offset that was not encoded', async () => {
    const { getAsItIs } = await apiWith([at(NOON)]);
    const { status, body } = await getAsItIs('from=2025-07-15T14:00:00+02:00&to=2025-07-15T14:00:00+02:00');
    expect(status).to.equal(200);
    expect(body.default.totalRequests).to.equal(1);
  });

  const required = (param: string) => ({ param, message: 'is required' });
  const notIso = (param: string) => ({ param, message: 'must be an ISO 8601 date or date-time' });
  for (const [name, query, errors] of [
    ['both bounds missing', '', [required('from'), required('to')]],
    ['from missing', 'to=2025-01-01', [required('from')]],
    ['to missing', 'from=2025-01-01', [required('to')]],
    ['both bounds empty', 'from=&to=', [required('from'), required('to')]],
    ['one bound missing and the other wrong', 'to=yesterday', [required('from'), notIso('to')]],
    ['both bounds wrong', 'from=x&to=y', [notIso('from'), notIso('to')]],
    ['a bound given twice', 'from=2025-01-01&from=2025-01-02&to=2025-01-03', [notIso('from')]],
    ['a timestamp in ms', 'from=1752580800000&to=2026-01-01', [notIso('from')]],
    ['an American date', 'from=07/15/2025&to=2026-01-01', [notIso('from')]],
    ['a day no calendar has', 'from=2025-02-29&to=2026-01-01', [notIso('from')]],
    ['a month no calendar has', 'from=2025-13-01&to=2026-01-01', [notIso('from')]],
    ['an hour no day has', 'from=2025-01-01T25:00&to=2026-01-01', [notIso('from')]],
    ['an offset no place has', 'from=2025-01-01T00:00%2B99:00&to=2026-01-01', [notIso('from')]],
    ['words behind the date', 'from=2025-01-01%20or%201=1&to=2026-01-01', [notIso('from')]],
    ['a malformed escape', 'from=%zz&to=2026-01-01', [notIso('from')]],
    ['from after to', 'from=2025-01-02&to=2025-01-01', [{ param: 'from', message: 'must not be after to' }]],
    [
      'from a millisecond after to',
      'from=2025-01-01T00:00:00.001Z&to=2025-01-01',
      [{ param: 'from', message: 'must not be after to' }],
    ],
  ] as const) {
    it(`responds with 400 invalid_request to ${name}, naming every fault`, async () => {
      const { getAsItIs, entries } = await apiWith([], NO_DATABASE);
      expect(await getAsItIs(query)).to.deep.equal({ status: 400, body: { error: 'invalid_request', errors } });
      expect(entries.filter(({ level }) => level !== 'info')).to.deep.equal([]);
    });
  }

  for (const [name, query] of [
    ['the year 0', 'from=0000-01-01&to=2100-01-01'],
    ['an offset that leads before the year 1', 'from=0001-01-01T00:00:00%2B14:00&to=2100-01-01'],
    ['an offset that leads past the year 9999', 'from=2025-01-01&to=9999-12-31T23:59:59-14:00'],
  ] as const) {
    it(`does not stumble over ${name}`, async () => {
      const { getAsItIs, entries } = await apiWith([at(NOON)]);
      expect((await getAsItIs(query)).status).to.be.oneOf([200, 400]);
      expect(entries.filter(({ level }) => level === 'error')).to.deep.equal([]);
    });
  }

  it('takes the last millisecond of the year 9999 for the end of time', async () => {
    const { getAsItIs } = await apiWith([at(NOON), at('9999-12-31T23:59:59.999Z')]);
    const { status, body } = await getAsItIs('from=0001-01-01T00:00:00.000Z&to=9999-12-31T23:59:59.999Z');
    expect(status).to.equal(200);
    expect(body.default.totalRequests).to.equal(2);
  });

  it('responds with 500 internal_error without details when its own statement is at fault', async () => {
    const { get, databaseUrl, entries } = await apiWith([]);
    await sql(databaseUrl, 'ALTER TABLE payments RENAME COLUMN amount_cents TO pennies');
    const { body } = await get({ from: '2025-01-01', to: '2025-01-02' }).expect(500);
    expect(body).to.deep.equal({ error: 'internal_error' });
    const errors = entries.filter(({ level }) => level === 'error');
    expect(errors).to.have.length(1);
    expect(errors[0]!['cause']).to.match(/amount_cents/);
  });

  it('serves the stub while the ledger is not migrated yet, and the ledger from then on', async () => {
    const { get, databaseUrl, entries } = await apiWith([at(NOON)]);
    await sql(databaseUrl, 'ALTER TABLE payments RENAME TO elsewhere');
    const stub = await get({ from: NOON, to: NOON }).expect(200);
    expect(stub.headers['x-summary-source']).to.equal('stub');
    expect(stub.body).to.deep.equal({ default: NOTHING, fallback: NOTHING });
    expect(entries.filter(({ level }) => level === 'warn')).to.have.length(1);
    await sql(databaseUrl, 'ALTER TABLE elsewhere RENAME TO payments');
    const real = await get({ from: NOON, to: NOON }).expect(200);
    expect(real.headers['x-summary-source']).to.equal('ledger');
    expect(real.body.default.totalRequests).to.equal(1);
  });
});

describe('GET /payments-summary with SUMMARY_RANGE=optional', () => {
  it('takes a missing bound for an open end', async () => {
    const { getAsItIs } = await apiWith(
      ['2025-07-14T12:00:00Z', '2025-07-15T12:00:00Z', '2025-07-16T12:00:00Z'].map(at),
      { SUMMARY_RANGE: 'optional' },
    );
    for (const [name, query, count] of [
      ['no bound', '', 3],
      ['empty bounds', 'from=&to=', 3],
      ['only from', 'from=2025-07-15T12:00:00Z', 2],
      ['only to', 'to=2025-07-15T12:00:00Z', 2],
      ['both', 'from=2025-07-15T12:00:00Z&to=2025-07-15T12:00:00Z', 1],
    ] as const) {
      const { status, body } = await getAsItIs(query);
      expect(status, name).to.equal(200);
      expect(body.default, name).to.deep.equal({ totalRequests: count, totalAmount: count });
    }
  });

  it('still responds with 400 to a bound that is wrong', async () => {
    const { getAsItIs } = await apiWith([], { SUMMARY_RANGE: 'optional', ...NO_DATABASE });
    expect(await getAsItIs('from=x')).to.deep.include({ status: 400 });
    expect(await getAsItIs('from=2025-01-02&to=2025-01-01')).to.deep.include({ status: 400 });
  });
});

describe('GET /payments-summary, many at once', () => {
  const ENTIRE = 'from=2025-01-01&to=2026-01-01';

  /** Asks so many times at once; `kinds` says how often each kind of response has come so far. */
  function asking(url: string, times: number) {
    const kinds: Record<string, number> = {};
    const all = Array.from({ length: times }, async () => {
      const { status, headers, text } = await exchange(`${url}/payments-summary?${ENTIRE}`, { method: 'GET' });
      const kind = String(headers['x-summary-source'] ?? `${status} ${text} ${headers['retry-after']}`);
      kinds[kind] = (kinds[kind] ?? 0) + 1;
    });
    return { kinds, done: Promise.all(all) };
  }

  async function ask(url: string, times: number): Promise<Record<string, number>> {
    const { kinds, done } = asking(url, times);
    await done;
    return kinds;
  }

  /** Resolves when so many statements wait for the table. */
  const areWaiting = (databaseUrl: string, statements: number) =>
    eventually(async () => {
      const [row] = await sql<{ count: string }>(
        databaseUrl,
        `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`,
      );
      return Number(row!.count) === statements;
    });

  /** An API whose way to PostgreSQL can be made slow. */
  async function apiThroughProxy() {
    const databaseUrl = new URL(await freshDatabase());
    const proxy = await createTcpProxy(Number(databaseUrl.port));
    atTestEnd(() => proxy.close());
    databaseUrl.port = String(proxy.port);
    const { url } = await testApi({ DATABASE_URL: databaseUrl.href, DB_POOL_SIZE: '3' });
    return { url, proxy };
  }

  it('waits for its own connections, however long that takes, and serves all from the ledger', async () => {
    const { url, proxy } = await apiThroughProxy();
    expect(await ask(url, 1)).to.deep.equal({ ledger: 1 });
    await proxy.set({ kind: 'delay', ms: 100 });
    expect(await ask(url, 45)).to.deep.equal({ ledger: 45 });
  });

  it('responds with 503 busy with Retry-After above 64, and the 64 from the ledger', async () => {
    const { url, config } = await testApi();
    const release = await holdTable(config.database.url);
    const { kinds, done } = asking(url, 70);
    const busy = '503 {"error":"busy"} 1';
    await eventually(() => kinds[busy] === 6);
    await release();
    await done;
    expect(kinds).to.deep.equal({ [busy]: 6, ledger: 64 });
  });

  it('serves the stub to all waiting requests, together with the first, when the ledger does not respond', async () => {
    const { url, config } = await testApi();
    const release = await holdTable(config.database.url);
    const startedAt = performance.now();
    expect(await ask(url, 40)).to.deep.equal({ stub: 40 });
    expect(performance.now() - startedAt).to.be.below(3_500);
    await release();
    expect(await ask(url, 1)).to.deep.equal({ ledger: 1 });
  });

  it('leaves a connection to the readiness probe', async () => {
    const { url, config } = await testApi();
    const release = await holdTable(config.database.url);
    const asked = ask(url, 20);
    await areWaiting(config.database.url, 4);
    await http(url).get('/health/ready').expect(200);
    await release();
    expect(await asked).to.deep.equal({ ledger: 20 });
  });
});
