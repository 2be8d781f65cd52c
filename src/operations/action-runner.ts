import { setTimeout as sleep } from 'node:timers/promises';
import { LedgerUnavailableError, QueueFullError, QueueUnavailableError } from '../errors.ts';
import type { OpenDeadLetters, WalkedDeadLetter } from '../ledger/open-dead-letters.ts';
import type { LeasedAction, OperatorActions } from '../ledger/operator-actions.ts';
import { describeError } from '../process/describe-error.ts';
import { inParallel } from '../process/in-parallel.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';
import type { OperatorQueue } from '../queue/operator-queue.ts';
import { type Progress, selectionOf, verbOf } from './dead-letter-actions.ts';
import { countOf, type DeadLetterVerb, judge, plus } from './dead-letter-verdicts.ts';

/**
 * Carries out the actions that take long, in every worker, one action at a time over all workers.
 *
 * An action belongs to the worker that has its lease in PostgreSQL. The worker walks over the rows in batches. After each batch
 * it notes where it is, which also extends the lease. A worker may end anywhere, also by `kill -9`:
 *
 * | ends                                | the next worker                                                                |
 * |-------------------------------------|--------------------------------------------------------------------------------|
 * | between two batches                 | goes on behind the last one, at once after a shutdown, else after the lease     |
 * | within a batch                      | repeats it. What was retried is in the queue, paid or dead again, and so it is skipped. What was discarded is not open |
 *
 * So a letter is treated once, and a crash changes the counts by one batch at most. The same holds for two workers on one batch,
 * of which one was stopped for longer than its lease.
 */
export interface ActionRunner {
  /** Ends the batch under way and gives the lease back. Resolves then. */
  close(): Promise<void>;
}

export interface ActionRunnerOptions {
  readonly actions: OperatorActions;
  readonly openDeadLetters: OpenDeadLetters;
  /** Called for each action, so that a worker without one has no further connection. */
  readonly openQueue: () => Promise<OperatorQueue>;
  /** False while its shards are not those of the relay: another worker must carry the actions out. */
  readonly isFit: () => boolean;
  readonly workerId: string;
  readonly logger: Logger;
}

/** How soon a worker sees a new action. One small statement each time. */
const LOOK_EVERY_MS = 3_000;

/**
 * How long an action waits for another worker when its own has died. Longer than a batch whose Redis and PostgreSQL hang: two
 * waits of Redis' command timeout for each and two statements of 2 s.
 */
const LEASE_SECONDS = 6;

/** How often it tries again while Redis, PostgreSQL or the cap does not let it go on, and so how soon it sees a stop then. */
const RETRY_MS = 500;

/** A batch takes so long, so an action stops within it. */
const BATCH_MS = 500;

/** Letters of a batch. With payloads of 64 KiB, the largest accepted, 6.4 MB. */
const MAX_BATCH = 100;

/** Commands to Redis that wait for their reply at once. */
const ENQUEUES_AT_ONCE = 20;

/** After a window without a letter that fits. It leaves PostgreSQL to others for most of the time. */
const WINDOW_PAUSE_MS = 5;

export function startActionRunner(options: ActionRunnerOptions): ActionRunner {
  const { actions, isFit, workerId, logger } = options;
  const closing = new AbortController();
  const { signal } = closing;
  const outage = createOutageLog(logger, { message: 'an action waits', endMessage: 'an action goes on' });

  async function look(): Promise<void> {
    if (!isFit()) return;
    const action = await actions.lease(workerId, LEASE_SECONDS);
    if (action === undefined) return;
    const verb = verbOf(action);
    // A later version of the service knows it.
    if (verb === undefined) return actions.release(action);
    const { id, who, reason } = action;
    logger.info('carrying out an action', { id, action: action.action, who, reason });
    const end = await carryOut(action, verb, { ...options, signal, outage });
    logger.info('stopped carrying out an action', { id, action: action.action, end });
  }

  async function run(): Promise<void> {
    while (!signal.aborted) {
      try {
        await look();
      } catch (error) {
        // The recorder reports that PostgreSQL is down. Without it there is nothing to carry out.
        if (!(error instanceof LedgerUnavailableError))
          outage.failed({ code: 'unexpected', detail: describeError(error) });
      }
      await pause(LOOK_EVERY_MS, signal);
    }
  }

  const running = run();
  return {
    close() {
      closing.abort();
      return running;
    },
  };
}

/** How one worker's work at an action ended. `left`: stopped by an operator, or lost to another worker. */
type End = 'done' | 'failed' | 'left' | 'given_back';

type Deps = ActionRunnerOptions & { readonly signal: AbortSignal; readonly outage: ReturnType<typeof createOutageLog> };

/** Never rejects for a reason that passes. @throws LedgerUnavailableError when the lease could not be given back */
async function carryOut(action: LeasedAction, verb: DeadLetterVerb, deps: Deps): Promise<End> {
  const { actions, openQueue, signal } = deps;
  const queue = await openQueue();
  try {
    const end = await walk(action, verb, { ...deps, queue });
    if (end === 'given_back') await actions.release(action);
    return end;
  } catch (error) {
    if (signal.aborted) return 'given_back';
    if (error instanceof LedgerUnavailableError) throw error;
    // A fault of our own would meet every worker, and hold up the other actions.
    const noted = await actions.find(action.id);
    await actions.end(action, 'failed', { ...noted?.progress, error: describeError(error) });
    deps.logger.error('an action failed', { id: action.id, cause: describeError(error) });
    return 'failed';
  } finally {
    queue.close();
  }
}

