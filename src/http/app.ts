import express, { type Express, type RequestHandler } from 'express';
import type { Config } from '../config.ts';
import { MethodNotAllowedError, NotFoundError } from '../errors.ts';
import type { DeadLetters } from '../ledger/dead-letters.ts';
import type { Ledger } from '../ledger/ledger.ts';
import type { FindPaymentStatus } from '../operations/payment-status.ts';
import type { RelayHealthCheck } from '../operations/relay-health.ts';
import type { Trail } from '../operations/trail.ts';
import type { Logger } from '../process/logger.ts';
import type { Enqueuer } from '../queue/enqueuer.ts';
import type { QueueAdmin } from '../queue/queue-admin.ts';
import type { Metrics } from '../telemetry/metrics.ts';
import { bearerAuth } from './bearer-auth.ts';
import { errorHandler } from './error-handler.ts';
import { type OperatorLogins, operatorAuth } from './operator/operator-auth.ts';
import { sameOriginOnly } from './operator/same-origin.ts';
import { trailGuard } from './operator/trail-guard.ts';
import type { Route } from './routes.ts';
import { secureData, secureErrors, securePages } from './security-headers.ts';

/** The parts that the API's routes use. operator/routes.ts has its own. */
export interface AppDeps {
  readonly enqueuer: Pick<Enqueuer, 'enqueue' | 'enqueueAgain' | 'probe'>;
  readonly ledger: Pick<Ledger, 'summarise' | 'purge' | 'ping'>;
  readonly deadLetters: Pick<DeadLetters, 'find'>;
  readonly findPaymentStatus: FindPaymentStatus;
  readonly queueAdmin: QueueAdmin;
  readonly healthCheck: Pick<RelayHealthCheck, 'check'>;
  readonly metrics: Metrics;
  readonly metricsToken: string | undefined;
  readonly config: Config['http'];
  readonly logger: Logger;
  /** False once the process has been told to stop. Load balancers should then choose another node. */
  readonly isAccepting: () => boolean;
}

interface AppOptions {
  /** Who may use the routes for the operator. */
  readonly logins?: OperatorLogins | undefined;
  /** Where changes by operators leave their rows. */
  readonly trail?: Trail | undefined;
  readonly logger: Logger;
}

/**
 * Serves a table of routes, with the responses to all other requests: the API, and the worker's own port. It does not listen:
 * server.ts does, or supertest in tests.
 */
export function createApp(routes: readonly Route[], { logins, trail, logger }: AppOptions): Express {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', 'simple');

  const guardsOf = createGuards(logins, logger);
  const rowOf = createRowGuards(trail);
  const serve = ({ method, path }: Route, handlers: readonly RequestHandler[]) => {
    if (handlers.length > 0) app[method.toLowerCase() as Lowercase<typeof method>](path, ...handlers);
  };
  const exact = routes.filter(({ mount }) => mount === undefined);
  for (const route of exact) serve(route, [...guardsOf(route), ...rowOf(route), route.handler]);
  for (const path of new Set(exact.map((route) => route.path))) {
    const allowed = methodsOf(exact.filter((route) => route.path === path));
    app.all(path, () => {
      throw new MethodNotAllowedError(allowed);
    });
  }
  // Routes with one mount share guards and handler, but each change among them has a row of its own.
  for (const [mount, sharing] of Map.groupBy(routes, (route) => route.mount)) {
    if (mount === undefined) continue;
    const [first] = sharing as [Route, ...Route[]];
    app.use(mount, noteMount(mount), ...guardsOf(first));
    for (const route of sharing) serve(route, rowOf(route));
    app.use(mount, first.handler);
  }

  app.use((request) => {
    throw new NotFoundError(`no such path: ${request.path}`);
  });
  app.use(secureErrors, errorHandler(logger));
  return app;
}

/** The handler of a mount has routes of its own. They are not in our table, so the request counts for the mount. */
function noteMount(mount: string): RequestHandler {
  return (_request, response, next) => {
    response.locals['mount'] = mount;
    next();
  };
}

/** Makes the guards of a route. @throws an Error for an operator's route when no operator is set: anybody could use it. */
function createGuards(logins: OperatorLogins | undefined, logger: Logger): (route: Route) => RequestHandler[] {
  const operator = logins && operatorAuth(logins, logger);
  return ({ role, path, mount, bearer, from, isEmptyOnSuccess = false }) => {
    const guards: RequestHandler[] = isEmptyOnSuccess ? [] : [mount === undefined ? secureData : securePages];
    if (role === 'operator') {
      if (operator === undefined) throw new Error(`${path} is for the operator, but no operator is set`);
      guards.push(operator);
    }
    if (bearer !== undefined) guards.push(bearerAuth(bearer, logger));
    if (from === 'own_pages') guards.push(sameOriginOnly);
    return guards;
  };
}

/** Makes the guard that writes a route's row, if it needs one. @throws an Error for such a route when there is no trail */
function createRowGuards(trail: Trail | undefined): (route: Route) => RequestHandler[] {
  return (route) => {
    const { path, changesState = false, row = 'by_guard' } = route;
    if (!changesState || row !== 'by_guard') return [];
    if (trail === undefined) throw new Error(`${path} changes state, but there is no trail`);
    return [trailGuard(trail, route)];
  };
}

/** Express handles HEAD with the handler of GET. */
function methodsOf(routes: readonly Route[]): string[] {
  return routes.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method]));
}
