import type { QueueAdmin } from '../queue/queue-admin.ts';
import type { QueueState, QueueWatch } from '../queue/queue-state.ts';
import type { Decider, SteeredBy, SteeringStore } from '../queue/steering.ts';
import type { Trail } from './trail.ts';

/** Whether workers take payments from the queue. */
export interface PausedQueue {
  readonly isPaused: boolean;
  /** Undefined while it is not paused, or when it was paused by other means than ours. */
  readonly by: SteeredBy | undefined;
  /** Payments that workers had taken before. They are paid all the same. */
  readonly inFlight: number;
}

export interface PauseDeps {
  readonly steering: Pick<SteeringStore, 'notePause'>;
  readonly queueAdmin: Pick<QueueAdmin, 'queues' | 'ping'>;
  readonly queueWatch: QueueWatch;
  readonly trail: Trail;
}

/**
 * Pauses every shard, also while PostgreSQL is down: from now on workers take no payments. It is the same pause as bull-board's.
 * @throws QueueUnavailableError
 */
export async function pauseQueue({ who, reason }: Decider, deps: PauseDeps): Promise<PausedQueue> {
  return deps.trail.runAtOnce({ who, action: 'queue.pause', target: {}, reason }, () =>
    change(deps, async (queues) => {
      await deps.steering.notePause({ who, reason });
      await inEach(queues, (queue) => queue.pause());
      // With DURABILITY=replica a note counts when a replica has it and all that was written before: the pause, too.
      await deps.steering.notePause({ who, reason });
    }),
  );
}

/** Ends a pause, also one of bull-board. @throws QueueUnavailableError, LedgerUnavailableError */
export async function resumeQueue({ who, reason }: Decider, deps: PauseDeps): Promise<PausedQueue> {
  return deps.trail.run({ who, action: 'queue.resume', target: {}, reason }, () =>
    change(deps, async (queues) => {
      await inEach(queues, (queue) => queue.resume());
      await deps.steering.notePause(undefined);
    }),
  );
}

/** @throws QueueUnavailableError */
export async function showQueue({ queueWatch }: Pick<PauseDeps, 'queueWatch'>): Promise<PausedQueue> {
  return pausedQueue(await queueWatch.read());
}

type Queues = Awaited<ReturnType<QueueAdmin['queues']>>;

/** A shard that fails does not keep the others from the change. @throws the first failure, after all have ended */
async function inEach(queues: Queues, act: (queue: Queues[number]) => Promise<unknown>): Promise<void> {
  const results = await Promise.allSettled(queues.map(act));
  const failed = results.find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
}

async function change({ queueAdmin, queueWatch }: PauseDeps, make: (queues: Queues) => Promise<void>) {
  const before = pausedQueue(await queueWatch.read());
  // BullMQ's commands fail in its own way while Redis is down.
  await queueAdmin.ping();
  await make(await queueAdmin.queues());
  const result = pausedQueue(await queueWatch.read());
  return { result, state: 'done', outcome: { before, after: result } } as const;
}

function pausedQueue({ isPaused, pausedBy, inFlight }: QueueState): PausedQueue {
  return { isPaused, by: pausedBy, inFlight };
}
