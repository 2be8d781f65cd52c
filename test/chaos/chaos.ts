import { randomUUID } from 'node:crypto';
import { request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Redis } from 'ioredis';
import { countPayments, QUEUE_PREFIX, queueKey } from '../../src/queue/payment-queue.ts';
import { audit, type Breaches, isBreached, readBooks } from '../../tools/audit.ts';
import { createLoad, type LoadReport } from '../../tools/load.ts';
import { freePort } from '../../tools/servers.ts';
import { type Stack, startStack } from '../../tools/stack.ts';
import { createTcpProxy, type TcpProxy } from '../../tools/tcp-proxy.ts';
import { createFaults, type Proxies } from './faults.ts';
import { createRandom, type Random } from './random.ts';

/**
 * `make chaos`: a stack of real processes under constant load and random faults, then calm, then the verdict.
 *
 * CHAOS_SECONDS: how long faults are injected (default 120). CHAOS_SEED: repeats a sequence of faults.
 * CHAOS_APPENDFSYNC (always): how Redis keeps what it is told. With `everysec` a killed Redis may lose what it took while
 * its disk was late (README, "Durability"), which the verdict then shows as lost.
 * CHAOS_BREAK_RULE=1: runs workers without the rule that keeps a payment paid once; the verdict must be a breach.
 */
const SECONDS = Number(process.env['CHAOS_SECONDS'] ?? 120);
const SEED = Number(process.env['CHAOS_SEED'] ?? Math.floor(Math.random() * 1e6));
const BREAK_RULE = process.env['CHAOS_BREAK_RULE'] === '1';
const APPENDFSYNC = process.env['CHAOS_APPENDFSYNC'] ?? 'always';
const PAYMENTS_PER_SECOND = 150;
/** The first guarantee's time (README, "Guarantees"). */
const DRAIN_MS = 60_000;

const QUEUE = { name: 'payments', prefix: QUEUE_PREFIX };

/** The rule's three variants: which one a run has is drawn by its seed. */
const POLICIES = [
  { FALLBACK_ON: 'pool_timeout' },
  { FALLBACK_ON: 'not_sent' },
  { FALLBACK_ON: 'pool_timeout', FALLBACK_AFTER_MS: '1500' },
] as const;

interface Account {
  readonly load: LoadReport;
  readonly invalid: Set<string>;
  longestRecoveryMs: number;
  faults: number;
  readonly startedAtMs: number;
}

async function main(): Promise<number> {
  const random = createRandom(SEED);
  // Which of the rule's variants shows its absence soonest.
  const policy = BREAK_RULE ? POLICIES[2] : random.pick(POLICIES);
  const proxies: Partial<Record<keyof Proxies, TcpProxy>> = {};
  const preload = ['clock-shift.ts', ...(BREAK_RULE ? ['break-the-rule.ts'] : [])];
  console.log(
    `chaos: seed ${SEED}, ${SECONDS} s, ${JSON.stringify(policy)}, appendfsync ${APPENDFSYNC}${BREAK_RULE ? ', the rule is broken' : ''}`,
  );
  const logs: string[] = [];
  const stack = await startStack({
    apiPorts: [await freePort(), await freePort()],
    workers: 2,
    redisArgs: ['--appendfsync', APPENDFSYNC],
    env: {
      ...policy,
      PAYMENT_QUEUE_MAX_CONCURRENCY: '24',
      // Small enough to be under pressure whenever the primary is slow.
      GATEWAY_POOL_SIZE: '6',
      GATEWAY_POOL_TIMEOUT_MS: '40',
      LOG_LEVEL: process.env['CHAOS_LOG'] ?? 'info',
    },
    nodeArgs: preload.flatMap((file) => ['--import', fileURLToPath(new URL(file, import.meta.url))]),
    through: async (server, port) => {
      proxies[server] = await createTcpProxy(port);
      return proxies[server].port;
    },
    onLine: (service, line) => {
      if (process.env['CHAOS_LOG']) console.log(`    ${service} ${line}`);
      else if (line.includes('"level":"error"') || !line.startsWith('{')) logs.push(`${service} ${line}`);
    },
  });
  try {
    const account = await torment(stack, proxies as Proxies, random);
    const drainedInMs = await drain(stack);
    const isKept = await verdict(stack, account, drainedInMs);
    if (!isKept) console.log(logs.slice(-40).join('\n'));
    return isKept ? 0 : 1;
  } finally {
    await stack.stop();
    for (const proxy of Object.values(proxies)) await proxy.close();
  }
}

