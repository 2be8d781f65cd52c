import type { RequestHandler } from 'express';
import { QueueUnavailableError } from '../errors.ts';
import type { AppDeps } from './app.ts';

/** `GET /health`: how much is in the queue. */
export function health({ enqueuer }: Pick<AppDeps, 'enqueuer'>): RequestHandler {
  return async (_request, response) => {
    try {
      const { size, inFlight } = await enqueuer.count();
      response.json({ status: 'ok', queue: { queue_size: size, in_flight: inFlight } });
    } catch (error) {
      if (!(error instanceof QueueUnavailableError)) throw error;
      response.status(error.status).json({ status: 'unavailable', error: error.code });
    }
  };
}

/** `GET /health/live`: this process answers. It depends on nothing, so that a dead Redis does not get the API restarted. */
export function live(): RequestHandler {
  return (_request, response) => {
    response.json({ status: 'ok' });
  };
}

/** `GET /health/ready`: Redis and PostgreSQL are there and the process is not ending; 503 naming what is not. */
export function ready({
  enqueuer,
  ledger,
  isAccepting,
}: Pick<AppDeps, 'enqueuer' | 'ledger' | 'isAccepting'>): RequestHandler {
  return async (_request, response) => {
    const [redis, postgres] = await Promise.allSettled([enqueuer.count(), ledger.ping()]);
    const checks = {
      redis: redis.status === 'fulfilled',
      postgres: postgres.status === 'fulfilled',
      accepting: isAccepting(),
    };
    const isReady = Object.values(checks).every(Boolean);
    response.status(isReady ? 200 : 503).json({ status: isReady ? 'ok' : 'unavailable', checks });
  };
}
