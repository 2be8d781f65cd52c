import { randomUUID } from 'node:crypto';
import { cpuMicros } from '../../dev/local/cpu.ts';
import { startPostgres } from '../../dev/local/postgres.ts';
import { migrate } from '../../dev/stack.ts';
import { loadConfig } from '../../src/config.ts';
import { createArchive } from '../../src/ledger/archive.ts';
import { createDb, query } from '../../src/ledger/db.ts';
import { createDeadLetters } from '../../src/ledger/dead-letters.ts';
import { createLedger, type PaidPayment } from '../../src/ledger/ledger.ts';
import { sql } from '../support/services.ts';
import { median, type Result } from './measure.ts';
import { CONCURRENCY, note, ROUNDS } from './stage.ts';

const LEDGER_ROWS = Number(process.env['BENCH_LEDGER_ROWS'] ?? 10_000_000);
const SMALL_ROWS = 100_000;
const COUNT = LEDGER_ROWS.toLocaleString('en');

/** Of one round. Enough for the ticks of 10 ms in which CPU is counted. */
const RECORDED = 20_000;
const LOOK_UPS = 2_000;
const IDS = 20;

/** Payments before this instant were made at 300 a second, the rate of the challenge. */
const END = Date.parse('2026-06-01T00:00:00Z');
const PER_SECOND = 300;

/**
 * What grows with the table. A summary may take 1.5 times as long with 10,000,000 rows as with 100,000; records and look-ups
 * get the same. An empty table is there for comparison only: its one page of index is always in the cache of the core.
 */
const COMPARED = [
  {
    key: 'recorded',
    what: `payments recorded a second by one connection, ${CONCURRENCY} at a time`,
    shown,
    limit: { budget: 0.67, atLeast: true },
  },
  {
    key: 'record',
    what: 'PostgreSQL CPU of a record',
    shown: (micros: number) => `${micros.toFixed(1)} µs`,
    limit: { budget: 1.5 },
  },
  {
    key: 'look-up',
    what: `PostgreSQL CPU of a look-up of ${IDS} ids before a send`,
    shown: (micros: number) => `${micros.toFixed(0)} µs`,
    limit: { budget: 1.5 },
  },
];

/** An id, a gateway, an amount and two times. */
const DATA_BYTES = 48;

/** A record and a look-up touch a random page of the index of ids. When it does not fit in memory, each of them reads a disk. */
const SHARED_BUFFERS_MB = 1_024;

/**
 * PostgreSQL vacuums a table after it has grown by a fifth (autovacuum_vacuum_insert_scale_factor). One queue records at most
 * 18,900 a second. A vacuum that takes longer than that growth never ends.
 */
const VACUUM_EVERY = 0.2;
const MOST_PER_SECOND = 18_900;

/** The part of the payments that is archived before the vacuum. Below 2 % a vacuum leaves the indexes as they are. */
const ARCHIVED = 0.05;

const WINDOWS: readonly (readonly [label: string, ms: number | undefined])[] = [
  ['10 s', 10_000],
  ['1 h', 3_600_000],
  ['all', undefined],
];

type Table = Awaited<ReturnType<typeof openTable>>;
type Times = Map<string, number[]>;

/**
 * What a ledger of ten million payments costs: summaries, records and look-ups beside a small one, its size, the archive and a
 * vacuum.
 */
export async function ledger(): Promise<Result[]> {
  // Without autovacuum, which would come by chance. Each table is vacuumed once it is full.
  const postgres = await startPostgres({ settings: { shared_buffers: `${SHARED_BUFFERS_MB}MB`, autovacuum: 'off' } });
  const tables: Table[] = [];
  const open = async (name: string, rows: number) => {
    const table = await openTable(postgres.url, name, rows);
    tables.push(table);
    return table;
  };
  try {
    const [empty, small, big] = [
      await open('empty', 0),
      await open('small', SMALL_ROWS),
      await open('big', LEDGER_ROWS),
    ];
    const summaries = await compareSummaries(small, big);
    const size = await measureSize(big);
    const records = await compareRecords([empty, small, big]);
    return [...summaries, ...records, ...size, ...(await measureArchive(big))];
  } finally {
    for (const { db } of tables) await db.destroy();
    await postgres.dispose();
  }
}

