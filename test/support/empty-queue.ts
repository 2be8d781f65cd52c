import type { QueueState } from '../../src/queue/queue-state.ts';

const NONE = { count: 0, oldestMs: 0 };

/** A queue without payments, and no process at it. */
export const EMPTY_QUEUE: QueueState = {
  nowMs: 0,
  size: 0,
  waiting: 0,
  delayed: 0,
  inFlight: 0,
  isPaused: false,
  shards: [{ size: 0, isPaused: false }],
  pausedBy: undefined,
  steering: { primary: { state: 'open' }, fallback: { state: 'open' } },
  oldestMs: 0,
  unresolved: { primary: NONE, fallback: NONE },
  memory: undefined,
  heartbeats: [],
  heartbeatFault: undefined,
};
