import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const SCRIPT = fileURLToPath(new URL('scenario.js', import.meta.url));
const IMAGE = 'grafana/k6:1.1.0';

/**
 * How far k6's memory may grow before Go collects its garbage, GOGC in https://pkg.go.dev/runtime: 800 is nine times what
 * is in use, some 400 MB. With Go's default of 100, k6's own collections held both cores for up to 10 ms, which counts as
 * if the stack had been slow (rinha/NOTEBOOK.md). The challenge measures with the default: `K6_GOGC=` does so, too.
 */
export const K6_GOGC = process.env['K6_GOGC'] ?? '800';

/** What scenario.js writes. */
export interface K6Result {
  readonly accepted: number;
  readonly notAccepted: number;
  readonly counted: { readonly default: number; readonly fallback: number };
  /** Payments accepted, and not counted when the scenario ended. */
  readonly lag: number;
  readonly p99Ms: number;
  readonly paymentMedianMs: number;
  readonly inconsistentProbes: number;
  /** By how many payments the books differed, summed over the probes. */
  readonly inconsistency: number;
  readonly profit: number;
  /** Part of the profit: 0.12 for a p99 of 5 ms. */
  readonly p99Bonus: number;
  /** Part of the profit: 0.35, or 0. */
  readonly fine: number;
  readonly score: number;
}

/** Plays scenario.js once. @throws when k6 fails. */
export type RunScenario = (env: Readonly<Record<string, string>>) => K6Result;

/** Finds k6 on the PATH, or else its image. @throws when there is neither. */
export function findK6(): RunScenario {
  const isOnPath = spawnSync('k6', ['version']).status === 0;
  if (!isOnPath) pullImage();
  return (env) => {
    const dir = mkdtempSync(join(tmpdir(), 'payrelay-k6-'));
    try {
      const settings = Object.entries(env).flatMap(([name, value]) => ['-e', `${name}=${value}`]);
      const [command, args] = isOnPath ? onPath(dir, settings) : inContainer(dir, settings);
      const { status } = spawnSync(command, args, {
        stdio: ['ignore', 'ignore', 'inherit'],
        env: { ...process.env, GOGC: K6_GOGC || undefined },
      });
      if (status !== 0) throw new Error(`k6 ended with code ${status}`);
      return JSON.parse(readFileSync(join(dir, 'result.json'), 'utf8')) as K6Result;
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  };
}

function pullImage(): void {
  if (spawnSync('docker', ['image', 'inspect', IMAGE]).status === 0) return;
  if (spawnSync('docker', ['pull', IMAGE]).status === 0) return;
  throw new Error(
    `k6 is needed: put it on the PATH (https://grafana.com/docs/k6, or: go install go.k6.io/k6@v1.1.0), or let Docker pull ${IMAGE}.`,
  );
}

type Command = readonly [command: string, args: string[]];

function onPath(dir: string, settings: readonly string[]): Command {
  return ['k6', ['run', '--quiet', ...settings, '-e', `RESULT=${dir}/result.json`, SCRIPT]];
}

/** On the host's network. Our user runs it, so that it may write into our directory and we may remove what it wrote. */
function inContainer(dir: string, settings: readonly string[]): Command {
  const user = String(process.getuid?.() ?? 0);
  const mounts = ['-v', `${SCRIPT}:/scenario.js:ro`, '-v', `${dir}:/result`];
  // `-e GOGC` passes on what our environment has, and nothing where it has none.
  const container = ['run', '--rm', '--network', 'host', '--user', user, '-e', 'GOGC', ...mounts, IMAGE];
  return ['docker', [...container, 'run', '--quiet', ...settings, '-e', 'RESULT=/result/result.json', '/scenario.js']];
}
