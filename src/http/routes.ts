import type { RequestHandler } from 'express';
import type { AppDeps } from './app.ts';
import { dashboard } from './operator/dashboard.ts';
import { DASHBOARD_CHANGES, DASHBOARD_PATH } from './operator/dashboard-changes.ts';
import { health, live, ready } from './operator/health.ts';
import { purge } from './operator/purge.ts';
import { getSummary } from './payments/get-summary.ts';
import { postPayment } from './payments/post-payment.ts';

/** What the API can be asked for. */
export interface Route {
  /** A GET route serves HEAD as well. */
  readonly method: 'GET' | 'POST' | 'PUT';
  /** As Express reads it. */
  readonly path: string;
  readonly handler: RequestHandler;
  /** The path that the handler serves together with all below it. Then several routes have one handler. */
  readonly mount?: string;
  /** What it does, for the records of who did what. */
  readonly action?: string;
  /** Who may ask for it; without one, everybody who reaches the port. */
  readonly role?: 'operator';
  readonly changesState?: boolean;
}

/** Every route, as the configuration has it. */
export function createRoutes(deps: AppDeps): readonly Route[] {
  const { config } = deps;
  const routes: Route[] = [
    {
      method: 'POST',
      path: '/payments',
      handler: postPayment(deps),
      action: 'payment.enqueue',
      changesState: true,
    },
    { method: 'GET', path: '/payments-summary', handler: getSummary(deps) },
    { method: 'GET', path: '/health', handler: health(deps) },
    { method: 'GET', path: '/health/live', handler: live() },
    { method: 'GET', path: '/health/ready', handler: ready(deps) },
  ];
  if (config.allowPurge) {
    routes.push({
      method: 'POST',
      path: '/purge-payments',
      handler: purge(deps),
      action: 'payments.purge',
      changesState: true,
    });
  }
  if (config.dashboard) {
    const board = { handler: dashboard(deps), mount: DASHBOARD_PATH, role: 'operator' } as const;
    routes.push(
      { ...board, method: 'GET', path: `${DASHBOARD_PATH}{/*page}` },
      ...DASHBOARD_CHANGES.map(({ method, path, action }) => ({
        ...board,
        method,
        path: DASHBOARD_PATH + path,
        action,
        changesState: true,
      })),
    );
  }
  return routes;
}
