/** A request of bull-board's pages that changes something. Its path is below {@link DASHBOARD_PATH}. */
export interface DashboardChange {
  readonly method: 'PUT';
  readonly path: string;
  readonly action: string;
}

/** Where bull-board is. */
export const DASHBOARD_PATH = '/admin/queues';

/** Changes an operator may make. Removing or editing a payment is not among them: it would be lost, or paid as another. */
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
  // To bull-board `clean` is no job: `PUT …/clean/<state>` removes all jobs of a state.
  const pattern = path.replace(':queue', '[^/]+').replace(':job', '(?!clean/)[^/]+');
  return { method, pattern: new RegExp(`^${pattern}$`) };
});

/** Whether an operator may do this. @param path below {@link DASHBOARD_PATH} */
export function isAllowedChange(method: string, path: string): boolean {
  return PATTERNS.some((change) => change.method === method && change.pattern.test(path));
}