/** Load and faults until the time is over; resolves when every fault has been taken back and every post has ended. */
async function torment(stack: Stack, proxies: Proxies, random: Random): Promise<Account> {
  const load = createLoad({ urls: stack.apis.map(({ url }) => url!), amount: 19.9 });
  const account: Account = {
    load: load.report,
    invalid: new Set(),
    longestRecoveryMs: 0,
    faults: 0,
    startedAtMs: performance.now(),
  };
  const faults = createFaults(stack, proxies, random);
  const startedAt = account.startedAtMs;
  const isOver = () => performance.now() - startedAt > SECONDS * 1000;

  const active = new Map<string, Promise<void>>();
  let calmSince = performance.now();
  let paidBefore = 0;
  let isRecovered = true;
  // The time from the end of the last fault to the next payment at a gateway.
  const watch = setInterval(async () => {
    const paid = await Promise.all([stack.primary, stack.fallback].map(({ url }) => countPaid(url!))).catch(
      () => undefined,
    );
    if (!paid) return;
    const total = paid[0]! + paid[1]!;
    if (active.size === 0 && !isRecovered && total > paidBefore) {
      account.longestRecoveryMs = Math.max(account.longestRecoveryMs, performance.now() - calmSince);
      isRecovered = true;
    }
    if (active.size > 0 || total > paidBefore) paidBefore = total;
  }, 100);

  async function injectFaults(): Promise<void> {
    while (!isOver()) {
      await sleep(random.between(0.1, 2.5) * 1000);
      const fault = random.pick(faults);
      if (active.has(fault.on) || active.size >= 3) continue;
      account.faults += 1;
      console.log(`  ${((performance.now() - startedAt) / 1000).toFixed(1).padStart(6)} s  ${fault.name}`);
      active.set(
        fault.on,
        fault.run().finally(() => {
          active.delete(fault.on);
          if (active.size === 0) {
            calmSince = performance.now();
            isRecovered = false;
          }
        }),
      );
    }
    await Promise.all(active.values());
  }

  async function post(): Promise<void> {
    const posts: Promise<unknown>[] = [];
    const recent: string[] = [];
    while (!isOver()) {
      const draw = Math.random();
      if (draw < 0.05 && recent.length > 0) {
        // Long after, when it may have been paid anywhere.
        posts.push(load.post(recent[Math.floor(Math.random() * recent.length)]));
      } else if (draw < 0.08) {
        const id = randomUUID();
        posts.push(load.post(id), load.post(id));
      } else if (draw < 0.1) {
        posts.push(postAndHangUp(stack.apis[0]!.url!, load.report));
      } else if (draw < 0.11) {
        const id = randomUUID();
        account.invalid.add(id);
        posts.push(postInvalid(stack.apis[1]!.url!, id));
      } else {
        const id = randomUUID();
        recent.push(id);
        if (recent.length > 5_000) recent.shift();
        posts.push(load.post(id));
      }
      await sleep(1000 / PAYMENTS_PER_SECOND);
    }
    await Promise.all(posts);
  }

  await Promise.all([injectFaults(), post()]);
  clearInterval(watch);
  load.close();
  return account;
}

