import { spawnSync } from 'node:child_process';
import { appendFileSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { fromGatewayColumn, type GatewayColumn } from '../src/ledger/gateway-column.ts';
import { runTool } from '../src/process/run-tool.ts';
import { audit, type Book, type BookEntry, readGateway, readLedger } from './audit.ts';
import { freePort } from './local/ports.ts';
import { stopOnSignal } from './local/processes.ts';
import { startStack } from './stack.ts';

/**
 * `make rinha`: the challenge's scenario against the compose stack inside the challenge's limits.
 * `make rinha-local`: the same scenario against plain processes, without limits and without Docker.
 *
 * Needs k6 on the PATH, or Docker to run its image. SCENARIO is `minute` (default) or `final`, the challenge's last round of
 * five minutes. RUNS (1) repeats the scenario; MAX_REQUESTS (550, in the final 603) are its users.
 * RESULT is a file to which each run adds a line of JSON, a {@link RunReport}. `--naive` plays against the naive build of the
 * benchmarks. Exits 1 when a payment was lost, paid twice or not recorded, when the books differed at a probe, when a part
 * had to be started again, or when too many of the final's payments were unpaid at its end.
 */
const RUNS = Number(process.env['RUNS'] ?? 1);
const SCENARIO = process.env['SCENARIO'] || 'minute';
/** Part of the final's payments that may be unpaid at its end: those accepted a moment before, not a backlog. */
const UNPAID_AT_MOST = 0.01;
const projectDir = fileURLToPath(new URL('..', import.meta.url));
const SCRIPT = join(projectDir, 'test/k6/rinha.js');
const K6_IMAGE = 'grafana/k6:1.1.0';
/**
 * Lets k6's memory grow to nine times what it uses (some 400 MB) before Go collects its garbage, GOGC in
 * https://pkg.go.dev/runtime. By default k6's collections held both cores for up to 10 ms, measured as if the stack had been slow
 * (test/bench/RESULTS.md).
 */
const K6_GOGC = '800';

/** What test/k6/rinha.js writes. */
interface K6Result {
  readonly accepted: number;
  readonly refused: number;
  readonly counted: { readonly default: number; readonly fallback: number };
  readonly lag: number;
  readonly p99Ms: number;
  readonly paymentMedianMs: number;
  readonly inconsistentProbes: number;
  /** By how much the books differed: cents in the minute, requests in the final. */
  readonly inconsistency: number;
  readonly profit: number;
  readonly score: number;
}

/** What benchmarks compare. */
export interface RunReport {
  readonly p99Ms: number;
  readonly medianMs: number;
  readonly cpuMsPerPayment: number;
  /** Undefined where it is not limited. */
  readonly peakMb: number | undefined;
  readonly lag: number;
  readonly isClean: boolean;
}

/** What a part has used so far. */
interface Usage {
  readonly cpuMs: number;
  /** Undefined where it is not limited. */
  readonly peakMb: number | undefined;
  /** How often it was started again after it had ended, which a limit of memory brings about. */
  readonly restarts: number;
}

/** A stack to play against. */
interface Target {
  readonly backend: string;
  readonly primary: string;
  readonly fallback: string;
  readLedger(): ReturnType<typeof readLedger>;
  usage(): Map<string, Usage>;
  stop(): Promise<void>;
}

async function main(): Promise<number> {
  const runScenario = findK6();
  const target = process.argv.includes('--local') ? await startLocal() : await startCompose();
  let isClean = true;
  try {
    for (let run = 1; run <= RUNS; run += 1) {
      const report = await play(target, runScenario, run);
      if (process.env['RESULT']) appendFileSync(process.env['RESULT'], `${JSON.stringify(report)}\n`);
      isClean &&= report.isClean;
    }
  } finally {
    await target.stop();
  }
  return isClean ? 0 : 1;
}

async function play(target: Target, runScenario: ReturnType<typeof findK6>, run: number): Promise<RunReport> {
  const before = target.usage();
  const result = runScenario({
    SCENARIO,
    MAX_REQUESTS: process.env['MAX_REQUESTS'] ?? '',
    BACKEND_URL: target.backend,
    PRIMARY_URL: target.primary,
    FALLBACK_URL: target.fallback,
  });
  const after = target.usage();
  // The audit is of what is true once all is settled; what was still unpaid at the scenario's end, the lag tells.
  const [primary, fallback, ledger] = await settled(target, result.accepted);
  const nobody = new Set<string>();
  // k6 keeps no ids: lost and phantom payments are told by their number.
  const { paidTwice, unrecorded, unpaid } = audit({
    accepted: nobody,
    unknown: nobody,
    deadLetters: nobody,
    gateways: { primary, fallback },
    ledger,
  });
  const lost = result.accepted - new Set([...primary.keys(), ...fallback.keys()]).size;
  const payments = Math.max(1, result.accepted);
  const unpaidAtEnd = result.lag / payments;
  const cpu = [...after].map(([name, { cpuMs }]) => [name, cpuMs - before.get(name)!.cpuMs] as const);
  const cpuTotal = cpu.reduce((sum, [, ms]) => sum + ms, 0);
  const restarted = [...after].filter(([name, { restarts }]) => restarts > before.get(name)!.restarts);
  const faults =
    paidTwice.length + lost + unrecorded.length + unpaid.length + result.inconsistentProbes + restarted.length;
  const peaks = [...after].flatMap(([name, { peakMb }]) => (peakMb === undefined ? [] : [[name, peakMb] as const]));
  const peakMb = peaks.length === 0 ? undefined : peaks.reduce((sum, [, mb]) => sum + mb, 0);
  console.log(`\n${SCENARIO}, run ${run} of ${RUNS}`);
  for (const [name, value] of [
    ['score', `${result.score.toFixed(2)} (profit ${result.profit.toFixed(2)})`],
    ['p99', `${result.p99Ms.toFixed(2)} ms (median of payments ${result.paymentMedianMs.toFixed(2)} ms)`],
    ['accepted', `${result.accepted}, refused ${result.refused}`],
    ['paid at the primary', `${primary.size} (${((100 * primary.size) / payments).toFixed(1)} %)`],
    ['paid at the fallback', fallback.size],
    ['unpaid at the end', `${result.lag} (${(100 * unpaidAtEnd).toFixed(2)} %)`],
    ['inconsistent probes', `${result.inconsistentProbes} (by ${result.inconsistency} in all)`],
    ['paid twice', paidTwice.length],
    ['lost', lost],
    ['unrecorded', unrecorded.length + unpaid.length],
    ['restarted', restarted.map(([name]) => name).join(', ') || 'none'],
    [
      'CPU',
      `${(cpuTotal / payments).toFixed(3)} ms a payment: ${cpu.map(([name, ms]) => `${name} ${(ms / payments).toFixed(3)}`).join(', ')}`,
    ],
    [
      'peak memory',
      peakMb === undefined
        ? 'not measured'
        : `${peakMb.toFixed(0)} MB: ${peaks.map(([name, mb]) => `${name} ${mb.toFixed(0)}`).join(', ')}`,
    ],
  ] as const) {
    console.log(`  ${name.padEnd(21)} ${value}`);
  }
  return {
    p99Ms: result.p99Ms,
    medianMs: result.paymentMedianMs,
    cpuMsPerPayment: cpuTotal / payments,
    peakMb,
    lag: result.lag,
    isClean: faults === 0 && (SCENARIO !== 'final' || unpaidAtEnd < UNPAID_AT_MOST),
  };
}

type Books = readonly [Book, Book, Awaited<ReturnType<typeof readLedger>>];

/** The books once the gateways hold what was accepted, or after the 60 s that the first guarantee gives. */
async function settled(target: Target, accepted: number): Promise<Books> {
  const startedAt = performance.now();
  for (;;) {
    const books = await Promise.all([
      readGateway(target.primary),
      readGateway(target.fallback),
      target.readLedger(),
    ] as const);
    const [primary, fallback, ledger] = books;
    const isSettled =
      primary.size + fallback.size >= accepted &&
      ledger.primary.size === primary.size &&
      ledger.fallback.size === fallback.size;
    if (isSettled || performance.now() - startedAt > 60_000) return books;
    await sleep(500);
  }
}

/** How to run k6: from the PATH, else its image. @throws when there is neither. */
function findK6(): (env: Record<string, string>) => K6Result {
  const isOnPath = spawnSync('k6', ['version']).status === 0;
  if (!isOnPath && spawnSync('docker', ['image', 'inspect', K6_IMAGE]).status !== 0) {
    const pull = spawnSync('docker', ['pull', K6_IMAGE], { stdio: ['ignore', 'ignore', 'pipe'] });
    if (pull.status !== 0) {
      throw new Error(
        `k6 is needed: put it on the PATH (https://grafana.com/docs/k6, or: go install go.k6.io/k6@v1.1.0), or let Docker pull ${K6_IMAGE}.`,
      );
    }
  }
  return (env) => {
    const dir = mkdtempSync(join(tmpdir(), 'payrelay-k6-'));
    try {
      const settings = Object.entries(env).flatMap(([name, value]) => ['-e', `${name}=${value}`]);
      const [command, args] = isOnPath
        ? ['k6', ['run', '--quiet', ...settings, '-e', `RESULT=${dir}/result.json`, SCRIPT]]
        : [
            'docker',
            // The image's user has no home of ours: it gets the directory by a mount, and the host's network.
            [
              'run',
              '--rm',
              '--network',
              'host',
              '--user',
              `${process.getuid?.() ?? 0}`,
              // As the environment below has it.
              '-e',
              'GOGC',
              '-v',
              `${SCRIPT}:/rinha.js:ro`,
              '-v',
              `${dir}:/result`,
              K6_IMAGE,
              'run',
              '--quiet',
              ...settings,
              '-e',
              'RESULT=/result/result.json',
              '/rinha.js',
            ],
          ];
      const { status } = spawnSync(command as string, args as string[], {
        stdio: ['ignore', 'ignore', 'inherit'],
        env: { ...process.env, GOGC: K6_GOGC },
      });
      if (status !== 0) throw new Error(`k6 ended with code ${status}`);
      return JSON.parse(readFileSync(join(dir, 'result.json'), 'utf8')) as K6Result;
    } finally {
      rmSync(dir, { recursive: true, force: true });
    }
  };
}

async function startLocal(): Promise<Target> {
  const stack = await startStack({
    apiPorts: [await freePort()],
    workers: 1,
    redisArgs: ['--appendfsync', 'everysec'],
    env: {
      DURABILITY: 'memory',
      PAYMENT_QUEUE_MAX_CONCURRENCY: '48',
      SUMMARY_RANGE: 'optional',
      ALLOW_PURGE: 'true',
    },
    say: (line) => console.log(`  ${line}`),
  });
  stopOnSignal(stack.stop);
  const pids = new Map([
    ['app1', stack.apis[0]!.pid],
    ['worker1', stack.workers[0]!.pid],
    ['redis', stack.redis!.pid],
  ]);
  return {
    backend: stack.apis[0]!.url!,
    primary: stack.primary.url!,
    fallback: stack.fallback.url!,
    readLedger: () => readLedger(stack.databaseUrl),
    usage: () =>
      new Map([...pids].map(([name, pid]) => [name, { cpuMs: processCpuMs(pid), peakMb: undefined, restarts: 0 }])),
    stop: stack.stop,
  };
}

/** From /proc, in ticks of 10 ms (man 5 proc). PostgreSQL, a process for each connection, is left out. */
function processCpuMs(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)!.split(' ');
  return (Number(fields[11]) + Number(fields[12])) * 10;
}

