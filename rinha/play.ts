import { appendFileSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { runTool } from '../src/process/run-tool.ts';
import { composeStack, startComposeTarget } from './compose-target.ts';
import { findK6, type RunScenario } from './k6.ts';
import { startLocalTarget } from './local-target.ts';
import { judge, type RunReport } from './score.ts';
import type { Target } from './target.ts';

/**
 * `make rinha`: the challenge's scenario against the compose stack, inside the challenge's limits.
 * `make rinha-local` (`--local`): the same scenario against plain processes, without limits and without Docker.
 * `make rinha-up`, `make rinha-down` (`--up`, `--down`): only the stack, for the challenge's own scripts.
 * `--naive` plays against the naive build of the benchmark.
 *
 * Needs k6 on the PATH, or Docker to run its image. SCENARIO is `minute` (default) or `final`, the challenge's last round of
 * five minutes. RUNS (1) repeats the scenario; MAX_REQUESTS (550, in the final 603) are its users; K6_GOGC as in k6.ts.
 * RESULT is a file to which each run adds a line of JSON, a {@link RunReport}. Exits 1 when a run was not clean.
 */
const RUNS = Number(process.env['RUNS'] ?? 1);
const SCENARIO = process.env['SCENARIO'] || 'minute';

async function main(): Promise<number> {
  const { values: flags } = parseArgs({
    options: {
      local: { type: 'boolean', default: false },
      naive: { type: 'boolean', default: false },
      up: { type: 'boolean', default: false },
      down: { type: 'boolean', default: false },
    },
  });
  const build = flags.naive ? 'naive' : 'payrelay';
  if (flags.up || flags.down) {
    const stack = composeStack(build);
    await (flags.up ? stack.up() : stack.down());
    return 0;
  }
  const runScenario = findK6();
  const target = flags.local ? await startLocalTarget() : await startComposeTarget(build);
  let isClean = true;
  try {
    for (let run = 1; run <= RUNS; run += 1) {
      console.log(`\n${SCENARIO}, run ${run} of ${RUNS}`);
      const report = await play(target, runScenario);
      if (process.env['RESULT']) appendFileSync(process.env['RESULT'], `${JSON.stringify(report)}\n`);
      isClean &&= report.isClean;
    }
  } finally {
    await target.close();
  }
  return isClean ? 0 : 1;
}

function play(target: Target, runScenario: RunScenario): Promise<RunReport> {
  const before = target.usage();
  const result = runScenario({
    SCENARIO,
    MAX_REQUESTS: process.env['MAX_REQUESTS'] ?? '',
    BACKEND_URL: target.backend,
    PRIMARY_URL: target.primary,
    FALLBACK_URL: target.fallback,
  });
  return judge(target, { scenario: SCENARIO, result, before, after: target.usage() });
}

runTool(import.meta, main);
