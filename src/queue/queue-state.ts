import type { Cluster, Redis } from 'ioredis';
import { QueueUnavailableError } from '../errors.ts';
import type { GatewayName } from '../payment.ts';
import type { Failure } from '../process/outage-log.ts';
import type { Heartbeat } from '../telemetry/heartbeat.ts';
import {
  heartbeatKey,
  heartbeatsKey,
  type PaymentQueueName,
  queueKey,
  steeringKey,
  unresolvedKey,
} from './bullmq-layout.ts';
import { readMemory } from './memory-headroom.ts';
import { parseHeartbeat } from './parse-heartbeat.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineScript } from './scripts.ts';
import { parseSteering, type SteeredBy, type Steering } from './steering.ts';

/** The queue and the processes at it: each shard, and its home, at one moment of its own. */
export interface QueueState {
  /** By Redis' clock, in ms. */
  readonly nowMs: number;
  /** What the cap counts: waiting, delayed and prioritized. */
  readonly size: number;
  readonly waiting: number;
  readonly delayed: number;
  /** Taken by a worker. */
  readonly inFlight: number;
  /** At least one shard is paused. bull-board can pause one alone. */
  readonly isPaused: boolean;
  /** In the order of the shards. Those that give no usable reply are in none of the sums. */
  readonly shards: readonly ShardState[];
  /** Who paused the queue, and why. Undefined while it is not paused, or when nobody said so. */
  readonly pausedBy: SteeredBy | undefined;
  /** What operators have decided about the gateways. */
  readonly steering: Steering;
  /**
   * The age of the oldest payment, in ms; 0 without one. Looks at the next ones to be taken, and at the oldest that were
   * delayed, taken or noted as unresolved: a bounded number, so a payment that was requeued into a long queue shows late.
   */
  readonly oldestMs: number;
  /** Payments that only this gateway may get, and for how long the oldest has been one. */
  readonly unresolved: Readonly<Record<GatewayName, { readonly count: number; readonly oldestMs: number }>>;
  /** Of the server with the least room. Undefined when no Redis has a limit, or when we may not read it. */
  readonly memory: { readonly usedBytes: number; readonly maxBytes: number } | undefined;
  /** Of all live processes. */
  readonly heartbeats: readonly Heartbeat[];
  /** Why the heartbeats could not be read, such as a missing right to their keys; undefined when they could. */
  readonly heartbeatFault: Failure | undefined;
}

export type ShardState =
  | { readonly size: number; readonly isPaused: boolean; readonly failure?: undefined }
  /** Why the shard gives no usable reply. */
  | { readonly failure: Failure };

export interface QueueWatch {
  /**
   * One script for each shard, so that all of it is of one moment.
   * @throws QueueUnavailableError when the home, which has the heartbeats and the steering, or every shard gives no usable reply
   */
  read(): Promise<QueueState>;
}

/** How many jobs of a list to look at for the oldest. Payments are taken in order, so the oldest is most often the first. */
const LOOK_AT = 10;

/** Far more than any relay has processes. */
const MAX_HEARTBEATS = 500;

type Unresolved = [count: number, since: string];

type Reply = [
  nowMs: string,
  waiting: number,
  active: number,
  delayed: number,
  prioritized: number,
  isPaused: 0 | 1,
  oldest: string,
  unresolved: [primary: Unresolved, fallback: Unresolved],
  info: string,
  heartbeats: string[],
  heartbeatFault: string,
  steering: (string | null)[],
];

/** @param shards the queues of the payments, if they are not in `queue` itself, the relay's home */
export function createQueueWatch({
  redis,
  queue,
  shards = [queue],
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  shards?: readonly PaymentQueueName[];
}): QueueWatch {
  const [readHome, ...readShards] = [queue, ...shards.filter((shard) => shard !== queue)].map((each) =>
    partReader(redis, each),
  ) as [() => Promise<Part>, ...(() => Promise<Part>)[]];

  return {
    async read() {
      const [home, ...others] = (await Promise.allSettled([readHome(), ...readShards.map((read) => read())])) as [
        Reading,
        ...Reading[],
      ];
      try {
        if (home.status === 'rejected') throw home.reason;
        return toQueueState(home.value, others.length > 0 ? others : [home]);
      } catch (cause) {
        const { detail } = explainRedisError(cause);
        throw new QueueUnavailableError(`could not read the queue: ${detail}`, { cause, retryAfterSeconds: 1 });
      }
    },
  };
}

