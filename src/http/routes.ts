import type { RequestHandler } from 'express';
import type { AppDeps } from './app.ts';
import { DOCS_PATH, docsPage } from './openapi/docs-page.ts';
import { getOpenApi } from './openapi/get-openapi.ts';
import { health, live, ready } from './operator/health.ts';
import { metrics } from './operator/metrics.ts';
import { purge } from './operator/purge.ts';
import { getPayment } from './payments/get-payment.ts';
import { getSummary } from './payments/get-summary.ts';
import { postPayment } from './payments/post-payment.ts';

/** One endpoint of the API, or of a worker's own port. openapi/operations.ts describes it. */
export interface Route {
  /** A GET route serves HEAD as well. */
  readonly method: 'GET' | 'POST' | 'PUT' | 'DELETE';
  /** In Express's syntax. */
  readonly path: string;
  readonly handler: RequestHandler;
  /** When set, the handler serves this path and every path below it, so several routes share one handler. */
  readonly mount?: string;
  /** Name of the change in the trail of operators. */
  readonly action?: string;
  /** Who may call it. Without a role, anybody who can reach the port. */
  readonly role?: 'operator';
  /** The token that a request must send. Undefined: none. */
  readonly bearer?: string | undefined;
  readonly changesState?: boolean;
  /**
   * Who writes the row of a change in the trail of operators: its handler, where it knows more than the status of its response;
   * nobody, when the change is a client's. By default a guard does (operator/trail-guard.ts).
   */
  readonly row?: 'by_guard' | 'by_handler' | 'none';
  /** The change is made also while PostgreSQL is down, and its row is written later. */
  readonly worksWithoutLedger?: boolean;
  /**
   * Which pages may make a browser send a change. Without it any page may: `POST /payments` has no login that a browser would
   * add, and the network in front of it decides who may pay.
   */
  readonly from?: 'own_pages';
  /**
   * The response has no body unless it is an error, so it needs no security headers. For the hot path: they would cost
   * bytes and CPU with every payment.
   */
  readonly isEmptyOnSuccess?: boolean;
}

/**
 * Every route of the API that the configuration enables.
 * @param operatorRoutes those of operator/routes.ts, when the configuration has an operator
 */
export function createRoutes(deps: AppDeps, operatorRoutes: readonly Route[]): readonly Route[] {
  const { config } = deps;
  const routes: Route[] = [
    {
      method: 'POST',
      path: '/payments',
      handler: postPayment(deps),
      action: 'payment.enqueue',
      changesState: true,
      row: 'none',
      isEmptyOnSuccess: true,
    },
    { method: 'GET', path: '/payments/:correlationId', handler: getPayment(deps), bearer: config.statusToken },
    { method: 'GET', path: '/payments-summary', handler: getSummary(deps) },
    { method: 'GET', path: '/health', handler: health(deps) },
    { method: 'GET', path: '/health/live', handler: live() },
    { method: 'GET', path: '/health/ready', handler: ready(deps) },
    { method: 'GET', path: '/metrics', handler: metrics(deps), bearer: deps.metricsToken },
    { method: 'GET', path: '/openapi.json', handler: getOpenApi(() => routes, config) },
    { method: 'GET', path: `${DOCS_PATH}{/*file}`, handler: docsPage(), mount: DOCS_PATH },
  ];
  if (config.allowPurge) {
    routes.push({
      method: 'POST',
      path: '/purge-payments',
      handler: purge(deps),
      action: 'payments.purge',
      changesState: true,
      from: 'own_pages',
    });
  }
  routes.push(...operatorRoutes);
  return routes;
}
