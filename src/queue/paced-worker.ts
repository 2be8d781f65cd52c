import { setTimeout as sleep } from 'node:timers/promises';
import { type Job, Worker, type WorkerOptions } from 'bullmq';
import type { OutageLog } from '../process/outage-log.ts';
import { explainRedisError, isErrorReply } from './redis-errors.ts';

/** From here a pause doubles with every error reply in a row. */
const FIRST_PAUSE_MS = 100;

/** Rare enough to cost nothing, and soon enough to go on when an operator has put it right. */
const LONGEST_PAUSE_MS = 5_000;

export interface Pacing {
  /** Resolves when jobs may be taken. */
  readonly whenUsable: () => Promise<void>;
  /** Whether jobs may be taken now. */
  readonly isUsable: () => boolean;
  readonly outage: OutageLog;
}

/**
 * BullMQ's worker, made to bear a Redis that *replies* errors: no right, out of memory, too few replicas, a script refused.
 *
 * BullMQ waits between its attempts only while the connection is lost. An error reply to a fetch is retried at once, for ever
 * (one core, and millions of log lines), and an error reply to the end of a job is given up: a completion is turned into a
 * failure, and that is dropped. Here both are repeated after a pause that grows to {@link LONGEST_PAUSE_MS}, until Redis
 * takes them. A job whose end Redis has not taken stays active. Its lock runs out, so another worker may take it over; it
 * finds it in the ledger, or sends it to the same gateway again.
 *
 * It also takes nothing while the server must not be used (server-check.ts). What it has taken is ended all the same.
 */
export class PacedWorker extends Worker {
  readonly #pacing: Pacing;
  /** Ends every pause, as the worker closes. */
  readonly #closing = new AbortController();
  readonly #closed = new Promise<void>((resolve) => {
    this.#closing.signal.addEventListener('abort', () => resolve(), { once: true });
  });
  #errorsInARow = 0;

  constructor(
    name: string,
    processor: (job: Job, token?: string) => Promise<void>,
    options: WorkerOptions,
    pacing: Pacing,
  ) {
    // By itself it would begin before the fields of this class are there.
    super(name, processor, { ...options, autorun: false });
    this.#pacing = pacing;
    this.on('closing', () => this.#closing.abort());
    this.on('error', (error) => pacing.outage.failed(explainRedisError(error)));
  }

  /** Takes jobs from now on. */
  start(): void {
    this.run().catch((error: unknown) => this.#pacing.outage.failed(explainRedisError(error)));
  }

  protected override async moveToActive(token: string, name?: string): Promise<Job> {
    // Only then: a race leaves something behind at the promise that outlives it.
    if (!this.#pacing.isUsable()) await Promise.race([this.#pacing.whenUsable(), this.#closed]);
    // What BullMQ takes for "nothing is waiting". The type of its result does not name that case.
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

  /** The end of a job takes the next one in the same command. */
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