const PARTS = ['nginx', 'app1', 'app2', 'worker1', 'redis', 'postgres'];

async function startCompose(): Promise<Target> {
  const isNaive = process.argv.includes('--naive');
  if (spawnSync('docker', ['info']).status !== 0) {
    throw new Error('make rinha needs a running Docker engine; without one: make rinha-local');
  }
  const isV2 = spawnSync('docker', ['compose', 'version']).status === 0;
  const compose = (file: string, ...args: string[]) => {
    // v1 honours the limits only with --compatibility.
    const [command, first] = isV2 ? ['docker', ['compose']] : ['docker-compose', ['--compatibility']];
    const isStack = file === 'compose.rinha.yml';
    const files = ['-f', join(projectDir, 'docker', file)];
    if (isStack && isNaive) files.push('-f', join(projectDir, 'test/bench/compose.naive.yml'));
    const all = [...first, '-p', isStack ? 'payrelay-rinha' : 'payrelay-gateways', ...files, ...args];
    // The naive build needs more than one core.
    const env = isNaive ? { ...process.env, CPUSET: '' } : process.env;
    const { status, stderr } = spawnSync(command, all, { stdio: ['ignore', 'ignore', 'pipe'], encoding: 'utf8', env });
    if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed:\n${stderr}`);
  };
  const stop = async () => {
    compose('compose.rinha.yml', 'down', '--volumes');
    compose('compose.gateways.yml', 'down', '--volumes');
  };
  stopOnSignal(stop);
  const backend = 'http://localhost:9999';
  console.log('  building and starting the stack');
  try {
    compose('compose.gateways.yml', 'up', '-d', '--build');
    // What an earlier run has left would not be empty.
    compose('compose.rinha.yml', 'down', '--volumes');
    compose('compose.rinha.yml', 'build');
    compose('compose.rinha.yml', 'up', '-d');
    await untilReady(backend);
  } catch (error) {
    await stop();
    throw error;
  }
  const container = (name: string) => {
    const filter = [
      '--filter',
      'label=com.docker.compose.project=payrelay-rinha',
      '--filter',
      `label=com.docker.compose.service=${name}`,
    ];
    return spawnSync('docker', ['ps', '-q', ...filter], { encoding: 'utf8' }).stdout.trim();
  };
  const containers = new Map(PARTS.map((name) => [name, container(name)]));
  return {
    backend,
    primary: 'http://localhost:8001',
    fallback: 'http://localhost:8002',
    async readLedger() {
      const select = `COPY (SELECT correlation_id, gateway, amount_cents, round(extract(epoch FROM requested_at) * 1000) FROM payments) TO STDOUT`;
      const psql = ['exec', containers.get('postgres')!, 'psql', '-U', 'payrelay', '-d', 'payrelay', '-c', select];
      const { stdout, status } = spawnSync('docker', psql, { encoding: 'utf8', maxBuffer: 1e9 });
      if (status !== 0) throw new Error('the ledger could not be read');
      const books = { primary: new Map<string, BookEntry>(), fallback: new Map<string, BookEntry>() };
      for (const line of stdout.split('\n').filter(Boolean)) {
        const [id, gateway, cents, ms] = line.split('\t') as [string, GatewayColumn, string, string];
        books[fromGatewayColumn(gateway)].set(id, {
          amountCents: Number(cents),
          requestedAt: new Date(Number(ms)).toISOString(),
        });
      }
      return books;
    },
    usage: () => new Map([...containers].map(([name, id]) => [name, containerUsage(id)])),
    stop,
  };
}

/**
 * Until summaries are of the database, and not the zeros that stand in for it: the challenge's own runner begins at any
 * answer, and would measure PostgreSQL making its files and the migrations as well. @throws after a minute.
 */
async function untilReady(backend: string): Promise<void> {
  for (let tries = 0; tries <= 120; tries += 1) {
    const isReady = await fetch(`${backend}/payments-summary`).then(
      ({ ok, headers }) => ok && headers.get('x-summary-source') !== 'stub',
      () => false,
    );
    if (isReady) return;
    await sleep(500);
  }
  throw new Error('the stack did not become ready within a minute');
}

/** From the container's own cgroup, version 2 or 1. @throws when it runs no more. */
function containerUsage(id: string): Usage {
  const format =
    '{{.Name}}: {{.State.Status}}, exit code {{.State.ExitCode}}, out of memory: {{.State.OOMKilled}}, restarts: {{.RestartCount}}';
  const { stdout: state } = spawnSync('docker', ['inspect', '--format', format, id], { encoding: 'utf8' });
  if (!state.includes(': running,')) throw new Error(`a container has ended: ${state.trim()}`);
  // By one call, and CPU first: the call itself runs in the container, at its expense.
  const files = 'cpu.stat cpuacct/cpuacct.usage memory.peak memory/memory.max_usage_in_bytes';
  const script = `cd /sys/fs/cgroup; cat ${files} 2>/dev/null`;
  const { stdout: figures } = spawnSync('docker', ['exec', id, 'sh', '-c', script], { encoding: 'utf8' });
  // Version 2 names what it counts, in µs; version 1 gives a bare number of ns. The peak is bare in both.
  const usec = /^usage_usec (\d+)$/m.exec(figures)?.[1];
  const bare = [...figures.matchAll(/^\d+$/gm)].map(([number]) => Number(number));
  const nanoseconds = usec === undefined ? bare.shift() : Number(usec) * 1e3;
  if (nanoseconds === undefined) throw new Error(`the figures of a container could not be read: ${state.trim()}`);
  const [peak] = bare;
  return {
    cpuMs: nanoseconds / 1e6,
    peakMb: peak === undefined ? undefined : peak / 1e6,
    restarts: Number(/\d+$/.exec(state.trim())![0]),
  };
}

runTool(import.meta, main);