/** A ledger of its own with so many payments, and one connection to it. */
async function openTable(server: string, name: string, rows: number) {
  await sql(server, `CREATE DATABASE ${name}`);
  const url = server.replace(/postgres$/, name);
  await migrate(url);
  // By plain inserts: an index that is built afterwards is packed tighter than one that has grown.
  const step = 500_000;
  for (let start = 0; start < rows; start += step) {
    await sql(
      url,
      `INSERT INTO payments
       SELECT gen_random_uuid(), CASE WHEN n % 5 = 0 THEN 'fallback' ELSE 'default' END, 1 + n % 100000, at, at
       FROM generate_series($1::bigint, $2::bigint) AS n,
         LATERAL (SELECT to_timestamp($3::double precision + n / $4::double precision) AS at) AS time`,
      [start, Math.min(rows, start + step) - 1, END / 1000 - rows / PER_SECOND, PER_SECOND],
    );
  }
  await sql(url, 'VACUUM ANALYZE');
  const db = createDb({ ...loadConfig({ DATABASE_URL: url }).database, poolSize: 1 });
  return { name, rows, url, db, ledger: createLedger(db) };
}

async function compareSummaries(small: Table, big: Table): Promise<Result[]> {
  const times: Times = new Map();
  for (let round = 0; round <= 10 * ROUNDS; round += 1) {
    for (const { name, ledger } of [small, big]) {
      for (const [label, ms] of WINDOWS) {
        // Another millisecond every time, so that the ends of the range differ.
        const to = new Date(END - 1_234 - round * 1_017);
        const startedAt = performance.now();
        await ledger.summarise(ms === undefined ? {} : { from: new Date(to.getTime() - ms), to });
        if (round > 0) note(times, `${name} ${label}`, performance.now() - startedAt);
      }
    }
  }
  const of = (key: string) => median(times.get(key)!);
  const slowest = Math.max(...WINDOWS.map(([label]) => of(`big ${label}`)));
  return [
    ...WINDOWS.map(([label]) => ({
      what: `summary of ${label} over ${COUNT} payments, beside 100,000`,
      ours: `${of(`big ${label}`).toFixed(2)} ms`,
      baseline: `${of(`small ${label}`).toFixed(2)} ms`,
      ratio: of(`big ${label}`) / of(`small ${label}`),
      budget: label === '1 h' ? 1.5 : undefined,
    })),
    {
      what: `summary over ${COUNT} payments, the slowest of the windows, beside 20 ms`,
      ours: `${slowest.toFixed(2)} ms`,
      baseline: '20 ms',
      ratio: slowest / 20,
      budget: 1,
    },
  ];
}

/** Records in batches of a worker's payments, and the look-up before a send, by turns in each table. */
async function compareRecords(tables: readonly Table[]): Promise<Result[]> {
  const times: Times = new Map();
  for (let round = 0; round <= ROUNDS; round += 1) {
    for (const table of round % 2 === 0 ? tables : tables.toReversed()) {
      // The first change of a page after a checkpoint writes the whole page to the log. So each round begins with one.
      await sql(table.url, 'CHECKPOINT');
      const recorded = await timed(table, () => record(table));
      const lookedUp = await timed(table, () => lookUp(table));
      await sql(table.url, 'DELETE FROM payments WHERE requested_at >= $1', [new Date(END)]);
      await sql(table.url, 'VACUUM payments');
      if (round === 0) continue;
      note(times, `${table.name} recorded`, (RECORDED / recorded.ms) * 1000);
      note(times, `${table.name} record`, recorded.cpuMicros / RECORDED);
      note(times, `${table.name} look-up`, lookedUp.cpuMicros / LOOK_UPS);
    }
  }
  const beside = (baseline: Table, { key, what, shown, limit }: (typeof COMPARED)[number]): Result => {
    const [ours, theirs] = [median(times.get(`big ${key}`)!), median(times.get(`${baseline.name} ${key}`)!)];
    return {
      what: `${what}, with ${COUNT} payments beside ${baseline.rows.toLocaleString('en')}`,
      ours: shown(ours),
      baseline: shown(theirs),
      ratio: ours / theirs,
      ...(baseline.rows > 0 ? limit : { budget: undefined }),
    };
  };
  const [empty, small] = tables as [Table, Table];
  return [small, empty].flatMap((baseline) => COMPARED.map((each) => beside(baseline, each)));
}

