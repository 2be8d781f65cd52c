import type { Cluster, Redis } from 'ioredis';
import { BatcherClosedError, createBatcher } from '../batcher.ts';
import type { Config } from '../config.ts';
import { QueueUnavailableError } from '../errors.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog, type Failure } from '../process/outage-log.ts';
import { epochKey, type PaymentQueueName } from './bullmq-layout.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineWrite, type ReplicatedWriter } from './replicated-writer.ts';
import { defineScript } from './scripts.ts';

/**
 * The time since when one server has the queue without having forgotten anything.
 *
 * A restart with `DURABILITY=memory`, or a failover, may take back what the last moments wrote: also that a worker has taken a
 * payment, or that a payment was freed again. Such a payment looks as if nobody had attempted it, and the fallback could pay it a
 * second time. So whatever was accepted before the server changed counts as unresolved at the primary. It cannot go to the
 * fallback any more, unless it is bound to it.
 *
 * The payment itself may be forgotten as well, while a client posts it again at the new server. With `DURABILITY=replica` no run
 * sends anything before a replica has confirmed that its job was taken.
 */
export interface Epoch {
  /**
   * Before a run sends anything. Resolves with the start of the epoch, in ms of Redis' clock: a payment that was accepted up to
   * then may have been attempted although its job does not say so. 0: no other server had the queue before.
   * @returns undefined when the run does not own its job at this server
   * @throws QueueUnavailableError when Redis does not say it, or no replica confirms it. Then nothing may be sent
   */
  confirm(run: OwnedRun): Promise<number | undefined>;
  /** Why payments cannot be confirmed now, so that none should be taken. */
  readonly fault: (Failure & { readonly since: Date }) | undefined;
  /** Resolves when there is no fault, or when it is closed. */
  whenUsable(): Promise<void>;
  close(): void;
}

export interface OwnedRun {
  readonly lockKey: string;
  readonly token: string;
}

/** Whether another server may take the place of this one. */
export function mayBeReplaced({ redis, queue }: Pick<Config, 'redis' | 'queue'>): boolean {
  return queue.durability === 'replica' || redis.clusterNodes.length > 0 || redis.sentinels !== undefined;
}

/** Runs that are confirmed at once. Each is a GET. */
const MAX_BATCH = 500;

/** How often it is tried again while it fails. */
const RETRY_MS = 500;

type Reply = [since: string, owned: (0 | 1)[]];

/**
 * The epoch as these settings need it; undefined when no server forgets.
 * @param writer with `DURABILITY=replica`
 */
export function epochFor(
  config: Pick<Config, 'redis' | 'queue'>,
  {
    writer,
    ...parts
  }: {
    redis: Redis | Cluster;
    queue: PaymentQueueName;
    writer: ReplicatedWriter | undefined;
    maxPending: number;
    logger: Logger;
  },
): Epoch | undefined {
  if (mayBeReplaced(config)) return createEpoch({ ...parts, writer });
  // With one server and `disk`, what it has replied to is on its disk.
  return config.queue.durability === 'disk' ? undefined : createEpochOfConnection(parts);
}

