import { setTimeout as sleep } from 'node:timers/promises';
import { runTool } from '../src/process/run-tool.ts';
import { audit, isBreached, readBooks } from './audit.ts';
import { type GatewayBehaviour, gatewayAdmin } from './gateway-admin.ts';
import { createLoad, percentile } from './load.ts';
import { freePort } from './local/ports.ts';
import { stopOnSignal } from './local/processes.ts';
import type { ServiceProcess } from './local/service.ts';
import { type Stack, startStack } from './stack.ts';

/**
 * `make demo`: the scenario of the Rinha de Backend 2025 in a third of its time with a fifth of its users, then the
 * verdict. The stages come from the challenge's rinha-test/rinha.js. While the primary is slow, one of two workers is killed
 * with its payments in flight, and started again.
 */
const SECONDS = 20;
const USERS = 110;

/** Below 1: everything happens that much faster. For the demo's own test. */
const PACE = Number(process.env['DEMO_PACE'] ?? 1);

/** Less than the time for which the primary alone is down, so that the fallback pays meanwhile. */
const FALLBACK_AFTER_MS = 1_000;

/** In "primary slow", when payments are at the gateway whose fate the killed worker never learns. */
const KILL_AT_SECONDS = 6;
const WORKER_PAUSE_SECONDS = 2;

interface Stage {
  readonly atSeconds: number;
  readonly what: string;
  readonly primary: GatewayBehaviour;
  readonly fallback: GatewayBehaviour;
}

const up = { delayMs: 0, failure: false };
const STAGES: readonly Stage[] = [
  { atSeconds: 0, what: 'both up', primary: up, fallback: up },
  { atSeconds: 3, what: 'primary slow', primary: { delayMs: 100, failure: false }, fallback: up },
  { atSeconds: 7, what: 'primary down', primary: { delayMs: 100, failure: true }, fallback: up },
  {
    atSeconds: 10,
    what: 'both down',
    primary: { delayMs: 2_000, failure: true },
    fallback: { delayMs: 1_000, failure: true },
  },
  {
    atSeconds: 13,
    what: 'both up again',
    primary: { delayMs: 20, failure: false },
    fallback: { delayMs: 20, failure: false },
  },
  { atSeconds: 17, what: 'fallback slow', primary: up, fallback: { delayMs: 5_000, failure: false } },
  // Longer than a worker waits for a response, so what is bound to the fallback is resolved only now.
  { atSeconds: SECONDS, what: 'the end', primary: up, fallback: up },
];

async function main(): Promise<number> {
  const startedAt = performance.now();
  console.log('Starting Payrelay');
  const stack = await startStack({
    apiPorts: [await freePort(), await freePort()],
    workers: 2,
    env: {
      PAYMENT_QUEUE_MAX_CONCURRENCY: '32',
      FALLBACK_AFTER_MS: String(FALLBACK_AFTER_MS * PACE),
      GATEWAY_RECEIVE_TIMEOUT_MS: String(1_000 * PACE),
    },
    say: (line) => console.log(`  ${line}`),
  });
  stopOnSignal(stack.stop);
  try {
    return await play(stack);
  } finally {
    await stack.stop();
    console.log(`The demo took ${((performance.now() - startedAt) / 1000).toFixed(0)} s.`);
  }
}