async function walk(
  action: LeasedAction,
  verb: DeadLetterVerb,
  deps: Deps & { readonly queue: OperatorQueue },
): Promise<End> {
  const { actions, openDeadLetters, signal, outage, isFit } = deps;
  const mayGoOn = () => !signal.aborted && isFit();
  const { filter, letters: total } = selectionOf(action);
  const perSecond = action.perSecond!;
  const limit = Math.min(MAX_BATCH, Math.max(1, Math.round((perSecond * BATCH_MS) / 1_000)));
  let { done, skipped } = (action.progress ?? { done: 0, skipped: {} }) as unknown as Progress;
  let cursor = action.cursor ?? '0';

  /** Repeats what meets an outage, and notes why the action waits. @returns undefined when the worker must leave it */
  async function patiently<T>(work: () => Promise<T>, soFar: () => Progress): Promise<T | undefined> {
    let since: string | undefined;
    for (;;) {
      try {
        const result = await work();
        outage.ended();
        return result;
      } catch (error) {
        const failure = whyItWaits(error);
        if (failure === undefined) throw error;
        if (!mayGoOn()) return undefined;
        outage.failed(failure, { id: action.id });
        since ??= new Date().toISOString();
        if (!(await noteWaiting({ ...failure, since }, soFar))) return undefined;
      }
      await pause(RETRY_MS, signal);
      if (!mayGoOn()) return undefined;
    }
  }

  /** False when the action is not this worker's any more. While PostgreSQL is down that cannot be known. */
  async function noteWaiting(waiting: NonNullable<Progress['waiting']>, soFar: () => Progress): Promise<boolean> {
    try {
      // The letters of the batch count when the cursor has passed it: another worker would count them again.
      if (await actions.advance(action, cursor, { done, skipped, waiting })) return true;
      // After a stop nobody goes on.
      await actions.advance(action, cursor, { ...soFar() });
      return false;
    } catch (error) {
      if (error instanceof LedgerUnavailableError) return true;
      throw error;
    }
  }

  while (mayGoOn()) {
    const startedAtMs = performance.now();
    const batch = createBatch(verb, { ...deps, to: filter.to, who: action.who });
    const soFar = (): Progress => ({ done: done + batch.done, skipped: plus(skipped, batch.skipped) });
    const piece = await patiently(async () => {
      const walked = await openDeadLetters.walk(filter, { afterId: cursor, limit });
      await batch.treat(walked.letters);
      return walked;
    }, soFar);
    if (piece === undefined) break;
    ({ done, skipped } = soFar());
    cursor = piece.reachedId;
    const { isEnd } = piece;
    // They were open at the start, and the walk did not meet them as such.
    const left = (total ?? 0) - done - countOf(skipped);
    if (isEnd && left > 0) skipped = plus(skipped, { not_open: left });
    const progress = { done, skipped };
    const isOurs = await patiently(
      async () =>
        (await actions.advance(action, cursor, progress)) && (!isEnd || (await actions.end(action, 'done', progress))),
      () => progress,
    );
    if (isOurs !== true) break;
    if (isEnd) return 'done';
    const pauseMs = piece.letters.length === 0 ? WINDOW_PAUSE_MS : (1_000 * piece.letters.length) / perSecond;
    await pause(startedAtMs + pauseMs - performance.now(), signal);
  }
  return mayGoOn() ? 'left' : 'given_back';
}

/** Resolves early when the runner closes. */
async function pause(ms: number, signal: AbortSignal): Promise<void> {
  await sleep(Math.max(0, ms), undefined, { signal }).catch(() => undefined);
}

/** Why the action waits; undefined for a fault that does not pass by itself. */
function whyItWaits(error: unknown): { code: string; detail: string } | undefined {
  if (error instanceof QueueFullError) {
    return { code: error.code, detail: 'the queue is nearly full; the rest of it is for the payments of clients' };
  }
  if (error instanceof QueueUnavailableError || error instanceof LedgerUnavailableError) {
    return { code: error.code, detail: error.message };
  }
  return undefined;
}

/** Treats the letters of one batch, each once, however often `treat` is repeated after an outage. */
function createBatch(
  verb: DeadLetterVerb,
  { openDeadLetters, queue, to, who }: Pick<Deps, 'openDeadLetters'> & { queue: OperatorQueue; to: Date; who: string },
) {
  const treated = new Set<string>();
  const batch = {
    done: 0,
    skipped: {} as Progress['skipped'],
    /** @throws LedgerUnavailableError, QueueUnavailableError, QueueFullError: the rest is not treated */
    async treat(letters: readonly WalkedDeadLetter[]): Promise<void> {
      const left = letters.filter(({ id }) => !treated.has(id));
      const { eligible, skipped } = await judge(verb, left, { openDeadLetters, areQueued: queue.areQueued });
      batch.skipped = plus(batch.skipped, skipped);
      const isEligible = new Set(eligible);
      for (const letter of left) if (!isEligible.has(letter)) treated.add(letter.id);
      if (verb === 'retry') await inParallel(eligible, ENQUEUES_AT_ONCE, retry);
      else await discard(eligible);
    },
  };

  async function retry({ id, jobId, payload, acceptedAt }: WalkedDeadLetter): Promise<void> {
    const result = await queue.enqueueAgain({ id: jobId, data: payload!, acceptedAt });
    treated.add(id);
    if (result === 'queued') batch.done += 1;
    else batch.skipped = plus(batch.skipped, { in_queue: 1 });
  }

  async function discard(letters: readonly WalkedDeadLetter[]): Promise<void> {
    const ids = letters.map(({ id }) => id);
    const count = await openDeadLetters.discard(ids, { to, who });
    for (const id of ids) treated.add(id);
    batch.done += count;
    if (count < ids.length) batch.skipped = plus(batch.skipped, { not_open: ids.length - count });
  }

  return batch;
}
