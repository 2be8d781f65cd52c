import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import type { CapacityReport } from '../../dev/capacity/report.ts';
import { cpuMicros, treeOf } from '../../dev/local/cpu.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { eventually } from '../support/relay.ts';

const COMMAND = fileURLToPath(new URL('../../dev/capacity/capacity.ts', import.meta.url));

/** The least that has every figure. */
const TINY = ['--seconds=1', '--api-nodes=1,2', '--workers=1', '--shards=1,2', '--concurrency=64', '--payments=4000'];

/** Starts the command with a directory for all its data, and notes the processes that it starts. */
function startCapacity(args: readonly string[]) {
  const dir = mkdtempSync(join(tmpdir(), 'capacity-test-'));
  // PostgreSQL may run as another user, who must enter.
  chmodSync(dir, 0o755);
  const env = { PATH: process.env['PATH'], TMPDIR: dir };
  const child = spawn(process.execPath, [COMMAND, ...args], { env, stdio: ['ignore', 'pipe', 'pipe'] });
  const seen = new Set<number>();
  const look = () => {
    for (const pid of treeOf(child.pid!).keys()) seen.add(pid);
  };
  const timer = setInterval(look, 100);
  atTestEnd(() => {
    clearInterval(timer);
    child.kill('SIGTERM');
    rmSync(dir, { recursive: true, force: true });
  });
  return { child, dir, seen: seen as ReadonlySet<number> };
}

async function expectNothingLeft({ dir, seen }: { dir: string; seen: ReadonlySet<number> }): Promise<void> {
  // PostgreSQL's processes end when they notice that their parent has ended.
  await eventually(() => [...seen].every((pid) => !existsSync(`/proc/${pid}`)), 5_000);
  expect(readdirSync(dir).filter((name) => /-(redis|postgres)-\w{6}$/.test(name))).to.deep.equal([]);
}

function commandOf(pid: number): string {
  return existsSync(`/proc/${pid}`) ? readFileSync(`/proc/${pid}/cmdline`, 'utf8') : '';
}

async function exitCode(child: ChildProcess): Promise<number | null> {
  const [code] = (await once(child, 'exit')) as [number | null];
  return code;
}

describe('npm run capacity', function () {
  this.timeout(120_000);

  it('has every figure, and leaves nothing running', async () => {
    const run = startCapacity([...TINY, '--json', '-']);
    const exited = exitCode(run.child);
    const [out, log] = await Promise.all([text(run.child.stdout!), text(run.child.stderr!)]);
    expect(await exited, log).to.equal(0);
    expect(run.seen.size).to.be.above(8);
    const report = JSON.parse(out) as CapacityReport;

    expect(report.accepting.map(({ apiNodes }) => apiNodes)).to.deep.equal([1, 2]);
    expect(report.paying.map(({ shards }) => shards)).to.deep.equal([1, 2]);
    for (const row of report.accepting) {
      expect(row.cpuMicros).to.have.all.keys('api', 'redis', 'load');
      // A payment of 70 bytes with its id in several keys.
      expect(row.bytesPerQueued).to.be.within(150, 1_500);
    }
    for (const row of report.paying) {
      expect(row.cpuMicros).to.have.all.keys('worker', 'redis', 'postgres', 'gateway');
      expect(row.bytesPerRecorded).to.be.within(80, 800);
    }
    for (const row of [...report.accepting, ...report.paying]) {
      expect(row.perSecond).to.be.above(50);
      for (const [part, micros] of Object.entries(row.cpuMicros!)) expect(micros, part).to.be.within(0.1, 10_000);
    }
    expect(report.deployments.map(({ rate }) => rate)).to.deep.equal([1_000, 10_000, 100_000]);
    for (const deployment of report.deployments) {
      for (const [name, value] of Object.entries({ ...deployment, ...deployment.cores })) {
        if (typeof value === 'number') expect(value, name).to.be.above(0);
      }
      expect(deployment.bottleneck.rate).to.be.at.least(deployment.rate);
    }
    await expectNothingLeft(run);
  });

  it('ends all that it has started when it is interrupted', async () => {
    const run = startCapacity(['--seconds', '600', '--api-nodes', '1']);
    const exited = exitCode(run.child);
    // Itself, PostgreSQL with its processes, Redis, an API node and a load generator.
    await eventually(() => run.seen.size > 8, 60_000);
    run.child.kill('SIGINT');
    expect(await exited).to.equal(130);
    await expectNothingLeft(run);
  });

  it('exits with 1 and says so when a process ends during a measurement', async () => {
    const run = startCapacity(['--seconds', '600', '--api-nodes', '1']);
    const exited = exitCode(run.child);
    const log = text(run.child.stderr!);
    const generator = () => [...run.seen].find((pid) => commandOf(pid).includes('load-generator.ts'));
    // So much CPU only comes from posting: its start has ended.
    await eventually(() => generator() !== undefined && cpuMicros(generator()!) > 1_000_000, 60_000);
    process.kill(generator()!, 'SIGKILL');
    expect(await exited).to.equal(1);
    expect(await log).to.match(/^load ended with code null$/m);
    await expectNothingLeft(run);
  });

  it('exits with 2 and says what is wrong with an option', async () => {
    const run = startCapacity(['--workers', 'many']);
    const exited = exitCode(run.child);
    expect(await text(run.child.stderr!)).to.match(/^each number of --workers must be an integer .*"many"/);
    expect(await exited).to.equal(2);
  });
});