async function play(stack: Stack): Promise<number> {
  const load = createLoad({ urls: stack.apis.map(({ url }) => url!), amount: 19.9 });
  const startedAt = performance.now();
  /** Of the scenario. */
  const seconds = () => (performance.now() - startedAt) / 1000 / PACE;
  const until = (atSeconds: number) => sleep(Math.max(0, (atSeconds - seconds()) * 1000 * PACE));
  const clock = () => `${seconds().toFixed(0).padStart(3)} s`;
  let stage = STAGES[0]!;

  const readProgress = async () => {
    const [primary, fallback, queue] = await Promise.all([paid(stack.primary), paid(stack.fallback), queued(stack)]);
    return `${clock()}  ${stage.what.padEnd(16)} accepted ${load.report.accepted.size}  primary ${primary}  fallback ${fallback}  queued ${queue.queue_size}  in flight ${queue.in_flight}`;
  };
  /** The last line of each stage stays. */
  const keepProgress = async () => say(await readProgress());

  console.log(`\nThe Rinha scenario in ${SECONDS} s, up to ${USERS} users`);
  const stages = (async () => {
    for (const next of STAGES) {
      await until(next.atSeconds);
      if (next !== stage) await keepProgress();
      stage = next;
      await Promise.all([configure(stack.primary, next.primary), configure(stack.fallback, next.fallback)]);
    }
  })();
  const crash = (async () => {
    const worker = stack.workers[0]!;
    await until(KILL_AT_SECONDS);
    const { in_flight: inFlight } = await queued(stack);
    await worker.kill();
    say(`${clock()}  a worker was killed while ${inFlight} payments were in flight`);
    await until(KILL_AT_SECONDS + WORKER_PAUSE_SECONDS);
    await worker.start();
    say(`${clock()}  the worker runs again`);
  })();
  // Each user posts, then waits for a second, as in the challenge. The users start one after the other.
  const users = Array.from({ length: USERS }, async (_, index) => {
    await until((index / USERS) * SECONDS);
    while (seconds() < SECONDS) {
      await load.post();
      await sleep(1_000 * PACE);
    }
  });
  // A line whose requests fail is left out. The next one follows in 250 ms.
  const showProgress = () =>
    readProgress().then(
      (line) => process.stdout.write(`\r\x1b[K${line}`),
      () => undefined,
    );
  const progress = process.stdout.isTTY ? setInterval(() => void showProgress(), 250) : undefined;
  await Promise.all([stages, crash, ...users]);
  load.close();
  const drainedInMs = await drain(stack, load.report.accepted.size);
  clearInterval(progress);
  await keepProgress();
  return verdict(stack, load.report, drainedInMs);
}

/** Waits until the gateways have as many payments on record as were accepted, up to the 60 s of the first guarantee. */
async function drain(stack: Stack, accepted: number): Promise<number> {
  const startedAt = performance.now();
  while (performance.now() - startedAt < 60_000) {
    const [primary, fallback] = await Promise.all([paid(stack.primary), paid(stack.fallback)]);
    const queue = await queued(stack);
    if (primary + fallback >= accepted && queue.queue_size + queue.in_flight === 0) break;
    await sleep(100);
  }
  return performance.now() - startedAt;
}

async function verdict(
  stack: Stack,
  report: ReturnType<typeof createLoad>['report'],
  drainedInMs: number,
): Promise<number> {
  const books = await readBooks(stack, report);
  const breaches = audit(books);
  const rows: [string, string | number][] = [
    ['accepted', report.accepted.size],
    ['paid at the primary', books.gateways.primary.size],
    ['paid at the fallback', books.gateways.fallback.size],
    ['unpaid', breaches.lost.length],
    ['paid twice', breaches.paidTwice.length],
    ['unrecorded', breaches.unrecorded.length + breaches.unpaid.length],
    ['p99 of the responses', `${percentile(report.latenciesMs, 0.99).toFixed(1)} ms`],
    ['drained after the end in', `${drainedInMs.toFixed(0)} ms`],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  console.log(`\n${rows.map(([name, value]) => `  ${name.padEnd(width)}  ${String(value).padStart(9)}`).join('\n')}`);
  const isKept = report.accepted.size > 0 && !isBreached(breaches);
  console.log(
    isKept
      ? '\nVerdict: every accepted payment was paid once and recorded.'
      : `\nVerdict: BREACH ${JSON.stringify(breaches, null, 2)}`,
  );
  return isKept ? 0 : 1;
}

function configure({ url }: ServiceProcess, { delayMs, failure }: GatewayBehaviour): Promise<void> {
  return gatewayAdmin(url!).configure({ delayMs: delayMs * PACE, failure });
}

/** Prints a line that stays, above the one that is replaced. */
function say(line: string): void {
  console.log(process.stdout.isTTY ? `\r\x1b[K${line}` : line);
}

async function paid({ url }: ServiceProcess): Promise<number> {
  return (await gatewayAdmin(url!).totals()).totalRequests;
}

async function queued(stack: Stack): Promise<{ queue_size: number; in_flight: number }> {
  const response = await fetch(`${stack.apis[0]!.url}/health`);
  return ((await response.json()) as { queue: { queue_size: number; in_flight: number } }).queue;
}

runTool(import.meta, main);
