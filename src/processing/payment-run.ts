import type { GatewayName } from '../payment.ts';
import type { Failure } from '../process/outage-log.ts';

/**
 * One run of a payment's job, from the moment a worker takes it until it leaves the worker again. It is the contract between
 * queue and processing.
 *
 * The job contains what survives a crash: the binding to a gateway, and two counters of BullMQ that say how many runs did not
 * end clean. States between runs, and where the next run goes:
 *
 * | state      | runs that did not end clean | bound to | may be paid at | the next run                                     |
 * |------------|-----------------------------|----------|----------------|--------------------------------------------------|
 * | free       | none                        | nowhere  | nowhere        | primary; fallback if the routing rule allows     |
 * | doubted    | as many as doubts           | nowhere  | (primary)      | primary, until it pays or rejects                |
 * | unresolved | more than doubts, or before | nowhere  | primary        | primary, until the outcome is known there        |
 * |            | the epoch of Redis          |          |                |                                                  |
 * | bound      | any                         | fallback | fallback       | fallback, until the outcome is known there       |
 *
 * An operator may stop a gateway, or drain it (queue/steering.ts). That changes no state and proves nothing. A run then sends
 * nothing there: a free payment waits in its worker or goes elsewhere by its rule; one that only this gateway may get goes back
 * to the queue with that reason and its own pause, so that an operator can decide about it there. While the gateway drains, such
 * payments are sent. What was under way when the worker learned of it ends as usual. A worker takes no payment before it knows.
 *
 * Beside the job, an open dead letter of the same id ties it to the gateway at which that one may have been paid.
 *
 * A crash, or a stop past the job's lock, at any point of a run:
 * - before the first send: nothing happened. The next run finds the counters uneven and counts as unresolved, which only
 *   costs it the fallback.
 * - between send and response, or between response and record: the next run sends again to the same gateway. The gateway
 *   responds that it has the id, and the run records what the gateway has on record.
 * - between the binding and the send to the fallback: the next run goes to the fallback.
 * - between the decision for the fallback and the binding: the binding is written only while this run owns the job's lock,
 *   so a run that was stopped and overtaken here cannot send to the fallback what its successor pays at the primary.
 * - between the note of a doubt and the run's end: the run counts as one that did not end clean, and so does the doubt.
 *   Before the note: it counts as unresolved, and is never rejected.
 * - between a dead letter's row and the end of its job: the next run looks the row up, stays at the row's gateway, and pays
 *   or opens the same row again.
 * - between record and completion: the next run finds the payment in the ledger.
 * - after `noteUnresolved`: its note stays with the job and is true until the next run ends. No run reads it, so it decides
 *   nothing. An entry that outlives its job is removed by the clock recall.
 * - after an operator's release, which clears the counters and the binding while the job waits: it is free. An earlier run that
 *   still holds it sends nothing, because nothing has confirmed its lock (`isOwned`).
 * - a failover, or a restart that forgets, at any point: the payment was accepted before the epoch (queue/epoch.ts), so it counts
 *   as unresolved. With DURABILITY=replica this run has sent nothing before a replica had its lock and its binding.
 * An id that is posted again after it was paid gets a free job. So every run asks the ledger before its first send.
 */
export interface PaymentRun {
  /** BullMQ's id of the job: the correlationId where the payload has one. */
  readonly jobId: string;
  readonly payload: unknown;
  /** The payload as it was posted; undefined when the job has lost it. */
  readPayloadText(): Promise<string | undefined>;
  /** By Redis' clock. */
  readonly acceptedAt: Date;
  /** Since the payment was accepted, by Redis' clock at both ends, so no wrong clock can shorten it. In ms. */
  readonly ageMs: number;
  readonly history: RunHistory;
  /**
   * Redis has lately confirmed that this run owns the job. Without that nothing may be sent: others may have gone on with the
   * payment, and an operator may have released it from its gateway (queue/owned-jobs.ts).
   */
  readonly isOwned: boolean;
  /** The only gateway that may get the payment, because a run was about to send it there. */
  readonly boundTo: GatewayName | undefined;
  /**
   * From now on the payment stays with this gateway.
   * @throws RequeueError when this run no longer owns the job. Then nothing was written, and nothing may be sent.
   */
  bindTo(gateway: GatewayName): Promise<void>;
  /** Takes the binding back: the gateway certainly does not have the payment. @throws as `bindTo` */
  release(): Promise<void>;
  /**
   * Only one gateway may get the payment, that one does not accept it, and the payment waits in this run: notes why, for
   * status and metrics. Sends one command and does not wait for it. A failure is logged and changes nothing for the payment.
   */
  noteUnresolved(reason: Failure): void;
}

/** What earlier runs of the job have left behind. */
export interface RunHistory {
  /** Runs before this one. */
  readonly runs: number;
  /** Some run ended with an unknown attempt, or did not end at all. */
  readonly isUnresolved: boolean;
  /** Runs that ended with nothing worse than a doubtful attempt. */
  readonly doubts: number;
  /** Of the first of them, in ms of Redis' clock; undefined without doubts. */
  readonly doubtedSinceMs: number | undefined;
}

/** How a run that did not pay leaves its payment. */
export type RunEnd =
  /** Certainly unpaid by this run. */
  | 'clean'
  /** This run may have paid it. */
  | 'unresolved'
  /** This run's attempts were doubtful, and nothing worse. */
  | 'doubtful';

/** The payment can never be made; it is in the table of dead letters already. The message is the reason shown. */
export class DeadLetterError extends Error {
  override readonly name = 'DeadLetterError';
}

/** When a requeued payment is taken again. */
export type Pause =
  /** At once, by any worker. */
  | 'none'
  /** After a short backoff: the circuit, not the pause, protects a gateway that is down. */
  | 'backoff'
  /** After 1, 2, 4 … 30 s: only this gateway may get it. */
  | 'tied'
  /** After about 1 s: only this gateway may get it, and that had no free connection. It is well, so a longer pause would help nobody. */
  | 'crowded'
  /** After 1, 2, 4, 8, 15, 15 … s: the gateway, or something in its place, responds that the payment is bad. */
  | 'doubted';

/** The payment was not made in this run; the job goes back to the queue. */
export class RequeueError extends Error {
  override readonly name = 'RequeueError';
  /** A stable code of the reason, for status and log. */
  readonly code: string;
  readonly end: RunEnd;
  readonly pause: Pause;
  /** The least pause, in ms, because the gateway asked for it. */
  readonly atLeastMs: number;
  constructor(
    message: string,
    { code, end, pause, atLeastMs = 0 }: { code: string; end: RunEnd; pause: Pause; atLeastMs?: number },
  ) {
    super(message);
    this.code = code;
    this.end = end;
    this.pause = pause;
    this.atLeastMs = atLeastMs;
  }
}

/** This run was stopped for longer than its job's lock lasts, so another run may be under way. */
export function jobLockLost(): RequeueError {
  return new RequeueError('job lock lost to another worker', {
    code: 'lock_lost',
    end: 'unresolved',
    pause: 'backoff',
  });
}
