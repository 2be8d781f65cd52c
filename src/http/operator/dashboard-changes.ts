/** A changing request of bull-board's pages. */
export interface DashboardChange {
  readonly method: 'PUT';
  /** Relative to {@link DASHBOARD_PATH}, and spelled as in bull-board's own table of routes. */
  readonly path: string;
  readonly action: string;
  /** As in the table of routes. */
  readonly worksWithoutLedger?: boolean;
}

/** The path of bull-board. */
export const DASHBOARD_PATH = '/admin/queues';

/** Pauses. A note of ours says who began one. */
export const PAUSE_ALL = '/api/queues/pause';
export const PAUSE_ONE = '/api/queues/:queueName/pause';

/** Retries, which we handle ourselves: BullMQ's own retry would enqueue the part of the payload that Redis kept. */
export const RETRY_ALL = '/api/queues/:queueName/retry/failed';
export const RETRY_ONE = '/api/queues/:queueName/:jobId/retry';

/**
 * Changes that an operator may make. Not to remove or edit a payment: it would be lost, or paid as another one.
 * bull-board gets no route for any other change (bull-board.ts), and its pages show no button for one (dashboard.css).
 */
export const DASHBOARD_CHANGES: readonly DashboardChange[] = [
  { method: 'PUT', path: PAUSE_ALL, action: 'queues.pause', worksWithoutLedger: true },
  { method: 'PUT', path: '/api/queues/resume', action: 'queues.resume' },
  { method: 'PUT', path: PAUSE_ONE, action: 'queue.pause', worksWithoutLedger: true },
  { method: 'PUT', path: '/api/queues/:queueName/resume', action: 'queue.resume' },
  { method: 'PUT', path: '/api/queues/:queueName/promote', action: 'queue.promote' },
  { method: 'PUT', path: RETRY_ALL, action: 'dead_letters.retry' },
  { method: 'PUT', path: RETRY_ONE, action: 'dead_letter.retry' },
  { method: 'PUT', path: '/api/queues/:queueName/:jobId/promote', action: 'payment.promote' },
];
