import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { median } from '../test/bench/measure.ts';
import type { RunReport } from './score.ts';

/**
 * `make bench-rinha`: the challenge's scenario against Payrelay and against a naive build, by turns, inside the same CPU limits.
 * BENCH_ROUNDS (3) is the number of rounds. A round has two runs, each of a good minute on a fresh stack.
 * Exits 1 when Payrelay misses its budget.
 */
const ROUNDS = Number(process.env['BENCH_ROUNDS'] ?? 3);
const P99_BUDGET = 0.6;
const builds = { Payrelay: [], naive: ['--naive'] } as const;
const reports: Record<keyof typeof builds, RunReport[]> = { Payrelay: [], naive: [] };

const dir = mkdtempSync(join(tmpdir(), 'payrelay-bench-'));
try {
  for (let round = 1; round <= ROUNDS; round += 1) {
    for (const [name, args] of Object.entries(builds) as [keyof typeof builds, readonly string[]][]) {
      console.log(`round ${round} of ${ROUNDS}: ${name}`);
      const RESULT = join(dir, `${round}-${name}`);
      const script = fileURLToPath(new URL('play.ts', import.meta.url));
      // The naive build may end with code 1. A run without a result ends the benchmark.
      spawnSync(process.execPath, [script, ...args], { env: { ...process.env, RUNS: '1', RESULT }, stdio: 'inherit' });
      reports[name].push(JSON.parse(readFileSync(RESULT, 'utf8')) as RunReport);
    }
  }
} finally {
  rmSync(dir, { recursive: true, force: true });
}

const of = (name: keyof typeof builds, figure: (report: RunReport) => number) => median(reports[name].map(figure));
const row = (name: keyof typeof builds) =>
  [
    `${of(name, ({ p99Ms }) => p99Ms).toFixed(1)} (${reports[name].map(({ p99Ms }) => p99Ms.toFixed(1)).join(', ')})`,
    of(name, ({ medianMs }) => medianMs).toFixed(2),
    of(name, ({ cpuMsPerPayment }) => cpuMsPerPayment).toFixed(2),
    of(name, ({ peakMb }) => peakMb ?? Number.NaN).toFixed(0),
    of(name, ({ lag }) => lag),
    `${reports[name].filter(({ isClean }) => isClean).length} of ${ROUNDS}`,
  ].join(' | ');
console.log('\n| build | p99 ms (runs) | median ms | CPU ms per payment | peak MB | lag | clean runs |');
console.log('| --- | --- | --- | --- | --- | --- | --- |');
for (const name of Object.keys(builds) as (keyof typeof builds)[]) console.log(`| ${name} | ${row(name)} |`);
const ratio = of('Payrelay', ({ p99Ms }) => p99Ms) / of('naive', ({ p99Ms }) => p99Ms);
console.log(
  `\np99 beside the naive build: ${ratio.toFixed(2)}, budget ≤ ${P99_BUDGET}: ${ratio <= P99_BUDGET ? 'kept' : 'MISSED'}`,
);
process.exitCode = ratio <= P99_BUDGET && reports.Payrelay.every(({ isClean, lag }) => isClean && lag === 0) ? 0 : 1;
