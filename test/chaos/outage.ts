import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { audit, isBreached, readBooks } from '../../dev/audit.ts';
import { gatewayAdmin } from '../../dev/gateway-admin.ts';
import { createLoad } from '../../dev/load.ts';
import { cpuMicros } from '../../dev/local/cpu.ts';
import { freePort } from '../../dev/local/ports.ts';
import type { ServiceProcess } from '../../dev/local/service.ts';
import { type Stack, startStack } from '../../dev/stack.ts';
import { printError, runTool } from '../../src/process/run-tool.ts';
import { paymentQueues } from '../../src/queue/shards.ts';
import { sql } from '../support/services.ts';
import { countShards, failedIn } from '../support/shards.ts';

/**
 * `make outage`: long outages with a long queue. Shows that they are calm: hardly a command in Redis, hardly any CPU in the
 * worker, nothing lost, no dead letter, and payments again within a second of the recovery.
 *
 * OUTAGE_SECONDS (120) for the gateways' outages; PostgreSQL is down for a quarter of it. OUTAGE_QUEUED (20000) payments wait,
 * in CHAOS_SHARDS (1) shards.
 */
const SECONDS = Number(process.env['OUTAGE_SECONDS'] ?? 120);
const QUEUED = Number(process.env['OUTAGE_QUEUED'] ?? 20_000);

/** The aims: commands in Redis a second, share of a core, ms from the recovery to the first payment. */
const AIMS = { commandsPerSecond: 200, cpuShare: 0.05, resumedMs: 1_000 };

const { shards: SHARDS } = paymentQueues({ name: 'payments', shards: Number(process.env['CHAOS_SHARDS'] ?? 1) });

interface Calm {
  readonly what: string;
  readonly commandsPerSecond: number;
  readonly cpuShare: number;
  readonly resumedMs: number;
  /** From the recovery until the queue was empty. */
  readonly drainedMs: number;
  /** Payments that reached a gateway while they must not. */
  readonly sentMeanwhile: number;
}

interface Outage {
  readonly what: string;
  /** Whether the gateways are up and must get no payment all the same. */
  readonly mustSendNothing?: boolean;
  /** Whether the outage makes a gateway forget what it has paid. */
  readonly forgetsPayments?: boolean;
  readonly seconds: number;
  begin(): Promise<void>;
  end(): Promise<void>;
}

async function main(): Promise<number> {
  const stack = await startStack({
    apiPorts: [await freePort()],
    workers: 1,
    // Nothing stands in front of the simulated gateways: an empty 500 is their own.
    env: {
      PAYMENT_QUEUE_MAX_CONCURRENCY: '48',
      GATEWAY_EMPTY_500: 'refused',
      QUEUE_SHARDS: String(SHARDS.length),
    },
    say: (line) => console.log(`  ${line}`),
  });
  const both = [stack.primary, stack.fallback];
  const down = (gateways: readonly ServiceProcess[]) => async () => {
    for (const gateway of gateways) await gatewayAdmin(gateway.url!).configure({ delayMs: 0, failure: true });
  };
  const up = (gateways: readonly ServiceProcess[]) => async () => {
    for (const gateway of gateways) await gatewayAdmin(gateway.url!).configure({ delayMs: 0, failure: false });
  };
  const outages: Outage[] = [
    { what: 'primary responds 500', seconds: SECONDS, begin: down([stack.primary]), end: up([stack.primary]) },
    { what: 'both gateways respond 500', seconds: SECONDS, begin: down(both), end: up(both) },
    {
      what: 'primary is down',
      forgetsPayments: true,
      seconds: SECONDS,
      begin: () => stack.primary.kill(),
      // Its payments are lost with it.
      end: () => stack.primary.start(),
    },
    {
      what: 'PostgreSQL is down',
      mustSendNothing: true,
      seconds: SECONDS / 4,
      begin: () => stack.postgres!.stop(),
      end: () => stack.postgres!.start(),
    },
  ];
  try {
    const results: Calm[] = [];
    let areBooksRight = true;
    for (const outage of outages) {
      await purge(stack);
      const load = createLoad({ urls: [stack.apis[0]!.url!], amount: 19.9 });
      results.push(await sitThrough(stack, outage, load));
      areBooksRight = (await check(stack, load)) && areBooksRight;
      load.close();
    }
    const isCalm = report(results);
    console.log(areBooksRight ? '\nNothing was lost, paid twice or left unrecorded; no dead letters.' : '\nBREACH');
    return isCalm && areBooksRight ? 0 : 1;
  } finally {
    await stack.stop();
  }
}

