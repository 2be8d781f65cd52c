import type { Cluster, Redis } from 'ioredis';
import { QueueUnavailableError } from '../errors.ts';
import type { GatewayName } from '../payment.ts';
import { type PaymentQueueName, queueKey, readJobFields } from './bullmq-layout.ts';
import { type FailedJob, toFailedJob } from './failed-jobs.ts';
import { explainRedisError } from './redis-errors.ts';
import { defineScript } from './scripts.ts';
import type { ServerCheck } from './server-check.ts';
import { askShards } from './shards.ts';

/** The job of a payment, at one moment. */
export type FoundJob = { readonly kind: 'failed'; readonly job: FailedJob } | QueuedJob;

/** A job that waits or is in flight. */
export interface QueuedJob {
  readonly kind: 'queued';
  /** The payload's JSON text; undefined when the job has lost it. */
  readonly data: string | undefined;
  /** By Redis' clock. The epoch when the job has lost it. */
  readonly acceptedAt: Date;
  /** Runs started. */
  readonly attempts: number;
  /** Runs that have ended, and not clean: one may have been paid, or was doubted, or ended without a word. */
  readonly notClean: number;
  /** Of these, the runs in which a gateway responded that the payment is bad, and nothing worse happened. */
  readonly doubts: number;
  readonly boundTo: GatewayName | undefined;
  /** The token of the run that has the payment in flight. It begins with the id of its worker. Undefined: not in flight. */
  readonly lock: string | undefined;
  /** Why it goes back to the queue as a payment that only one gateway may get. `since` is of Redis' clock. */
  readonly noted: { readonly code: string; readonly detail: string; readonly since: Date } | undefined;
  /** How the last run that ended clean failed: `code: detail`. Workers of earlier versions left the code out. */
  readonly failure: string | undefined;
  /** When the last run started, by the clock of its worker. */
  readonly startedAt: Date | undefined;
  /**
   * No attempt that may be paid was made after this time, by Redis' clock. Undefined: not known, because the last run has left
   * no note, or because there was no run.
   */
  readonly attemptedAt: Date | undefined;
  /** The last release by an operator, and from which gateway. */
  readonly released: Release | undefined;
}

/** An operator has declared that a gateway has not made the payment. */
export interface Release {
  readonly gateway: GatewayName;
  readonly by: string;
  readonly at: Date;
}

export interface PaymentFinder {
  /**
   * Looks up to {@link MAX_FOUND} ids up, those of each shard at one moment. Undefined: there is no such job. An error: there may be one, because
   * Redis gave no usable reply, or because it lacks the job and cannot be trusted: it is another database, or it has not been
   * checked since it was connected. Never rejects.
   * @param ids in lower case
   */
  find(ids: readonly string[]): Promise<readonly (FoundJob | undefined | QueueUnavailableError)[]>;
}

/** A script that looks up so many blocks Redis for well below a millisecond. With the largest payloads it replies 3 MB. */
export const MAX_FOUND = 50;

type Reply = [hasFailed: 0 | 1, lock: string | null, fields: (string | null)[]] | null;

export function createPaymentFinder({
  redis,
  queue,
  serverCheck,
}: {
  redis: Redis | Cluster;
  queue: PaymentQueueName;
  serverCheck: Pick<ServerCheck, 'fault'>;
}): PaymentFinder {
  const findPayment = defineScript<Reply[]>(redis, 'find-payment', 1);
  const failedKey = queueKey(queue, 'failed');
  const prefix = queueKey(queue, '');

  return {
    async find(ids) {
      let replies: Reply[];
      try {
        replies = await findPayment(failedKey, prefix, ...ids);
      } catch (cause) {
        const error = unavailable(`could not look payments up: ${explainRedisError(cause).detail}`, cause);
        return ids.map(() => error);
      }
      const { fault } = serverCheck;
      const absent = fault && unavailable(fault.detail);
      return replies.map((reply, index) => (reply === null ? absent : toJob(ids[index]!, reply)));
    },
  };
}

/** Asks each shard for its own ids, so that one that does not reply fails only these. @param finders one for each shard */
export function combinePaymentFinders(finders: readonly PaymentFinder[]): PaymentFinder {
  return { find: (ids) => askShards(ids, finders.length, (shard, own) => finders[shard]!.find(own)) };
}

function toJob(id: string, [hasFailed, lock, fields]: NonNullable<Reply>): FoundJob {
  if (hasFailed === 1) return { kind: 'failed', job: toFailedJob(id, fields) };
  const { data, failedReason, timestamp, runs, notClean, isBoundToFallback } = readJobFields(fields);
  const [code, detail, since, doubts, startedAt, noted, attemptedAt, released] = fields.slice(8);
  return {
    kind: 'queued',
    data,
    acceptedAt: timestamp ?? new Date(0),
    attempts: Number(runs ?? 0),
    notClean: notClean - (lock === null ? 0 : 1),
    doubts: Number(doubts ?? 0),
    boundTo: isBoundToFallback ? 'fallback' : undefined,
    lock: lock ?? undefined,
    noted: code && since ? { code, detail: detail ?? code, since: new Date(Number(since)) } : undefined,
    failure: failedReason,
    startedAt: startedAt ? new Date(Number(startedAt)) : undefined,
    attemptedAt: attemptedAt && noted === runs ? new Date(Number(attemptedAt)) : undefined,
    released: released ? toRelease(released) : undefined,
  };
}

/** @param text written by release-payment.lua */
function toRelease(text: string): Release {
  const { gateway, by, at } = JSON.parse(text) as { gateway: GatewayName; by: string; at: number };
  return { gateway, by, at: new Date(at) };
}

function unavailable(message: string, cause?: unknown): QueueUnavailableError {
  return new QueueUnavailableError(message, { cause, retryAfterSeconds: 1 });
}
