import { spawnSync } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { BookEntry, readLedger } from '../dev/audit.ts';
import { stopOnSignal } from '../dev/local/processes.ts';
import { fromGatewayColumn, type GatewayColumn } from '../src/ledger/gateway-column.ts';
import type { Target, Usage } from './target.ts';

const projectDir = fileURLToPath(new URL('..', import.meta.url));
const PROJECT = 'payrelay-rinha';
const PARTS = ['nginx', 'app1', 'app2', 'worker1', 'redis', 'postgres'];
const BACKEND = 'http://localhost:9999';

/** Which build the stack runs. */
export type Build = 'payrelay' | 'naive';

/** The compose stack inside the challenge's limits, and the two simulated gateways beside it. */
export interface ComposeStack {
  /** Builds the images and starts everything afresh, without an earlier run's data. @throws with compose's own message. */
  up(): Promise<void>;
  /** Removes the containers and their data. */
  down(): Promise<void>;
}

export function composeStack(build: Build): ComposeStack {
  if (spawnSync('docker', ['info']).status !== 0) {
    throw new Error('make rinha needs a running Docker engine; without one: make rinha-local');
  }
  // The naive build needs more than one core.
  const env = build === 'naive' ? { ...process.env, CPUSET: '' } : process.env;
  const run = ([command, ...args]: readonly [string, ...string[]]) => {
    const { status, stderr } = spawnSync(command, args, { cwd: projectDir, env, encoding: 'utf8' });
    if (status !== 0) throw new Error(`${command} ${args.join(' ')} failed:\n${stderr}`);
  };
  const isV2 = spawnSync('docker', ['compose', 'version']).status === 0;
  // v1 honours the limits only with --compatibility.
  const compose = isV2 ? (['docker', 'compose'] as const) : (['docker-compose', '--compatibility'] as const);
  const files = ['-f', 'rinha/compose.yml', ...(build === 'naive' ? ['-f', 'rinha/naive/compose.yml'] : [])];
  const stack = (...args: string[]) => run([...compose, '-p', PROJECT, ...files, ...args]);
  const gateways = (...args: string[]) =>
    run([...compose, '-p', 'payrelay-gateways', '-f', 'rinha/compose.gateways.yml', ...args]);

  // As the compose files have it.
  const nodeTag = env['NODE_TAG'] ? ['--build-arg', `NODE_TAG=${env['NODE_TAG']}`] : [];
  const down = async () => {
    stack('down', '--volumes');
    gateways('down', '--volumes');
  };
  return {
    async up() {
      console.log('  building and starting the stack');
      try {
        gateways('up', '-d', '--build');
        stack('down', '--volumes');
        run(['docker', 'build', '-f', 'docker/Dockerfile', '-t', 'payrelay:production', ...nodeTag, '.']);
        stack('build');
        stack('up', '-d');
        await untilReady();
      } catch (error) {
        await down();
        throw error;
      }
    },
    down,
  };
}

/** Starts the stack. `close` removes it, and so does a signal. */
export async function startComposeTarget(build: Build): Promise<Target> {
  const stack = composeStack(build);
  stopOnSignal(stack.down);
  await stack.up();
  const containers = new Map(PARTS.map((name) => [name, containerOf(name)]));
  return {
    backend: BACKEND,
    primary: 'http://localhost:8001',
    fallback: 'http://localhost:8002',
    readLedger: async () => readLedgerIn(containers.get('postgres')!),
    usage: () => new Map([...containers].map(([name, id]) => [name, containerUsage(id)])),
    close: stack.down,
  };
}

/**
 * Waits until a summary comes from the database, and is not the stub's zeros. The challenge's own runner begins at any
 * response, so it also measures how PostgreSQL makes its files and how the schema is migrated. @throws after a minute.
 */
async function untilReady(): Promise<void> {
  for (let tries = 0; tries <= 120; tries += 1) {
    const isReady = await fetch(`${BACKEND}/payments-summary`).then(
      ({ ok, headers }) => ok && headers.get('x-summary-source') !== 'stub',
      () => false,
    );
    if (isReady) return;
    await sleep(500);
  }
  throw new Error('the stack did not become ready within a minute');
}

function containerOf(service: string): string {
  const labels = [`project=${PROJECT}`, `service=${service}`];
  const filters = labels.flatMap((label) => ['--filter', `label=com.docker.compose.${label}`]);
  return spawnSync('docker', ['ps', '-q', ...filters], { encoding: 'utf8' }).stdout.trim();
}

/**
 * The whole ledger, by the container's own psql: its port is not published. Nobody archives during a run, and the naive build
 * has no archive.
 */
function readLedgerIn(container: string): Awaited<ReturnType<typeof readLedger>> {
  const select =
    'COPY (SELECT correlation_id, gateway, amount_cents, round(extract(epoch FROM requested_at) * 1000) FROM payments) TO STDOUT';
  const psql = ['exec', container, 'psql', '-U', 'payrelay', '-d', 'payrelay', '-c', select];
  const { stdout, status } = spawnSync('docker', psql, { encoding: 'utf8', maxBuffer: 1e9 });
  if (status !== 0) throw new Error('the ledger could not be read');
  const books = { primary: new Map<string, BookEntry>(), fallback: new Map<string, BookEntry>() };
  for (const line of stdout.split('\n').filter(Boolean)) {
    const [id, gateway, cents, ms] = line.split('\t') as [string, GatewayColumn, string, string];
    const requestedAt = new Date(Number(ms)).toISOString();
    books[fromGatewayColumn(gateway)].set(id, { amountCents: Number(cents), requestedAt });
  }
  return books;
}

/** From the container's own cgroup, version 2 or 1. @throws when the container is no longer running. */
function containerUsage(id: string): Usage {
  const format =
    '{{.Name}}: {{.State.Status}}, exit code {{.State.ExitCode}}, out of memory: {{.State.OOMKilled}}, restarts: {{.RestartCount}}';
  const { stdout: state } = spawnSync('docker', ['inspect', '--format', format, id], { encoding: 'utf8' });
  if (!state.includes(': running,')) throw new Error(`a container has ended: ${state.trim()}`);
  // In one call, and CPU first: the call itself runs in the container and counts there.
  const files = 'cpu.stat cpuacct/cpuacct.usage memory.peak memory/memory.max_usage_in_bytes';
  const script = `cd /sys/fs/cgroup; cat ${files} 2>/dev/null`;
  const { stdout: figures } = spawnSync('docker', ['exec', id, 'sh', '-c', script], { encoding: 'utf8' });
  // Version 2 names its counter, in µs; version 1 gives a bare number of ns. The peak is bare in both.
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