async function timed({ db }: Table, work: () => Promise<void>): Promise<{ ms: number; cpuMicros: number }> {
  // The pool drops a connection that was idle for a minute.
  const [backend] = await query<{ pid: number }>(db, 'SELECT pg_backend_pid() AS pid');
  const [cpuBefore, startedAt] = [cpuMicros(backend!.pid), performance.now()];
  await work();
  return { ms: performance.now() - startedAt, cpuMicros: cpuMicros(backend!.pid) - cpuBefore };
}

async function record({ ledger }: Table): Promise<void> {
  for (let done = 0; done < RECORDED; done += CONCURRENCY) {
    const requestedAt = new Date(END + done);
    const payment = (): PaidPayment => ({
      correlationId: randomUUID(),
      gateway: 'primary',
      amountCents: 1990,
      requestedAt,
    });
    await ledger.insertPayments(Array.from({ length: Math.min(CONCURRENCY, RECORDED - done) }, payment));
  }
}

async function lookUp({ db }: Table): Promise<void> {
  const deadLetters = createDeadLetters(db, { maxInvalid: 1 });
  for (let n = 0; n < LOOK_UPS; n += 1) await deadLetters.lookUp(Array.from({ length: IDS }, () => randomUUID()));
}

async function measureSize({ url }: Table): Promise<Result[]> {
  const sizes = await sql<{ part: string; bytes: string }>(
    url,
    `SELECT * FROM (VALUES ('table', pg_table_size('payments')), ('index of ids', pg_relation_size('payments_pkey')),
       ('index of times', pg_relation_size('payments_summary')), ('totals', pg_total_relation_size('payment_totals'))
     ) AS size (part, bytes)`,
  );
  const perPayment = new Map(sizes.map(({ part, bytes }) => [part, Number(bytes) / LEDGER_ROWS]));
  const all = [...perPayment.values()].reduce((sum, bytes) => sum + bytes);
  const parts = [...perPayment].map(([part, bytes]) => `${part} ${bytes.toFixed(0)}`).join(', ');
  const idsMb = (perPayment.get('index of ids')! * LEDGER_ROWS) / 1024 ** 2;
  return [
    {
      what: `bytes of a payment (${parts}), beside its data`,
      ours: all.toFixed(0),
      baseline: String(DATA_BYTES),
      ratio: all / DATA_BYTES,
      budget: undefined,
    },
    {
      what: `index of ids of ${COUNT} payments, beside PostgreSQL's memory (shared_buffers)`,
      ours: `${idsMb.toFixed(0)} MB`,
      baseline: `${SHARED_BUFFERS_MB} MB`,
      ratio: idsMb / SHARED_BUFFERS_MB,
      budget: 1,
    },
  ];
}

async function measureArchive({ db, url }: Table): Promise<Result[]> {
  const archive = createArchive(db);
  const before = new Date(END - (LEDGER_ROWS * (1 - ARCHIVED) * 1000) / PER_SECOND);
  const startedAt = performance.now();
  let moved = 0;
  for (let from: Date | undefined; ; ) {
    const batch = await archive.moveBatch({ from, before });
    if (batch === undefined) break;
    moved += batch.payments;
    from = batch.until;
  }
  const movedPerSecond = (moved / (performance.now() - startedAt)) * 1000;
  const vacuumedAt = performance.now();
  await sql(url, 'VACUUM payments');
  const vacuumSeconds = (performance.now() - vacuumedAt) / 1000;
  const everySeconds = (LEDGER_ROWS * VACUUM_EVERY) / MOST_PER_SECOND;
  return [
    {
      what: `payments archived a second, of ${COUNT}, beside those that one queue records at most`,
      ours: shown(movedPerSecond),
      baseline: shown(MOST_PER_SECOND),
      ratio: movedPerSecond / MOST_PER_SECOND,
      budget: undefined,
    },
    {
      what: `VACUUM of ${COUNT} payments after ${ARCHIVED * 100} % were archived, beside the time until the next one`,
      ours: `${vacuumSeconds.toFixed(1)} s`,
      baseline: `${everySeconds.toFixed(0)} s`,
      ratio: vacuumSeconds / everySeconds,
      budget: 1,
    },
  ];
}

function shown(count: number): string {
  return Math.round(count).toLocaleString('en');
}
