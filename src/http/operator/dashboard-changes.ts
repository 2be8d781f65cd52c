/** A changing request of bull-board's pages. Its path is relative to {@link DASHBOARD_PATH}. */
export interface DashboardChange {
  readonly method: 'PUT';
  readonly path: string;
  readonly action: string;
}

/** The path of bull-board. */
export const DASHBOARD_PATH = '/admin/queues';

/** Changes that an operator may make. Not to remove or edit a payment: it would be lost, or paid as another one. */
export const DASHBOARD_CHANGES: readonly DashboardChange[] = [
  { method: 'PUT', path: '/api/queues/pause', action: 'queues.pause' },
  { method: 'PUT', path: '/api/queues/resume', action: 'queues.resume' },
  { method: 'PUT', path: '/api/queues/:queue/pause', action: 'queue.pause' },
  { method: 'PUT', path: '/api/queues/:queue/resume', action: 'queue.resume' },
  { method: 'PUT', path: '/api/queues/:queue/promote', action: 'queue.promote' },
  { method: 'PUT', path: '/api/queues/:queue/retry/failed', action: 'dead_letters.retry' },
  { method: 'PUT', path: '/api/queues/:queue/:job/retry', action: 'dead_letter.retry' },
  { method: 'PUT', path: '/api/queues/:queue/:job/promote', action: 'payment.promote' },
];

const PATTERNS = DASHBOARD_CHANGES.map(({ method, path }) => {
  // For bull-board `clean` is not a job: `PUT …/clean/<state>` removes all jobs of a state.
  const pattern = path.replace(':queue', '[^/]+').replace(':job', '(?!clean/)[^/]+');
  return { method, pattern: new RegExp(`^${pattern}$`) };
});

/** Whether an operator may make this change. @param path relative to {@link DASHBOARD_PATH} */
export function isAllowedChange(method: string, path: string): boolean {
  return PATTERNS.some((change) => change.method === method && change.pattern.test(path));
}