/** @param maxPending upper bound on runs that wait for it */
function createEpoch({
  redis,
  queue,
  writer,
  maxPending,
  logger,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  writer: ReplicatedWriter | undefined;
  maxPending: number;
  logger: Logger;
}): Epoch {
  const key = epochKey(queue);
  const confirmRuns = defineWrite<Reply>({ redis, writer }, 'confirm-runs', 1);
  const outage = createOutageLog(logger, {
    message: 'no payment is taken: it could not be confirmed',
    endMessage: 'payments are confirmed again',
  });
  let fault: (Failure & { readonly since: Date }) | undefined;
  let retry: NodeJS.Timeout | undefined;
  const waiting: (() => void)[] = [];
  let isClosed = false;

  function succeeded(): void {
    fault = undefined;
    outage.ended();
    for (const resolve of waiting.splice(0)) resolve();
  }

  function failed(error: unknown): QueueUnavailableError {
    const failure = explainRedisError(error);
    // redis.ts logs a lost connection.
    if (failure.code !== 'unreachable') outage.failed(failure);
    fault = { ...failure, since: fault?.since ?? new Date() };
    retry ??= setTimeout(() => {
      retry = undefined;
      // It reports its own failure, and tries again.
      if (!isClosed) void ask([]).catch(() => undefined);
    }, RETRY_MS);
    return new QueueUnavailableError(failure.detail, { cause: error, retryAfterSeconds: 1 });
  }

  async function ask(runs: readonly OwnedRun[]): Promise<(number | undefined)[]> {
    const args = [key, ...runs.flatMap(({ lockKey, token }) => [lockKey, token])];
    try {
      const [since, owned] = await confirmRuns(...args);
      succeeded();
      return owned.map((isOwned) => (isOwned === 1 ? Number(since) : undefined));
    } catch (error) {
      throw failed(error);
    }
  }

  // An undefined result is a value like the others, and an error is one of the whole batch.
  const batcher = createBatcher<OwnedRun, { readonly since: number | undefined }>({
    maxItems: MAX_BATCH,
    maxPending,
    failsWaitingToo: true,
    flush: async (runs) => (await ask(runs)).map((since) => ({ since })),
  });

  return {
    async confirm(run) {
      try {
        return (await batcher.add(run)).since;
      } catch (error) {
        if (error instanceof BatcherClosedError) {
          throw new QueueUnavailableError('the worker is shutting down', { cause: error, retryAfterSeconds: 1 });
        }
        throw error;
      }
    },
    get fault() {
      return fault;
    },
    whenUsable() {
      if (fault === undefined || isClosed) return Promise.resolve();
      return new Promise((resolve) => {
        waiting.push(resolve);
      });
    },
    close() {
      isClosed = true;
      clearTimeout(retry);
      for (const resolve of waiting.splice(0)) resolve();
    },
  };
}

/**
 * The same for one server without replicas, at no cost for a payment: only a new connection may lead to another server. A fetch
 * that ioredis sends again on the new connection gets its reply after `ready`, so its run waits for the epoch.
 */
function createEpochOfConnection({
  redis,
  queue,
  logger,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  logger: Logger;
}): Epoch {
  const confirmHere = defineScript<Reply>(redis, 'confirm-runs', 1);
  const outage = createOutageLog(logger, {
    message: 'no payment is taken: it is not known since when this Redis has the queue',
    endMessage: 'it is known since when this Redis has the queue',
  });
  let since: number | undefined;
  let known = Promise.withResolvers<void>();
  let fault: (Failure & { readonly since: Date }) | undefined;
  let retry: NodeJS.Timeout | undefined;
  let connections = 0;
  let isClosed = false;

  /** Never rejects. */
  async function read(): Promise<void> {
    clearTimeout(retry);
    const mine = connections;
    try {
      const [text] = await confirmHere(epochKey(queue));
      if (mine !== connections) return;
      since = Number(text);
      fault = undefined;
      outage.ended();
      known.resolve();
    } catch (error) {
      if (isClosed || mine !== connections) return;
      const failure = explainRedisError(error);
      if (failure.code === 'unreachable') return;
      outage.failed(failure);
      fault = { ...failure, since: fault?.since ?? new Date() };
      retry = setTimeout(() => void read(), RETRY_MS);
    }
  }

  function forget(): void {
    connections += 1;
    clearTimeout(retry);
    if (since !== undefined) known = Promise.withResolvers();
    since = undefined;
  }

  /** `read` never rejects. */
  const readNow = () => void read();
  redis.on('close', forget);
  redis.on('ready', readNow);
  if (redis.status === 'ready') readNow();

  return {
    async confirm() {
      while (since === undefined && !isClosed) await known.promise;
      return since;
    },
    get fault() {
      return fault;
    },
    whenUsable: () => (since === undefined && !isClosed ? known.promise : Promise.resolve()),
    close() {
      isClosed = true;
      clearTimeout(retry);
      redis.off('close', forget);
      redis.off('ready', readNow);
      known.resolve();
    },
  };
}
