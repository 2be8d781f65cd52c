import type { Cluster, Redis } from 'ioredis';
import { QueueUnavailableError } from '../errors.ts';
import type { GatewayName } from '../payment.ts';
import { type PaymentQueueName, steeringKey } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineWrite, type ReplicatedWriter } from './replicated-writer.ts';

/**
 * What operators have decided about the gateways and the queue, in Redis. Every worker reads it, and follows it within a second.
 *
 * | state    | new payments | payments that only this gateway may get |
 * |----------|--------------|------------------------------------------|
 * | open     | sent         | sent                                     |
 * | draining | not sent     | sent, until none is left                 |
 * | stopped  | not sent     | not sent; they wait in the queue         |
 */
export type SteeringState = 'open' | 'draining' | 'stopped';

/** Who has decided it, why and when. */
export interface SteeredBy {
  readonly who: string;
  readonly reason: string | undefined;
  /** ISO 8601, by Redis' clock. */
  readonly at: string;
}

export interface Steered {
  readonly state: SteeringState;
  /** Undefined while it is open. */
  readonly by?: SteeredBy;
}

export type Steering = Readonly<Record<GatewayName, Steered>>;

/** Who decides, and why. Redis stamps the time. */
export type Decider = Pick<SteeredBy, 'who' | 'reason'>;

/** Writes the decisions. Each replaces the one before. @throws QueueUnavailableError after which it may be written */
export interface SteeringStore {
  read(): Promise<Steering>;
  /** @returns what every worker follows from now on */
  set(gateway: GatewayName, state: SteeringState, by: Decider): Promise<Steered>;
  /**
   * Notes who pauses the queue. BullMQ's own flag says whether it is paused, so a note means nothing otherwise.
   * Undefined: nobody says so.
   */
  notePause(by: Decider | undefined): Promise<void>;
}

/** The fields of the hash, in the order of {@link parseSteering}. */
export const STEERING_FIELDS = ['primary', 'fallback', 'pause'] as const;

/** @param writer with `DURABILITY=replica`: a failover must not open a stopped gateway again */
export function createSteering({
  redis,
  queue,
  writer,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  writer?: ReplicatedWriter | undefined;
}): SteeringStore {
  const key = steeringKey(queue);
  const setSteering = defineWrite<string>({ redis, writer }, 'set-steering', 1);

  async function ask<T>(command: () => Promise<T>): Promise<T> {
    try {
      return await command();
    } catch (cause) {
      const { detail } = explainRedisError(cause);
      throw new QueueUnavailableError(`could not steer: ${detail}`, { cause, retryAfterSeconds: 1 });
    }
  }

  return {
    read: () => ask(async () => parseSteering(await redis.hmget(key, ...STEERING_FIELDS)).gateways),
    set: (gateway, state, { who, reason }) =>
      ask(async () => steeredOf(await setSteering(key, gateway, JSON.stringify({ state, who, reason })))),
    notePause: (by) =>
      ask(async () => {
        if (by === undefined) await redis.hset(key, 'pause', '');
        else await setSteering(key, 'pause', JSON.stringify(by));
      }),
  };
}

/**
 * Reads the fields as they are in Redis. What is not there was never decided: open. What cannot be read is stopped, because a
 * payment that waits is safe.
 */
export function parseSteering([primary, fallback, pause]: readonly (string | null | undefined)[]): {
  readonly gateways: Steering;
  readonly pausedBy: SteeredBy | undefined;
} {
  return {
    gateways: { primary: steeredOf(primary), fallback: steeredOf(fallback) },
    pausedBy: pause ? byOf(fieldsOf(pause)) : undefined,
  };
}

function steeredOf(text: string | null | undefined): Steered {
  if (!text) return { state: 'open' };
  const fields = fieldsOf(text);
  const { state } = fields;
  if (state === 'open') return { state };
  const by = byOf(fields) ?? { who: 'somebody', reason: `not readable: ${text}`, at: new Date(0).toISOString() };
  return { state: state === 'draining' ? state : 'stopped', by };
}

function byOf({ who, reason, at }: Readonly<Record<string, unknown>>): SteeredBy | undefined {
  if (typeof who !== 'string' || typeof at !== 'number') return undefined;
  return { who, reason: typeof reason === 'string' ? reason : undefined, at: new Date(at).toISOString() };
}

function fieldsOf(text: string): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}
