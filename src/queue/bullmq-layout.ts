import type { Job } from 'bullmq';
import type { Cluster, Redis } from 'ioredis';
import type { GatewayName } from '../payment.ts';

/**
 * What we know of BullMQ's layout in Redis (the pinned version) beyond its API. Only this file and the scripts in `scripts/`
 * know it.
 */

/** What producer and worker must agree on about the queue. */
export interface PaymentQueueName {
  readonly name: string;
  /** With braces every key of the queue hashes to one slot. Redis Cluster demands that of keys used together. */
  readonly prefix: string;
}

/** The Redis keys of a queue, by BullMQ's names. */
export function queueKey({ name, prefix }: PaymentQueueName, type: string): string {
  return `${prefix}:${name}:${type}`;
}

/** The keys that we use, with their types. A key of another type belongs to another program. */
export const KEY_TYPES: Readonly<Record<string, string>> = {
  wait: 'list',
  active: 'list',
  paused: 'list',
  delayed: 'zset',
  prioritized: 'zset',
  completed: 'zset',
  failed: 'zset',
  marker: 'zset',
  meta: 'hash',
  events: 'stream',
  stalled: 'set',
  id: 'string',
  pc: 'string',
  limiter: 'string',
  'stalled-check': 'string',
  // Ours, not BullMQ's.
  unresolved: 'zset',
  'unresolved-fallback': 'zset',
};

/**
 * The payments that only this gateway may get, by the time when that was first noted. A worker of an earlier version lists
 * those of the fallback under the primary; recall-payments.lua moves them.
 */
export function unresolvedKey(queue: PaymentQueueName, gateway: GatewayName): string {
  return queueKey(queue, gateway === 'primary' ? 'unresolved' : 'unresolved-fallback');
}

/** The list of all heartbeats. What is not of one payment is outside the queue's own keys, so a purge leaves it alone. */
export function heartbeatsKey({ prefix }: PaymentQueueName): string {
  return `${prefix}:heartbeats`;
}

/** The heartbeat of the process with this id. */
export function heartbeatKey({ prefix }: PaymentQueueName, id: string): string {
  return `${prefix}:heartbeat:${id}`;
}

/** The operators' actions that PostgreSQL does not have yet. */
export function outboxKey({ prefix }: PaymentQueueName): string {
  return `${prefix}:late-actions`;
}

/** What operators have decided about the gateways, and why they paused the queue. A purge leaves it alone. */
export function steeringKey({ prefix }: PaymentQueueName): string {
  return `${prefix}:steering`;
}

/** What workers tell each other about the gateways, by worker. */
export function fleetKey({ prefix }: PaymentQueueName): string {
  return `${prefix}:fleet`;
}

/** The right to probe a gateway, and what goes with it. */
export function probeKey({ prefix }: PaymentQueueName, name: string): string {
  return `${prefix}:probe:${name}`;
}

/** Since when this server has the queue (epoch.ts). A purge leaves it alone. */
export function epochKey({ prefix }: PaymentQueueName): string {
  return `${prefix}:epoch`;
}

/** The number of shards that a queue is one of. A purge leaves it alone. */
export function shardsKey({ prefix }: PaymentQueueName): string {
  return `${prefix}:shards`;
}

/** The start of the keys of accepted-minutes.ts. */
export function acceptedKey({ prefix }: PaymentQueueName): string {
  return `${prefix}:accepted:`;
}

/** The keys of BullMQ's script addStandardJob, in its order. */
export const ADD_JOB_KEYS = [
  'wait',
  'paused',
  'meta',
  'id',
  'completed',
  'delayed',
  'active',
  'events',
  'marker',
] as const;

/** The hash of a job. */
export function jobKey(queue: PaymentQueueName, id: string): string {
  return queueKey(queue, id);
}

/** Contains the token of the run that owns the job of this key, until the lock expires. */
export function lockKey(key: string): string {
  return `${key}:lock`;
}

/** Whether an operator has paused the queue, in the dashboard for one. */
export async function isPaused(redis: Redis | Cluster, queue: PaymentQueueName): Promise<boolean> {
  return (await redis.hexists(queueKey(queue, 'meta'), 'paused')) === 1;
}

/** Wakes one of the workers that wait for a job, as BullMQ does for each job that is added. */
export async function wakeWorker(redis: Redis | Cluster, queue: PaymentQueueName): Promise<void> {
  await redis.zadd(queueKey(queue, 'marker'), 0, '0');
}

/**
 * BullMQ counts every start of a job (`ats`), and every end by an ordinary error (`atm`). A run that ends with an unknown or
 * doubtful attempt is requeued in a way that BullMQ does not count, and a run that died is not counted either. So the numbers
 * match exactly if every earlier run has ended, and ended clean.
 * @returns the runs before this one, and how many of them did not end clean
 */
export function runsOf({ attemptsStarted, attemptsMade }: Job): { readonly runs: number; readonly notClean: number } {
  const runs = attemptsStarted - 1;
  return { runs, notClean: runs - attemptsMade };
}

/** The binding is the job's progress: the client cannot write it, the dashboard shows it, and it survives a retry. */
interface Binding {
  readonly gateway?: GatewayName;
}

/** The gateway that a payment is bound to. */
export function boundGateway({ progress }: Job): GatewayName | undefined {
  return (progress as Binding | undefined)?.gateway;
}

/** The binding as it is stored. */
export function bindingText(gateway: GatewayName): string {
  return JSON.stringify({ gateway } satisfies Binding);
}

/** The fields of a job. What the job has lost, or never had, is undefined. */
export interface JobFields {
  /** The payload's JSON text. */
  readonly data: string | undefined;
  readonly failedReason: string | undefined;
  readonly timestamp: Date | undefined;
  readonly finishedOn: Date | undefined;
  /** Runs started, as the text that `buried` is compared with. */
  readonly runs: string | undefined;
  /**
   * Runs that did not end clean. A failed job's last run, its death, is counted like every end. The run of a job that a
   * worker has taken is among them: it has not ended.
   */
  readonly notClean: number;
  readonly isBoundToFallback: boolean;
  /** Ours: `runs` at the time when its row was committed. */
  readonly buried: string | undefined;
}

/** @param values in the order of scripts/list-failed-payments.lua and find-payment.lua */
export function readJobFields(values: readonly (string | null)[]): JobFields {
  const [data, failedReason, timestamp, finishedOn, runs, counted, progress, buried] = values;
  const time = (text: string | null | undefined) => (text ? new Date(Number(text)) : undefined);
  return {
    data: data ?? undefined,
    failedReason: failedReason ?? undefined,
    timestamp: time(timestamp),
    finishedOn: time(finishedOn),
    runs: runs ?? undefined,
    notClean: Number(runs ?? 0) - Number(counted ?? 0),
    isBoundToFallback: progress?.includes('"fallback"') ?? false,
    buried: buried ?? undefined,
  };
}
