import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster, Redis } from 'ioredis';
import { audit, type Breaches, isBreached, readBooks, readDeadLetters } from '../../dev/audit.ts';
import type { PaymentQueueName } from '../../src/queue/bullmq-layout.ts';
import { queueKey } from '../../src/queue/bullmq-layout.ts';
import { createWorkerConnection } from '../../src/queue/redis.ts';
import { shardOf } from '../../src/queue/shards.ts';
import { countShards, failedIn } from '../support/shards.ts';
import type { Stage } from './faults.ts';
import type { Account } from './torment.ts';

/** The first guarantee's time (README, "Guarantees"). */
const DRAIN_MS = 60_000;

export interface ChaosBreaches extends Breaches {
  /** Valid payments among the dead letters. Faults alone must never make one. */
  readonly buried: readonly string[];
}

export interface Verdict {
  readonly isKept: boolean;
  /** The run's row of the table, by column. */
  readonly row: Readonly<Record<string, string | number>>;
  readonly breaches: ChaosBreaches;
  /**
   * How many of the lost payments are still in the queue: they are late. Then the jobs of lost payments and of those in the queue,
   * at most {@link SHOWN} of each.
   */
  readonly jobs: readonly string[];
}

/** How many ids of a kind are printed. */
const SHOWN = 10;

/**
 * Waits until the queue is empty or the guarantee's time is over, then compares the books.
 * @throws an Error when no fault was injected or no payment accepted: such a run shows nothing.
 */
export async function reachVerdict(
  { stack, queues: { shards }, redis: config }: Stage,
  account: Account,
): Promise<Verdict> {
  if (account.faults === 0) throw new Error('the run has injected no fault');
  if (account.load.accepted.size === 0) throw new Error('the run has had no payment accepted');
  const redis = createWorkerConnection(config);
  redis.on('error', () => {});
  try {
    const drainedInMs = await drain(redis, shards);
    const { load, invalid, failures } = account;
    const books = await readBooks(stack, load, invalid);
    const deadLetters = await readDeadLetters(stack.databaseUrl, await failedIn(redis, shards));
    const breaches = { ...audit(books), buried: [...deadLetters].filter((id) => !invalid.has(id)) };
    const isDrained = drainedInMs < DRAIN_MS;
    const row = {
      faults: account.faults,
      released: account.released.size,
      accepted: load.accepted.size,
      unknown: [...load.unknown].filter((id) => !load.accepted.has(id)).length,
      'queue full': load.notAccepted.size,
      primary: books.gateways.primary.size,
      fallback: books.gateways.fallback.size,
      'invalid dead': [...deadLetters].filter((id) => invalid.has(id)).length,
      lost: breaches.lost.length,
      'paid twice': breaches.paidTwice.length,
      unrecorded: breaches.unrecorded.length,
      'unpaid rows': breaches.unpaid.length,
      'buried valid': breaches.buried.length,
      phantom: breaches.phantom.length,
      failures: failures.length,
      recovery: `${account.longestRecoveryMs.toFixed(0)} ms`,
      drained: isDrained ? `${(drainedInMs / 1000).toFixed(1)} s` : 'NO',
    };
    const left = isDrained ? [] : await readQueued(redis, shards);
    const queued = new Set(left);
    const waiting = breaches.lost.filter((id) => queued.has(id)).length;
    const jobs = waiting > 0 ? [`${waiting} of ${breaches.lost.length} lost payments are still in the queue`] : [];
    for (const id of new Set([...breaches.lost.slice(0, SHOWN), ...left.slice(0, SHOWN)])) {
      const acceptedAtMs = load.acceptedAtMs.get(id);
      const accepted =
        acceptedAtMs === undefined
          ? 'has no known response'
          : `was accepted at ${((acceptedAtMs - account.startedAtMs) / 1000).toFixed(2)} s`;
      jobs.push(
        `${id} ${accepted}; its job: ${JSON.stringify(await redis.hgetall(queueKey(shards[shardOf(id, shards.length)]!, id)))}`,
      );
    }
    return { isKept: !isBreached(breaches) && failures.length === 0 && isDrained, row, breaches, jobs };
  } finally {
    redis.disconnect();
  }
}

/** @returns how long it took, in ms: the guarantee's time or more when the queue is not empty */
async function drain(redis: Redis | Cluster, shards: readonly PaymentQueueName[]): Promise<number> {
  const startedAtMs = performance.now();
  const elapsedMs = () => performance.now() - startedAtMs;
  while (elapsedMs() < DRAIN_MS) {
    const { size, inFlight } = await countShards(redis, shards);
    if (size + inFlight === 0) break;
    await sleep(50);
  }
  return elapsedMs();
}

/** The ids of all jobs that wait or are in flight. */
async function readQueued(redis: Redis | Cluster, shards: readonly PaymentQueueName[]): Promise<string[]> {
  const ofShard = (shard: PaymentQueueName) => [
    ...['wait', 'active'].map((list) => redis.lrange(queueKey(shard, list), 0, -1)),
    ...['delayed', 'prioritized'].map((set) => redis.zrange(queueKey(shard, set), 0, -1)),
  ];
  return (await Promise.all(shards.flatMap(ofShard))).flat();
}

/** Runs as a table with a column for each count. */
export function formatRows(rows: readonly Readonly<Record<string, string | number>>[]): string {
  const columns = Object.keys(rows[0] ?? {});
  const widths = columns.map((column) => Math.max(column.length, ...rows.map((row) => String(row[column]).length)));
  const line = (cells: readonly (string | number)[]) =>
    cells.map((cell, index) => String(cell).padStart(widths[index]!)).join('  ');
  return [line(columns), ...rows.map((row) => line(columns.map((column) => row[column]!)))].join('\n');
}

/** The ids of each kind of breach, and the jobs of payments that are lost or still in the queue. */
export function describeBreaches({ breaches, jobs }: Verdict): string {
  const lines = Object.entries(breaches as unknown as Record<string, readonly string[]>)
    .filter(([, ids]) => ids.length > 0)
    .map(
      ([kind, ids]) => `  ${kind} (${ids.length}): ${ids.slice(0, SHOWN).join(', ')}${ids.length > SHOWN ? ', …' : ''}`,
    );
  return [...lines, ...jobs.map((job) => `  ${job}`)].join('\n');
}