async function sitThrough(stack: Stack, outage: Outage, load: ReturnType<typeof createLoad>): Promise<Calm> {
  const redis = new Redis(stack.redisUrl);
  const worker = stack.workers[0]!;
  await outage.begin();
  for (let posted = 0; posted < QUEUED; posted += 200)
    await Promise.all(Array.from({ length: Math.min(200, QUEUED - posted) }, () => load.post()));
  // By then the last attempts have ended.
  await sleep(3_000);
  const paidBefore = await countPaid(stack);
  const [commandsBefore, cpuBefore, startedAt] = [await commands(redis), cpuMicros(worker.pid), performance.now()];
  await sleep(outage.seconds * 1_000);
  const elapsedMs = performance.now() - startedAt;
  const commandsPerSecond = ((await commands(redis)) - commandsBefore) / (elapsedMs / 1_000);
  const cpuShare = (cpuMicros(worker.pid) - cpuBefore) / (elapsedMs * 1_000);
  const paidMeanwhile = await countPaid(stack);
  const sentMeanwhile = outage.mustSendNothing ? paidMeanwhile - paidBefore : 0;
  const paidUntilNow = outage.forgetsPayments ? 0 : paidMeanwhile;
  await outage.end();
  const recoveredAt = performance.now();
  while ((await countPaid(stack)) === paidUntilNow) await sleep(10);
  const resumedMs = performance.now() - recoveredAt;
  while ((await countQueued(redis)) > 0) await sleep(50);
  const drainedMs = performance.now() - recoveredAt;
  redis.disconnect();
  return { what: outage.what, commandsPerSecond, cpuShare, resumedMs, drainedMs, sentMeanwhile };
}

async function check(stack: Stack, { report }: ReturnType<typeof createLoad>): Promise<boolean> {
  const redis = new Redis(stack.redisUrl);
  const deadLetters = await failedIn(redis, SHARDS);
  redis.disconnect();
  const breaches = audit(await readBooks(stack, report));
  if (isBreached(breaches)) console.log(JSON.stringify(breaches, null, 2));
  return !isBreached(breaches) && deadLetters.length === 0 && report.accepted.size === QUEUED;
}

function report(results: readonly Calm[]): boolean {
  console.log(`\n| outage, ${QUEUED} queued | Redis commands/s | worker CPU | resumed | drained | sent meanwhile |`);
  console.log('| --- | --- | --- | --- | --- | --- |');
  let isCalm = true;
  for (const { what, commandsPerSecond, cpuShare, resumedMs, drainedMs, sentMeanwhile } of results) {
    const isKept =
      commandsPerSecond < AIMS.commandsPerSecond &&
      cpuShare < AIMS.cpuShare &&
      resumedMs < AIMS.resumedMs &&
      sentMeanwhile === 0;
    isCalm &&= isKept;
    console.log(
      `| ${what} | ${commandsPerSecond.toFixed(0)} | ${(cpuShare * 100).toFixed(1)} % | ${resumedMs.toFixed(0)} ms | ${(drainedMs / 1000).toFixed(1)} s | ${sentMeanwhile} | ${isKept ? '' : 'MISSED'}`,
    );
  }
  return isCalm;
}

/** Commands that Redis has carried out, those of scripts included. This question is one of them. */
async function commands(redis: Redis): Promise<number> {
  return Number(/total_commands_processed:(\d+)/.exec(await redis.info('stats'))![1]);
}

async function countQueued(redis: Redis): Promise<number> {
  const { size, inFlight } = await countShards(redis, SHARDS);
  return size + inFlight;
}

/** Payments on record at both gateways; none at one that is down. */
async function countPaid(stack: Stack): Promise<number> {
  const counts = await Promise.all(
    [stack.primary, stack.fallback].map(({ url }) =>
      gatewayAdmin(url!)
        .totals()
        .then(
          ({ totalRequests }) => totalRequests,
          () => 0,
        ),
    ),
  );
  return counts[0]! + counts[1]!;
}

async function purge(stack: Stack): Promise<void> {
  for (const { url } of [stack.primary, stack.fallback]) {
    await gatewayAdmin(url!).purge();
  }
  const redis = new Redis(stack.redisUrl);
  await redis.flushall();
  redis.disconnect();
  await sql(stack.databaseUrl, 'TRUNCATE payments');
}

runTool(import.meta, main, { onError: printError });
