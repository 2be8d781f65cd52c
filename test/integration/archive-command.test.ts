import { type ChildProcess, spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { atTestEnd } from '../support/cleanup.ts';
import { eventually } from '../support/relay.ts';
import { freshDatabase, freshPrefix, sharedRedis, sql } from '../support/services.ts';

const COMMAND = fileURLToPath(new URL('../../src/commands/archive.ts', import.meta.url));
const BEFORE = '2025-07-15T12:00:00Z';

/** A ledger with so many payments before {@link BEFORE} and three since, and the command over it. */
async function stage(old: number) {
  const url = await freshDatabase();
  await sql(
    url,
    `INSERT INTO payments SELECT gen_random_uuid(), 'default', 100, at, at
     FROM generate_series(1, $1::integer) AS n, LATERAL (SELECT $2::timestamptz + make_interval(secs => 3 - n) AS at) AS time`,
    [old + 3, BEFORE],
  );
  const env = {
    REDIS_URL: (await sharedRedis()).url,
    REDIS_KEY_PREFIX: freshPrefix().replaceAll(/[{}]/g, ''),
    DATABASE_URL: url,
  };
  const start = (...args: string[]) => {
    const child = spawn(process.execPath, [COMMAND, ...args], { env });
    atTestEnd(() => void child.kill('SIGKILL'));
    return child;
  };
  const count = async (table: 'payments' | 'payments_archive' | 'recorded_payments') =>
    Number((await sql<{ n: string }>(url, `SELECT count(*) AS n FROM ${table}`))[0]!.n);
  return {
    url,
    start,
    run: (...args: string[]) => endOf(start(...args)),
    count,
    someMoved: () => eventually(async () => (await count('payments_archive')) > 0, 30_000),
    trail: () =>
      sql<{ action: string; target: object; reason: string; who: string; state: string; outcome: object }>(
        url,
        'SELECT action, target, reason, who, state, outcome FROM operator_actions ORDER BY id',
      ),
  };
}

async function endOf(child: ChildProcess) {
  const [out, err, code] = await Promise.all([
    text(child.stdout!),
    text(child.stderr!),
    new Promise((resolve) => child.once('exit', resolve)),
  ]);
  return { out, err, code };
}

const BECAUSE = ['--reason', 'ticket 7'];

describe('npm run archive', function () {
  this.timeout(60_000);

  it('says how many it would move and changes nothing with --dry-run', async () => {
    const { run, count, trail } = await stage(1_200);
    const { out, err, code } = await run('--before', BEFORE, '--dry-run');
    expect(out, err).to.match(
      /^Would move 1,200 of 1,203 payments, about \d+\.\d MB: .*2025-07-15T12:00:00\.000Z\.\n$/,
    );
    expect(code).to.equal(0);
    expect(await count('payments')).to.equal(1_203);
    expect(await trail()).to.deep.equal([]);
  });

  it('moves what is older, with a row in the trail, and has nothing to do a second time', async () => {
    const { run, count, trail } = await stage(1_200);
    const { out, err, code } = await run('--before', BEFORE, ...BECAUSE);
    expect(out, err).to.match(/Moved 1,200 payments\. What others held locked is left for the next run\.\n$/);
    expect(code).to.equal(0);
    expect(await count('payments')).to.equal(3);
    expect(await count('payments_archive')).to.equal(1_200);
    expect((await run('--before', BEFORE, ...BECAUSE)).out).to.match(/Moved 0 payments/);
    const rows = await trail();
    expect(rows.map(({ outcome }) => outcome)).to.deep.equal([{ moved: 1_200 }, { moved: 0 }]);
    expect(rows[0]).to.deep.include({ action: 'payments.archive', reason: 'ticket 7', state: 'done' });
    expect(rows[0]!.target).to.deep.equal({ before: '2025-07-15T12:00:00.000Z' });
    expect(rows[0]!.who).to.include('@');
  });

  it('refuses an instant in the future or of the last day, one that is none, and an act without a reason', async () => {
    const { run, count, trail } = await stage(1);
    const yesterday = new Date(Date.now() - 23 * 3_600_000).toISOString();
    for (const args of [
      ['--before', yesterday, ...BECAUSE],
      ['--before', '2100-01-01', ...BECAUSE],
      ['--before', '2100-01-01', '--dry-run'],
      ['--before', 'yesterday', ...BECAUSE],
      ['--before', BEFORE],
      ['--before', BEFORE, '--reason', ' '],
      BECAUSE,
    ]) {
      const { out, err, code } = await run(...args);
      expect({ out, code }, args.join(' ')).to.deep.equal({ out: '', code: 2 });
      expect(err).to.include('usage:');
    }
    expect(await count('payments')).to.equal(4);
    expect(await trail()).to.deep.equal([]);
  });

  it('ends after its batch when it is interrupted, and goes on when it is run again', async () => {
    const { start, run, count, someMoved, trail } = await stage(30_000);
    const child = start('--before', BEFORE, ...BECAUSE);
    const end = endOf(child);
    await someMoved();
    child.kill('SIGINT');
    const { out, err, code } = await end;
    expect(out, err).to.include('run it again');
    expect(code).to.equal(1);
    const moved = await count('payments_archive');
    expect(moved).to.be.within(1_000, 29_000);
    expect((await trail())[0]).to.deep.include({ state: 'stopped', outcome: { moved } });
    expect((await run('--before', BEFORE, ...BECAUSE)).out).to.include(
      `Moved ${(30_000 - moved).toLocaleString('en-US')} `,
    );
    expect(await count('payments')).to.equal(3);
    expect(await count('recorded_payments')).to.equal(30_003);
  });

  it('loses nothing and moves nothing twice when it is killed, and with two at once', async () => {
    const { url, start, run, count, someMoved } = await stage(12_000);
    const killed = start('--before', BEFORE, ...BECAUSE);
    await someMoved();
    killed.kill('SIGKILL');
    const ends = await Promise.all([run('--before', BEFORE, ...BECAUSE), run('--before', BEFORE, ...BECAUSE)]);
    expect(ends.map(({ code }) => code)).to.deep.equal([0, 0]);
    expect(await count('payments')).to.equal(3);
    const [archived] = await sql(
      url,
      'SELECT count(DISTINCT correlation_id) AS ids, count(*) AS n FROM payments_archive',
    );
    expect(archived).to.deep.equal({ ids: '12000', n: '12000' });
    const [totals] = await sql(
      url,
      'SELECT sum(payments) AS n, sum(amount_cents) AS cents FROM payment_totals WHERE width_seconds = 60',
    );
    expect(totals).to.deep.equal({ n: '12003', cents: '1200300' });
  });

  it('exits with 2 when the ledger is down', async () => {
    const env = { REDIS_URL: (await sharedRedis()).url, DATABASE_URL: 'postgres://nobody@127.0.0.1:1/none' };
    const child = spawn(process.execPath, [COMMAND, '--before', BEFORE, ...BECAUSE], { env });
    expect((await endOf(child)).code).to.equal(2);
  });
});
