import type { Cluster, Redis } from 'ioredis';
import type { GatewayName } from '../payment.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog, type Failure } from '../process/outage-log.ts';
import { GATEWAYS } from '../telemetry/labels.ts';
import { type PaymentQueueName, steeringKey } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';
import { parseSteering, STEERING_FIELDS, type Steered } from './steering.ts';

/** Half of the second in which every worker must follow. One HMGET. */
const INTERVAL_MS = 500;

/**
 * A worker whose last reading is older reads it again before it sends anything. It may have been frozen, as with a virtual
 * machine, while an operator stopped a gateway and decided about the payments that it still has in its memory. Below
 * the least RELEASE_AFTER_MS.
 */
export const TRUSTED_MS = 30_000;

/** How a worker follows what operators have decided about the gateways. */
export interface SteeringWatch {
  /** Whether it was read once. Before, no payment may be taken: its gateway may be stopped. */
  readonly isKnown: boolean;
  /** Resolves when it was read once, or when the watch is closed. */
  known(): Promise<void>;
  /** Undefined, or resolves at the next reading, when the last one is older than {@link TRUSTED_MS}. */
  unread(): Promise<void> | undefined;
  /** Why it cannot be read, such as a missing right. Undefined while it can, or while Redis is unreachable. */
  readonly fault: (Failure & { readonly since: Date }) | undefined;
  close(): void;
}

/**
 * Reads the steering twice a second. At most one command is under way, and none is sent without a connection. While it cannot
 * be read, the last known state holds, for {@link TRUSTED_MS}.
 * @param onChange is called for each gateway that was steered, also at the first reading
 */
export function watchSteering({
  redis,
  queue,
  onChange,
  logger,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  onChange: (gateway: GatewayName, steered: Steered) => void;
  logger: Logger;
}): SteeringWatch {
  const key = steeringKey(queue);
  const outage = createOutageLog(logger, {
    message: 'what operators have decided about the gateways cannot be read',
    endMessage: 'what operators have decided about the gateways is read again',
  });
  const last: Record<GatewayName, string | null> = { primary: null, fallback: null };
  const known = Promise.withResolvers<void>();
  let next = Promise.withResolvers<void>();
  /** The monotonic clock stands still while the machine is suspended, and the other one may be set back. */
  let readAt = { monotonicMs: 0, wallMs: 0 };
  let isKnown = false;
  let isReading = false;
  let isClosed = false;
  let fault: (Failure & { readonly since: Date }) | undefined;

  function follow(texts: readonly (string | null)[]): void {
    const { gateways } = parseSteering(texts);
    for (const [index, gateway] of GATEWAYS.entries()) {
      const text = texts[index] ?? null;
      if (text === last[gateway]) continue;
      last[gateway] = text;
      onChange(gateway, gateways[gateway]);
    }
  }

  /** Never rejects. */
  async function read(): Promise<void> {
    if (isReading || isClosed || redis.status !== 'ready') return;
    isReading = true;
    const sentAt = { monotonicMs: performance.now(), wallMs: Date.now() };
    try {
      follow(await redis.hmget(key, ...STEERING_FIELDS));
      isKnown = true;
      readAt = sentAt;
      known.resolve();
      next.resolve();
      next = Promise.withResolvers();
      fault = undefined;
      outage.ended();
    } catch (error) {
      failed(error);
    } finally {
      isReading = false;
    }
  }

  function failed(error: unknown): void {
    const failure =
      error instanceof Error ? explainRedisError(error) : { code: 'unexpected', detail: describeError(error) };
    // redis.ts logs a lost connection.
    if (failure.code === 'unreachable') return;
    outage.failed(failure);
    fault = { ...failure, since: fault?.since ?? new Date() };
  }

  /** `read` never rejects. */
  const readNow = () => void read();
  const timer = setInterval(readNow, INTERVAL_MS);
  timer.unref();
  redis.on('ready', readNow);
  readNow();

  return {
    get isKnown() {
      return isKnown;
    },
    known: () => known.promise,
    unread() {
      const ageMs = Math.max(performance.now() - readAt.monotonicMs, Date.now() - readAt.wallMs);
      if (isClosed || ageMs < TRUSTED_MS) return undefined;
      readNow();
      return next.promise;
    },
    get fault() {
      return fault;
    },
    close() {
      isClosed = true;
      clearInterval(timer);
      redis.off('ready', readNow);
      known.resolve();
      next.resolve();
    },
  };
}
