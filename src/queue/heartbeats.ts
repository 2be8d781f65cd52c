import type { Cluster, Redis } from 'ioredis';
import { within } from '../process/deadline.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog, type Failure } from '../process/outage-log.ts';
import type { Heartbeat } from '../telemetry/heartbeat.ts';
import { acceptedKey, heartbeatKey, heartbeatsKey, type PaymentQueueName } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineScript } from './scripts.ts';

const INTERVAL_MS = 1_000;

/** A process that misses so many beats is missed by all others. A busy machine delays one or two. */
const TIME_TO_LIVE_MS = 5_000;

/** How long a shutdown waits for the removal of its heartbeat. Otherwise it expires. */
const REMOVAL_MS = 500;

export interface OwnHeartbeat {
  /** What Redis replied to the last one instead of writing it: no memory, too few replicas, a missing right. */
  readonly refusal: Failure | undefined;
  close(): Promise<void>;
}

/**
 * Writes the heartbeat of this process to Redis, once a second, with a time to live of 5 s. Removes it when it is closed, so
 * that a process that ended in order is missed at once.
 *
 * One script, so that a list entry without a heartbeat is one whose process has ended. At most one command is under way, and
 * none is sent without a connection: the worker's connection would queue them.
 *
 * With each beat goes what the process has accepted since the last one (accepted-minutes.ts). A beat whose end is not known
 * may be carried out later, so what it had is not sent again: the plot may lack a second, and never counts one twice.
 * @param heartbeat is called before each beat; a rejection is logged and skips the beat
 */
export function startHeartbeat({
  redis,
  queue,
  heartbeat,
  logger,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  heartbeat: () => Heartbeat | Promise<Heartbeat>;
  logger: Logger;
}): OwnHeartbeat {
  const writeHeartbeat = defineScript<number>(redis, 'write-heartbeat', 3);
  const outage = createOutageLog(logger, {
    message: 'the heartbeat of this process could not be written, so others may take it for ended',
    endMessage: 'the heartbeat of this process is written again',
  });
  let written: string | undefined;
  /** What the beats until now have sent of the accepted payments. */
  let sent = 0;
  let refusal: Failure | undefined;
  let isBeating = false;
  let isClosed = false;

  /** Never rejects. */
  async function beat(): Promise<void> {
    if (isBeating || isClosed || redis.status !== 'ready') return;
    isBeating = true;
    try {
      await write(await heartbeat());
    } catch (error) {
      outage.failed({ code: 'unexpected', detail: describeError(error) });
    } finally {
      isBeating = false;
    }
  }

  async function write(own: Heartbeat): Promise<void> {
    if (isClosed) return;
    const { id, accepted } = own;
    const sentBefore = sent;
    written = id;
    sent = accepted;
    try {
      const keys = [heartbeatsKey(queue), heartbeatKey(queue, id), acceptedKey(queue)];
      const args = [id, JSON.stringify(own), TIME_TO_LIVE_MS, heartbeatKey(queue, ''), accepted - sentBefore];
      await writeHeartbeat(...keys, ...args);
      refusal = undefined;
      outage.ended();
    } catch (error) {
      const failure = explainRedisError(error);
      // redis.ts logs a lost connection.
      if (failure.code === 'unreachable') return;
      sent = sentBefore;
      refusal = failure;
      outage.failed(failure);
    }
  }

  async function remove(id: string): Promise<void> {
    // The list entry of an expired heartbeat is removed by the next beat of any process.
    const removal = Promise.all([redis.del(heartbeatKey(queue, id)), redis.zrem(heartbeatsKey(queue), id)]);
    await within(
      performance.now() + REMOVAL_MS,
      removal.catch(() => undefined),
    );
  }

  /** `beat` never rejects. */
  const beatNow = () => void beat();
  const timer = setInterval(beatNow, INTERVAL_MS);
  redis.on('ready', beatNow);
  beatNow();
  let closing: Promise<void> | undefined;

  return {
    get refusal() {
      return refusal;
    },
    close() {
      isClosed = true;
      clearInterval(timer);
      redis.off('ready', beatNow);
      closing ??= written !== undefined && redis.status === 'ready' ? remove(written) : Promise.resolve();
      return closing;
    },
  };
}
