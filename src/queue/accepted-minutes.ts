import type { Cluster, Redis } from 'ioredis';
import { QueueUnavailableError } from '../errors.ts';
import { acceptedKey, type PaymentQueueName } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineScript } from './scripts.ts';

const MINUTE_MS = 60_000;

/** How many payments all nodes together have accepted in the last minutes. Each adds its own with its heartbeat. */
export interface AcceptedMinutes {
  /** Each minute's number expires after two hours. A node that dies takes at most a second of it along. @throws QueueUnavailableError */
  read(): Promise<AcceptedByMinute>;
}

export interface AcceptedByMinute {
  /** The beginning of the first minute, in Unix ms by Redis' clock. */
  readonly fromMs: number;
  /** The last number is of the present minute. */
  readonly accepted: readonly number[];
}

/** @param minutes how many, the present one included; at most 119 */
export function createAcceptedMinutes({
  redis,
  queue,
  minutes,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  minutes: number;
}): AcceptedMinutes {
  const readAccepted = defineScript<[minute: number, accepted: number[]]>(redis, 'read-accepted', 1);
  return {
    async read() {
      try {
        const [minute, accepted] = await readAccepted(acceptedKey(queue), minutes);
        return { fromMs: (minute - minutes + 1) * MINUTE_MS, accepted };
      } catch (cause) {
        const { detail } = explainRedisError(cause);
        throw new QueueUnavailableError(`could not read what was accepted: ${detail}`, { cause, retryAfterSeconds: 1 });
      }
    },
  };
}