/** Posts and is gone before the answer. */
function postAndHangUp(url: string, report: LoadReport): Promise<void> {
  const correlationId = randomUUID();
  report.unknown.add(correlationId);
  return new Promise((resolve) => {
    const outgoing = request(`${url}/payments`, { method: 'POST', headers: { 'content-type': 'application/json' } });
    outgoing.on('error', () => {});
    outgoing.on('close', resolve);
    outgoing.end(JSON.stringify({ correlationId, amount: 5 }), () => outgoing.destroy());
  });
}

async function postInvalid(url: string, correlationId: string): Promise<void> {
  await fetch(`${url}/payments`, {
    method: 'POST',
    body: JSON.stringify({ correlationId, amount: -1 }),
    signal: AbortSignal.timeout(5_000),
  }).catch(() => undefined);
}

async function countPaid(url: string): Promise<number> {
  const response = await fetch(`${url}/admin/payments-summary`, { headers: { 'X-Rinha-Token': '123' } });
  return ((await response.json()) as { totalRequests: number }).totalRequests;
}

/** Waits until the queue is empty. @returns how long it took; the guarantee's time when it was not emptied. */
async function drain(stack: Stack): Promise<number> {
  const redis = new Redis(stack.redisUrl);
  const startedAt = performance.now();
  try {
    while (performance.now() - startedAt < DRAIN_MS) {
      const { size, inFlight } = await countPayments(redis, QUEUE);
      if (size + inFlight === 0) break;
      await sleep(50);
    }
  } finally {
    redis.disconnect();
  }
  return performance.now() - startedAt;
}

async function verdict(stack: Stack, account: Account, drainedInMs: number): Promise<boolean> {
  const redis = new Redis(stack.redisUrl);
  const deadLetters = new Set(await redis.zrange(queueKey(QUEUE, 'failed'), 0, -1));
  const { load } = account;
  const books = await readBooks(stack, load, account.invalid);
  const breaches: Breaches & { readonly buried: readonly string[] } = {
    ...audit(books),
    // Faults alone never make a dead letter.
    buried: [...deadLetters].filter((id) => !account.invalid.has(id)),
  };
  const rows: [string, string | number][] = [
    ['faults injected', account.faults],
    ['accepted', load.accepted.size],
    ['unknown to the client', [...load.unknown].filter((id) => !load.accepted.has(id)).length],
    ['paid at the primary', books.gateways.default.size],
    ['paid at the fallback', books.gateways.fallback.size],
    ['dead letters (invalid payloads)', deadLetters.size],
    ['dead letters by a fault', breaches.buried.length],
    ['lost', breaches.lost.length],
    ['paid twice', breaches.paidTwice.length],
    ['unrecorded', breaches.unrecorded.length + breaches.unpaid.length],
    ['phantom', breaches.phantom.length],
    ['longest recovery', `${account.longestRecoveryMs.toFixed(0)} ms`],
    ['drained in', `${drainedInMs.toFixed(0)} ms`],
  ];
  const width = Math.max(...rows.map(([name]) => name.length));
  console.log(`\n${rows.map(([name, value]) => `  ${name.padEnd(width)}  ${String(value).padStart(9)}`).join('\n')}`);
  const isKept = !isBreached(breaches) && drainedInMs < DRAIN_MS;
  console.log(
    isKept
      ? `\nVerdict: every guarantee held (seed ${SEED}).`
      : `\nVerdict: BREACH (seed ${SEED})\n${JSON.stringify(breaches, null, 2)}`,
  );
  for (const id of breaches.lost) {
    const acceptedAt = ((load.acceptedAtMs.get(id)! - account.startedAtMs) / 1000).toFixed(2);
    console.log(
      `${id} was accepted at ${acceptedAt} s; its job: ${JSON.stringify(await redis.hgetall(queueKey(QUEUE, id)))}`,
    );
  }
  redis.disconnect();
  return isKept;
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    console.error(error);
    process.exit(1);
  },
);
