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

/** The queue and the processes at it, at one moment. */
export interface QueueState {
  /** By Redis' clock, in ms. */
  readonly nowMs: number;
  /** What the cap counts: waiting, delayed and prioritized. */
  readonly size: number;
  readonly waiting: number;
  readonly delayed: number;
  /** Taken by a worker. */
  readonly inFlight: number;
  readonly isPaused: boolean;
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
  /** Undefined when Redis has no limit, or when we may not read it. */
  readonly memory: { readonly usedBytes: number; readonly maxBytes: number } | undefined;
  /** Of all live processes. */
  readonly heartbeats: readonly Heartbeat[];
  /** Why the heartbeats could not be read, such as a missing right to their keys; undefined when they could. */
  readonly heartbeatFault: Failure | undefined;
}

export interface QueueWatch {
  /** One script, so that all of it is of one moment. @throws QueueUnavailableError */
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

export function createQueueWatch({ redis, queue }: { redis: Redis | Cluster; queue: PaymentQueueName }): QueueWatch {
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

  return {
    async read() {
      try {
        return toQueueState(await readQueueState(...keys, ...args));
      } catch (cause) {
        const { detail } = explainRedisError(cause);
        throw new QueueUnavailableError(`could not read the queue: ${detail}`, { cause, retryAfterSeconds: 1 });
      }
    },
  };
}

function toQueueState(reply: Reply): QueueState {
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
  const isPaused = paused === 1;
  const { gateways: steering, pausedBy } = parseSteering(steered);
  return {
    nowMs,
    size: waiting + delayed,
    waiting,
    delayed,
    inFlight: active,
    isPaused,
    pausedBy: isPaused ? pausedBy : undefined,
    steering,
    oldestMs: ageMs(oldest),
    unresolved: { primary: unresolved(primary), fallback: unresolved(fallback) },
    memory: readMemory(info),
    heartbeats: heartbeats.map(parseHeartbeat).filter((heartbeat) => heartbeat !== undefined),
    heartbeatFault: fault === '' ? undefined : explainRedisError(replyError(fault)),
  };
}

/** An error reply that a script has caught, as ioredis would throw it. */
function replyError(message: string): Error {
  return Object.assign(new Error(message), { name: 'ReplyError' });
}
