import type { Cluster, Redis } from 'ioredis';
import { BatcherClosedError, BatcherOverflowError, createBatcher } from '../batcher.ts';
import { QueueFullError, QueueUnavailableError, type ServiceError } from '../errors.ts';
import { events } from '../telemetry/events.ts';
import type { PaymentQueueName } from './bullmq-layout.ts';
import { ENQUEUE_SCRIPT, enqueueArguments, enqueueKeys, toEnqueueResult } from './enqueue-script.ts';
import { createMemoryHeadroom } from './memory-headroom.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineWrite, type ReplicatedWriter } from './replicated-writer.ts';
import type { ServerCheck } from './server-check.ts';
import { shardOf } from './shards.ts';

/** A payload on its way into the queue. */
export interface NewJob {
  /** The normal form of the payload's correlationId; undefined lets BullMQ number the job. */
  readonly id: string | undefined;
  /** The payload as JSON text: it becomes the job's data as it is, so what a client sent is not rewritten. */
  readonly data: string;
}

/** A dead letter on its way back. */
export interface DeadJob extends NewJob {
  readonly id: string;
  readonly acceptedAt: Date;
}

export interface Enqueuer {
  /**
   * Resolves once the job is stored in Redis, or is there already.
   * @throws QueueFullError when it was certainly not stored.
   * @throws QueueUnavailableError when Redis gave no usable reply in time. The job may have been stored.
   */
  enqueue(job: NewJob): Promise<void>;
  /**
   * Enqueues a dead letter again, with its old timestamp. It replaces its failed job if Redis still has that.
   * Resolves with `duplicate` when its id is in the queue already. Then nothing was changed.
   * @throws QueueFullError, QueueUnavailableError
   */
  enqueueAgain(job: DeadJob): Promise<'queued' | 'duplicate'>;
  /** Resolves when a payment could be stored now, in one shard at least. @throws QueueUnavailableError */
  probe(): Promise<void>;
  /** Rejects new jobs and settles those accepted. The connection stays open. */
  close(): Promise<void>;
}

/**
 * How long a client should wait before trying again, in seconds. A full queue drains at hundreds of payments a second
 * and Redis reconnects within half a second, so the shortest whole second is right for both.
 */
const RETRY_AFTER_SECONDS = 1;

/** A batch blocks Redis for about 25 µs a job. 200 jobs keep that under 5 ms, and larger batches gain nothing. */
const MAX_BATCH = 200;

/** Memory of a job in Redis beside its payload (README, "Settings"), rounded up. */
const JOB_BYTES = 512;

/** Upper bound on waiting requests, per process: each shard has its part. With payloads of 64 KiB, the largest accepted, they take 640 MiB. */
const MAX_PENDING = 10_000;

export function createEnqueuer({
  redis,
  queue,
  maxSize,
  shards = 1,
  serverCheck,
  writer,
  notesTime = false,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  /** Of this queue. */
  maxSize: number;
  /** How many queues the relay has. */
  shards?: number;
  /** With `DURABILITY=replica`: a job counts as stored when a replica has it. */
  writer?: ReplicatedWriter | undefined;
  /** Whether another server may take the place of this one (epoch.ts). */
  notesTime?: boolean;
  /** While it has a fault nothing is written. */
  serverCheck: Pick<ServerCheck, 'fault'>;
}): Enqueuer {
  const keys = enqueueKeys(queue, { notesTime });
  const enqueuePayments = defineWrite<number[]>({ redis, writer }, 'enqueue-payments', keys.length, ENQUEUE_SCRIPT);
  const headroom = createMemoryHeadroom({ redis, key: keys[0]! });

  const full =
    shards === 1
      ? `${maxSize} payments are queued, which is PAYMENT_QUEUE_MAX_SIZE`
      : `${maxSize} payments are queued in one of ${shards} shards, which is its part of PAYMENT_QUEUE_MAX_SIZE`;

  /** Why the payment with this code was not stored, or undefined when it was. */
  function errorOf(code: number): ServiceError | undefined {
    switch (toEnqueueResult(code)) {
      case 'queued':
      case 'duplicate':
        return undefined;
      case 'full':
        return new QueueFullError(full, { retryAfterSeconds: RETRY_AFTER_SECONDS });
      case undefined:
        return unavailable(`the enqueue script replied with the unknown code ${code}`);
    }
  }

  const batcher = createBatcher<NewJob, undefined | ServiceError>({
    maxItems: MAX_BATCH,
    maxPending: Math.ceil(MAX_PENDING / shards),
    failsWaitingToo: true,
    async flush(jobs) {
      if (events.batchFlushed.hasSubscribers) events.batchFlushed.publish({ batch: 'enqueue', size: jobs.length });
      const codes = await add(jobs);
      return codes.map(errorOf);
    },
  });

  async function add(jobs: readonly NewJob[], acceptedAt?: Date): Promise<number[]> {
    if (serverCheck.fault !== undefined) throw unavailable(serverCheck.fault.detail);
    const args = [...keys, ...enqueueArguments(queue, { maxSize, shards, acceptedAt })];
    let bytes = 0;
    for (const { id, data } of jobs) {
      args.push(id ?? '', data);
      bytes += data.length + JOB_BYTES;
    }
    const shortage = await headroom.shortageFor(bytes);
    if (shortage !== undefined) throw unavailable(shortage);
    try {
      return await enqueuePayments(...args);
    } catch (cause) {
      throw unavailable(`payments cannot be added to the queue: ${explainRedisError(cause).detail}`, cause);
    }
  }

  return {
    async enqueue(job) {
      try {
        await batcher.add(job);
      } catch (error) {
        if (error instanceof BatcherOverflowError || error instanceof BatcherClosedError) {
          throw unavailable('the queue does not keep up', error);
        }
        throw error;
      }
    },
    async enqueueAgain({ id, data, acceptedAt }) {
      const [code] = await add([{ id, data }], acceptedAt);
      const error = errorOf(code!);
      if (error !== undefined) throw error;
      return toEnqueueResult(code) === 'queued' ? 'queued' : 'duplicate';
    },
    async probe() {
      // An empty batch needs all that a payment needs: rights, memory, a disk, replicas.
      await add([]);
    },
    close: () => batcher.close(),
  };
}

/**
 * Each payment goes to its shard. A shard that does not respond fails its own payments, and the others go on.
 * @param parts one for each shard
 */
export function combineEnqueuers(parts: readonly Enqueuer[]): Enqueuer {
  const [only] = parts;
  if (parts.length === 1) return only!;
  const of = (id: string | undefined) => parts[shardOf(id, parts.length)]!;
  return {
    enqueue: (job) => of(job.id).enqueue(job),
    enqueueAgain: (job) => of(job.id).enqueueAgain(job),
    async probe() {
      try {
        await Promise.any(parts.map((part) => part.probe()));
      } catch (error) {
        throw (error as AggregateError).errors[0];
      }
    },
    async close() {
      await Promise.all(parts.map((part) => part.close()));
    },
  };
}

function unavailable(message: string, cause?: unknown): QueueUnavailableError {
  return new QueueUnavailableError(message, { cause, retryAfterSeconds: RETRY_AFTER_SECONDS });
}
