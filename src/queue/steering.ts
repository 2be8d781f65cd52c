import type { Cluster, Redis } from 'ioredis';
import { QueueUnavailableError } from '../errors.ts';
import type { GatewayName } from '../payment.ts';
import { type PaymentQueueName, steeringKey } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';

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
  /** ISO 8601. */
  readonly at: string;
}

export interface Steered {
  readonly state: SteeringState;
  /** Undefined while it is open. */
  readonly by?: SteeredBy;
}

export type Steering = Readonly<Record<GatewayName, Steered>>;

/** Writes the decisions. Each replaces the one before. @throws QueueUnavailableError */
export interface SteeringStore {
  read(): Promise<Steering>;
  set(gateway: GatewayName, state: SteeringState, by: SteeredBy): Promise<void>;
  /**
   * Notes who paused the queue and why. BullMQ's own flag says whether it is paused, so a note that is older than that pause
   * means nothing. Undefined: it was resumed.
   */
  notePause(by: SteeredBy | undefined): Promise<void>;
}

/** The fields of the hash, in the order of {@link parseSteering}. */
export const STEERING_FIELDS = ['primary', 'fallback', 'pause'] as const;

export function createSteering({ redis, queue }: { redis: Redis | Cluster; queue: PaymentQueueName }): SteeringStore {
  const key = steeringKey(queue);

  async function ask<T>(command: () => Promise<T>): Promise<T> {
    try {
      return await command();
    } catch (cause) {
      const { detail } = explainRedisError(cause);
      throw new QueueUnavailableError(`could not steer: ${detail}`, { cause, retryAfterSeconds: 1 });
    }
  }

  const write = (field: (typeof STEERING_FIELDS)[number], text: string) =>
    ask(async () => {
      await redis.hset(key, field, text);
    });

  return {
    read: () => ask(async () => parseSteering(await redis.hmget(key, ...STEERING_FIELDS)).gateways),
    set: (gateway, state, by) => write(gateway, JSON.stringify({ state, by } satisfies Steered)),
    notePause: (by) => write('pause', by === undefined ? '' : JSON.stringify(by)),
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
    pausedBy: pause ? byOf(parsed(pause)) : undefined,
  };
}

const OPEN: Steered = { state: 'open' };

function steeredOf(text: string | null | undefined): Steered {
  if (!text) return OPEN;
  const value = parsed(text);
  const by = byOf(value['by']) ?? { who: 'somebody', reason: `unreadable: ${text}`, at: new Date().toISOString() };
  if (value['state'] === 'open') return OPEN;
  return { state: value['state'] === 'draining' ? 'draining' : 'stopped', by };
}

function byOf(value: unknown): SteeredBy | undefined {
  const { who, reason, at } = fieldsOf(value);
  if (typeof who !== 'string' || typeof at !== 'string' || Number.isNaN(Date.parse(at))) return undefined;
  return { who, reason: typeof reason === 'string' ? reason : undefined, at };
}

function parsed(text: string): Readonly<Record<string, unknown>> {
  try {
    return fieldsOf(JSON.parse(text));
  } catch {
    return {};
  }
}

function fieldsOf(value: unknown): Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {};
}
