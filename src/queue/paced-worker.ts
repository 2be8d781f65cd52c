import { setTimeout as sleep } from 'node:timers/promises';
import { type Job, Worker, type WorkerOptions } from 'bullmq';
import type { OutageLog } from '../process/outage-log.ts';
import { explainRedisError, isErrorReply } from './redis-errors.ts';

/** The first pause. It doubles with every error reply in a row. */
const FIRST_PAUSE_MS = 100;

/** Rare enough to cost nothing, and short enough to go on soon after an operator has corrected the cause. */
const LONGEST_PAUSE_MS = 5_000;

export interface Pacing {
  /** Resolves when jobs may be taken. */
  readonly whenUsable: () => Promise<void>;
  /** Whether jobs may be taken now. */
  readonly isUsable: () => boolean;
  readonly outage: OutageLog;
}

/**
 * BullMQ's worker for a Redis that *replies* errors: a missing right, no memory, too few replicas.
 *
 * BullMQ pauses between its attempts only while the connection is lost. After an error reply to a fetch it retries at once, for
 * ever, which takes one core and writes millions of log lines. After an error reply to a completion it fails the job instead,
 * and it ignores an error reply to a failure. This class repeats all of them after a pause that grows to
 * {@link LONGEST_PAUSE_MS}, until Redis accepts them. Meanwhile the job stays active. When its lock has expired another worker
 * may take it over, which finds the payment in the ledger or sends it to the same gateway again.
 *
 * It also takes nothing while the server has a fault (server-check.ts). Jobs in flight are ended all the same.
 */
export class PacedWorker extends Worker {
  readonly #pacing: Pacing;
  /** Ends every pause when the worker closes. */
  readonly #closing = new AbortController();
  readonly #closed = new Promise<void>((resolve) => {
    this.#closing.signal.addEventListener('abort', () => resolve(), { once: true });
  });
  #errorsInARow = 0;
  #fetches = 0;

  constructor(
    name: string,
    processor: (job: Job, token?: string) => Promise<void>,
    options: WorkerOptions,
    pacing: Pacing,
  ) {
    // With autorun it would begin before the fields of this class exist.
    super(name, processor, { ...options, autorun: false });
    this.#pacing = pacing;
    this.on('closing', () => this.#closing.abort());
    this.on('error', (error) => pacing.outage.failed(explainRedisError(error)));
  }

  /** How often it has begun to ask for a job. While no job is in flight it asks every 10 s at least. */
  get fetches(): number {
    return this.#fetches;
  }

  /** Takes jobs from now on. */
  start(): void {
    this.run().catch((error: unknown) => this.#pacing.outage.failed(explainRedisError(error)));
  }

  protected override async moveToActive(token: string, name?: string): Promise<Job> {
    this.#fetches += 1;
    // A race only when it is needed: it leaves a callback at `#closed`, which lives as long as the worker.
    if (!this.#pacing.isUsable()) await Promise.race([this.#pacing.whenUsable(), this.#closed]);
    // To BullMQ this means that no job is waiting. The declared type lacks that case.
    if (this.#closing.signal.aborted) return undefined as unknown as Job;
    try {
      const job = await super.moveToActive(token, name);
      this.#succeeded();
      return job;
    } catch (error) {
      // BullMQ reports it and fetches again at once.
      if (isErrorReply(error)) await this.#pause();
      throw error;
    }
  }

  /** BullMQ calls it without a time when waiting for a job has failed. */
  override async delay(...[milliseconds, abortController]: Parameters<Worker['delay']>): Promise<void> {
    if (milliseconds === undefined) await this.#pause();
    else await super.delay(milliseconds, abortController);
  }

  protected override handleCompleted(
    ...[result, job, token, fetchNext, span]: Parameters<Worker['handleCompleted']>
  ): ReturnType<Worker['handleCompleted']> {
    return this.#untilTaken(() => super.handleCompleted(result, job, token, this.#mayFetch(fetchNext), span));
  }

  protected override handleFailed(
    ...[error, job, token, fetchNext, span]: Parameters<Worker['handleFailed']>
  ): ReturnType<Worker['handleFailed']> {
    return this.#untilTaken(() => super.handleFailed(error, job, token, this.#mayFetch(fetchNext), span));
  }

  /** BullMQ ends a job and fetches the next one in the same command. */
  #mayFetch(fetchNext: (() => boolean) | undefined): () => boolean {
    return () => this.#pacing.isUsable() && (fetchNext?.() ?? true);
  }

  async #untilTaken<Result>(end: () => Promise<Result>): Promise<Result> {
    for (;;) {
      try {
        const result = await end();
        this.#succeeded();
        return result;
      } catch (error) {
        if (!isErrorReply(error) || this.#closing.signal.aborted) throw error;
        this.#pacing.outage.failed(explainRedisError(error));
        await this.#pause();
      }
    }
  }

  async #pause(): Promise<void> {
    const pauseMs = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** this.#errorsInARow);
    this.#errorsInARow += 1;
    const { signal } = this.#closing;
    await sleep(pauseMs, undefined, { signal }).catch(() => undefined);
  }

  #succeeded(): void {
    if (this.#errorsInARow === 0) return;
    this.#errorsInARow = 0;
    this.#pacing.outage.ended();
  }
}
