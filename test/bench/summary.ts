import { startPostgres } from '../../dev/local/postgres.ts';
import { migrate } from '../../dev/stack.ts';
import { loadConfig } from '../../src/config.ts';
import { createDb } from '../../src/ledger/db.ts';
import { createLedger } from '../../src/ledger/ledger.ts';
import { sql } from '../support/services.ts';
import { median, type Result } from './measure.ts';
import { note, ROUNDS } from './stage.ts';

const LEDGER_ROWS = Number(process.env['BENCH_LEDGER_ROWS'] ?? 10_000_000);

/** The time of a summary over ten million payments, beside one over a hundred thousand. */
export async function summary(): Promise<Result[]> {
  const postgres = await startPostgres({ settings: { shared_buffers: '1GB' } });
  const tables = new Map<string, ReturnType<typeof createLedger>>();
  const dbs: { destroy(): Promise<void> }[] = [];
  const end = Date.parse('2026-06-01T00:00:00Z');
  for (const [name, rows] of [
    ['small', 100_000],
    ['big', LEDGER_ROWS],
  ] as const) {
    await sql(postgres.url, `CREATE DATABASE ${name}`);
    const url = postgres.url.replace(/postgres$/, name);
    await migrate(url);
    // 300 a second, the rate of the challenge, backwards from the end.
    for (let start = 0; start < rows; start += 1_000_000) {
      await sql(
        url,
        `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
         SELECT gen_random_uuid(), CASE WHEN n % 5 = 0 THEN 'fallback' ELSE 'default' END, 1 + n % 100000,
                to_timestamp($1::double precision - n / 300.0)
         FROM generate_series($2::bigint, $3::bigint) AS n`,
        [end / 1000, start, Math.min(rows, start + 1_000_000) - 1],
      );
    }
    await sql(url, 'VACUUM ANALYZE');
    const db = createDb(loadConfig({ DATABASE_URL: url }).database);
    dbs.push(db);
    tables.set(name, createLedger(db));
  }
  const last = end - 1_234;
  const windows: [string, number | undefined][] = [
    ['10 s', 10_000],
    ['1 h', 3_600_000],
    ['all', undefined],
  ];
  const times = new Map<string, number[]>();
  for (let round = 0; round <= 10 * ROUNDS; round += 1) {
    for (const [name, table] of tables) {
      for (const [label, ms] of windows) {
        // Another millisecond every time, so that the ends of the range differ.
        const to = new Date(last - round * 1_017);
        const startedAt = performance.now();
        await table.summarise(ms === undefined ? {} : { from: new Date(to.getTime() - ms), to });
        if (round > 0) note(times, `${name} ${label}`, performance.now() - startedAt);
      }
    }
  }
  for (const db of dbs) await db.destroy();
  await postgres.dispose();
  const of = (key: string) => median(times.get(key)!);
  const count = LEDGER_ROWS.toLocaleString('en');
  return [
    ...windows.map(([label]) => ({
      what: `summary of ${label} over ${count} payments, beside 100,000`,
      ours: `${of(`big ${label}`).toFixed(2)} ms`,
      baseline: `${of(`small ${label}`).toFixed(2)} ms`,
      ratio: of(`big ${label}`) / of(`small ${label}`),
      budget: label === '1 h' ? 1.5 : undefined,
    })),
    {
      what: `summary over ${count} payments, the slowest of the windows, beside 20 ms`,
      ours: `${Math.max(...windows.map(([label]) => of(`big ${label}`))).toFixed(2)} ms`,
      baseline: '20 ms',
      ratio: Math.max(...windows.map(([label]) => of(`big ${label}`))) / 20,
      budget: 1,
    },
  ];
}
