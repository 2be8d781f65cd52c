import { setTimeout as sleep } from 'node:timers/promises';
import { type Job, Worker, type WorkerOptions } from 'bullmq';
import type { OutageLog } from '../process/outage-log.ts';
import type { ShardPlaces } from './places.ts';
import { explainRedisError, isErrorReply } from './redis-errors.ts';

/** The first pause. It doubles with every error reply in a row. */
const FIRST_PAUSE_MS = 100;

/** Rare enough to cost nothing, and short enough to go on soon after an operator has corrected the cause. */
const LONGEST_PAUSE_MS = 5_000;

/** To BullMQ it means that no job is waiting. The declared type lacks that case. */
const NONE = undefined as unknown as Job;

export interface Pacing {
  /** Resolves when jobs may be taken. */
  readonly whenUsable: () => Promise<void>;
  /** Whether jobs may be taken now. */
  readonly isUsable: () => boolean;
  readonly outage: OutageLog;
  /** Undefined: the worker has all places of its process to itself. */
  readonly places: ShardPlaces | undefined;
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
 * It also takes nothing while the server has a fault (server-check.ts). Jobs in flight are ended all the same. When it shares its
 * places with the workers of other shards (places.ts), it fetches only with a place.
 */
export class PacedWorker extends Worker {
  /** The locks of its jobs begin with it. */
  override readonly id: string;
  readonly #pacing: Pacing;
  /** Ends every pause when the worker closes. */
  readonly #closing = new AbortController();
  readonly #closed = new Promise<void>((resolve) => {
    this.#closing.signal.addEventListener('abort', () => resolve(), { once: true });
  });
  #errorsInARow = 0;
  #fetches = 0;
  /** The last fetch gave a job. BullMQ begins to process it only after the next fetch. */
  #hasFetched = false;

  /** @param id the same for all workers of a process, in the place of BullMQ's own */
  constructor(
    id: string,
    name: string,
    processor: (job: Job, token?: string) => Promise<void>,
    options: WorkerOptions,
    pacing: Pacing,
  ) {
    // With autorun it would begin before the fields of this class exist.
    super(name, processor, { ...options, autorun: false });
    this.id = id;
    this.#pacing = pacing;
    this.on('closing', () => {
      this.#closing.abort();
      pacing.places?.endWaits();
    });
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
    const hadFetched = this.#hasFetched;
    this.#hasFetched = false;
    if (!(await this.#mayTake(token, hadFetched))) return NONE;
    try {
      const job = await super.moveToActive(token, name);
      this.#succeeded();
      this.#hasFetched = job !== undefined;
      this.#keepPlaceFor(job, token);
      return job;
    } catch (error) {
      this.#pacing.places?.giveBack(token);
      // BullMQ reports it and fetches again at once.
      if (isErrorReply(error)) await this.#pause();
      throw error;
    }
  }

  /**
   * Resolves with true when the fetch of this token may be sent, and with false when there will be none.
   * @param hasFetched whether BullMQ has a job that it begins only after this fetch
   */
  async #mayTake(token: string, hasFetched: boolean): Promise<boolean> {
    const { isUsable, whenUsable, places } = this.#pacing;
    const { signal } = this.#closing;
    for (;;) {
      if (!isUsable()) {
        if (hasFetched) return false;
        // A race only when it is needed: it leaves a callback at `#closed`, which lives as long as the worker.
        await Promise.race([whenUsable(), this.#closed]);
        if (places !== undefined) {
          // BullMQ's loop has waited for this fetch, and must not wait for a place as well. It begins another one.
          if (isUsable() || signal.aborted) return false;
          // A single payment may be taken. While no others are, nothing is fetched that this wait would keep.
          return places.take(token);
        }
      }
      if (signal.aborted) return false;
      if (places === undefined) return true;
      const hasPlace = places.take(token);
      if (hasPlace !== true && !(await this.#waitBesideLoop(hasPlace))) return false;
      if (isUsable() && !signal.aborted) return true;
      places.giveBack(token);
    }
  }

  /**
   * BullMQ's loop waits for each fetch, and would start no job meanwhile that the end of another one has fetched. It goes on while
   * it finds that a fetch waits for jobs to come, and begins no other fetch. A wait for a place counts as such.
   */
  async #waitBesideLoop(wait: Promise<boolean>): Promise<boolean> {
    const loop = this as unknown as { waiting: Promise<unknown> | null };
    const before = loop.waiting;
    loop.waiting = wait;
    const hasPlace = await wait;
    if (loop.waiting === wait) loop.waiting = before;
    return hasPlace;
  }

  /** BullMQ calls it without a time when waiting for a job has failed. */
  override async delay(...[milliseconds, abortController]: Parameters<Worker['delay']>): Promise<void> {
    if (milliseconds === undefined) await this.#pause();
    else await super.delay(milliseconds, abortController);
  }

  protected override handleCompleted(
    ...[result, job, token, fetchNext, span]: Parameters<Worker['handleCompleted']>
  ): ReturnType<Worker['handleCompleted']> {
    const mayFetch = this.#mayFetch(token, fetchNext);
    return this.#untilTaken(token, () => super.handleCompleted(result, job, token, mayFetch, span));
  }

  protected override handleFailed(
    ...[error, job, token, fetchNext, span]: Parameters<Worker['handleFailed']>
  ): ReturnType<Worker['handleFailed']> {
    const mayFetch = this.#mayFetch(token, fetchNext);
    return this.#untilTaken(token, () => super.handleFailed(error, job, token, mayFetch, span));
  }

  /** BullMQ ends a job and fetches the next one in the same command. */
  #mayFetch(token: string, fetchNext: (() => boolean) | undefined): () => boolean {
    const { isUsable, places } = this.#pacing;
    return () => isUsable() && (fetchNext?.() ?? true) && (places?.mayFetchNext(token) ?? true);
  }

  /** @param token of the place; @param end resolves with the next job, or with nothing */
  async #untilTaken<Next>(token: string, end: () => Promise<Next>): Promise<Next> {
    for (;;) {
      try {
        const next = await end();
        this.#succeeded();
        this.#keepPlaceFor(next, token);
        return next;
      } catch (error) {
        // Repeated, it ends its job and fetches no other.
        this.#pacing.places?.giveBack(token);
        if (!isErrorReply(error) || this.#closing.signal.aborted) throw error;
        this.#pacing.outage.failed(explainRedisError(error));
        await this.#pause();
      }
    }
  }

  /** Keeps the place of a token for the job that it has fetched, if there is one. */
  #keepPlaceFor(job: unknown, token: string): void {
    const { places } = this.#pacing;
    if (job === undefined) places?.giveBack(token);
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