/** What one queue has. */
interface Part
  extends Pick<
      QueueState,
      'nowMs' | 'size' | 'waiting' | 'delayed' | 'inFlight' | 'isPaused' | 'oldestMs' | 'unresolved'
    >,
    Pick<QueueState, 'memory' | 'heartbeats' | 'heartbeatFault'> {
  readonly steering: ReturnType<typeof parseSteering>;
}

type Reading = PromiseSettledResult<Part>;

function partReader(redis: Redis | Cluster, queue: PaymentQueueName): () => Promise<Part> {
  const keys = [
    ...['wait', 'active', 'delayed', 'prioritized'].map((type) => queueKey(queue, type)),
    unresolvedKey(queue, 'primary'),
    unresolvedKey(queue, 'fallback'),
    queueKey(queue, 'meta'),
  ];
  const args = [
    ...[queueKey(queue, ''), heartbeatsKey(queue), heartbeatKey(queue, ''), LOOK_AT, MAX_HEARTBEATS],
    steeringKey(queue),
  ];
  const readQueueState = defineScript<Reply>(redis, 'read-queue-state', keys.length);
  return async () => toPart(await readQueueState(...keys, ...args));
}

function toPart(reply: Reply): Part {
  const [
    now,
    wait,
    active,
    delayed,
    prioritized,
    paused,
    oldest,
    [primary, fallback],
    info,
    heartbeats,
    fault,
    steered,
  ] = reply;
  const nowMs = Number(now);
  // A job's time may be that of another clock, as after a failover.
  const ageMs = (since: string) => (since === '' ? 0 : Math.max(0, nowMs - Number(since)));
  const unresolved = ([count, since]: Unresolved) => ({ count, oldestMs: ageMs(since) });
  const waiting = wait + prioritized;
  return {
    nowMs,
    size: waiting + delayed,
    waiting,
    delayed,
    inFlight: active,
    isPaused: paused === 1,
    oldestMs: ageMs(oldest),
    unresolved: { primary: unresolved(primary), fallback: unresolved(fallback) },
    memory: readMemory(info),
    heartbeats: heartbeats.map(parseHeartbeat).filter((heartbeat) => heartbeat !== undefined),
    heartbeatFault: fault === '' ? undefined : explainRedisError(replyError(fault)),
    steering: parseSteering(steered),
  };
}

/** @throws the first failure, when no shard replies */
function toQueueState(home: Part, replies: readonly Reading[]): QueueState {
  const parts = replies.flatMap((reply) => (reply.status === 'fulfilled' ? [reply.value] : []));
  const [first] = replies;
  if (parts.length === 0 && first?.status === 'rejected') throw first.reason;
  const sum = (of: (part: Part) => number) => parts.reduce((total, part) => total + of(part), 0);
  const oldest = (of: (part: Part) => number) => Math.max(...parts.map(of));
  const unresolvedAt = (gateway: GatewayName) => ({
    count: sum(({ unresolved }) => unresolved[gateway].count),
    oldestMs: oldest(({ unresolved }) => unresolved[gateway].oldestMs),
  });
  const isPaused = parts.some((part) => part.isPaused);
  return {
    nowMs: home.nowMs,
    size: sum(({ size }) => size),
    waiting: sum(({ waiting }) => waiting),
    delayed: sum(({ delayed }) => delayed),
    inFlight: sum(({ inFlight }) => inFlight),
    isPaused,
    pausedBy: isPaused ? home.steering.pausedBy : undefined,
    steering: home.steering.gateways,
    oldestMs: oldest(({ oldestMs }) => oldestMs),
    unresolved: { primary: unresolvedAt('primary'), fallback: unresolvedAt('fallback') },
    memory: [home, ...parts].flatMap(({ memory }) => memory ?? []).toSorted(byRoom)[0],
    heartbeats: home.heartbeats,
    heartbeatFault: home.heartbeatFault,
    shards: replies.map(shardState),
  };
}

function shardState(reply: Reading): ShardState {
  if (reply.status === 'rejected') return { failure: explainRedisError(reply.reason) };
  const { size, isPaused } = reply.value;
  return { size, isPaused };
}

/** The fullest first. */
function byRoom(a: NonNullable<QueueState['memory']>, b: NonNullable<QueueState['memory']>): number {
  return b.usedBytes / b.maxBytes - a.usedBytes / a.maxBytes;
}

/** An error reply that a script has caught, as ioredis would throw it. */
function replyError(message: string): Error {
  return Object.assign(new Error(message), { name: 'ReplyError' });
}
