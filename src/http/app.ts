import express, { type Express, type RequestHandler } from 'express';
import type { Config } from '../config.ts';
import { MethodNotAllowedError, NotFoundError } from '../errors.ts';
import type { DeadLetters } from '../ledger/dead-letters.ts';
import type { Ledger } from '../ledger/ledger.ts';
import type { Logger } from '../process/logger.ts';
import type { Enqueuer } from '../queue/enqueuer.ts';
import type { QueueAdmin } from '../queue/queue-admin.ts';
import { errorHandler } from './error-handler.ts';
import { dashboard } from './operator/dashboard.ts';
import { health, live, ready } from './operator/health.ts';
import { purge } from './operator/purge.ts';
import { getSummary } from './payments/get-summary.ts';
import { postPayment } from './payments/post-payment.ts';

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

  const route = (method: 'get' | 'post', path: string, handler: RequestHandler) => {
    app[method](path, handler);
    // Express answers HEAD by the GET handler.
    const allow = method === 'get' ? ['GET', 'HEAD'] : ['POST'];
    app.all(path, () => {
      throw new MethodNotAllowedError(allow);
    });
  };
  route('post', '/payments', postPayment(deps));
  route('get', '/payments-summary', getSummary(deps));
  route('get', '/health', health(deps));
  route('get', '/health/live', live());
  route('get', '/health/ready', ready(deps));
  if (config.allowPurge) route('post', '/purge-payments', purge(deps));
  if (config.dashboard) app.use('/admin/queues', dashboard(config.dashboard, deps));

  app.use((request) => {
    throw new NotFoundError(`no such path: ${request.path}`);
  });
  app.use(errorHandler(deps.logger));
  return app;
}
