import express, { type Express, type RequestHandler } from 'express';
import type { Config } from '../config.ts';
import { MethodNotAllowedError, NotFoundError } from '../errors.ts';
import type { DeadLetters } from '../ledger/dead-letters.ts';
import type { Ledger } from '../ledger/ledger.ts';
import type { Logger } from '../process/logger.ts';
import type { Enqueuer } from '../queue/enqueuer.ts';
import type { QueueAdmin } from '../queue/queue-admin.ts';
import { errorHandler } from './error-handler.ts';
import { operatorAuth } from './operator/operator-auth.ts';
import { createRoutes, type Route } from './routes.ts';

/** What the routes stand on. */
export interface AppDeps {
  readonly enqueuer: Pick<Enqueuer, 'enqueue' | 'enqueueAgain' | 'count' | 'probe'>;
  readonly ledger: Pick<Ledger, 'summarise' | 'purge' | 'ping'>;
  readonly deadLetters: Pick<DeadLetters, 'find'>;
  readonly queueAdmin: QueueAdmin;
  readonly config: Config['http'];
  readonly logger: Logger;
  /** False from the moment the process is asked to stop: a load balancer should look elsewhere. */
  readonly isAccepting: () => boolean;
}

/** All of the HTTP API. It never listens; tests hand it to supertest. */
export function createApp(deps: AppDeps): Express {
  const { config } = deps;
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.set('query parser', 'simple');

  const routes = createRoutes(deps);
  const guardsOf = createGuards(config);
  const exact = routes.filter(({ mount }) => mount === undefined);
  for (const route of exact) {
    const { method, path, handler } = route;
    app[method.toLowerCase() as Lowercase<typeof method>](path, ...guardsOf(route), handler);
  }
  for (const path of new Set(exact.map((route) => route.path))) {
    const allowed = methodsOf(exact.filter((route) => route.path === path));
    app.all(path, () => {
      throw new MethodNotAllowedError(allowed);
    });
  }
  const mounts = new Map(routes.map((route) => [route.mount, route]));
  for (const [mount, route] of mounts) if (mount !== undefined) app.use(mount, ...guardsOf(route), route.handler);

  app.use((request) => {
    throw new NotFoundError(`no such path: ${request.path}`);
  });
  app.use(errorHandler(deps.logger));
  return app;
}

/** What stands before a route. @throws an Error for an operator's route without an operator: it would be open to all. */
function createGuards({ dashboard }: Config['http']): (route: Route) => RequestHandler[] {
  const operator = dashboard && operatorAuth(dashboard);
  return ({ role, path }) => {
    if (role === undefined) return [];
    if (operator === undefined) throw new Error(`${path} is for the operator, and there is none`);
    return [operator];
  };
}

/** Express serves HEAD by the handler of GET. */
function methodsOf(routes: readonly Route[]): string[] {
  return routes.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method]));
}
