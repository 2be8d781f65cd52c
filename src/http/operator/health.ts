import type { RequestHandler } from 'express';
import { QueueUnavailableError } from '../../errors.ts';
import { describeError } from '../../process/describe-error.ts';
import { createOutageLog } from '../../process/outage-log.ts';
import type { AppDeps } from '../app.ts';

/**
 * `GET /health`: the size of the queue, and what keeps payments from being accepted or paid. With a problem it is still a 200,
 * because another node would see the same. Its 503 is a report in the same form as its 200, so it is not thrown.
 */
export function health({ healthCheck }: Pick<AppDeps, 'healthCheck'>): RequestHandler {
  return async (_request, response) => {
    try {
      const { queue, workers, problems } = await healthCheck.check();
      response.json({
        status: problems.length === 0 ? 'ok' : 'degraded',
        queue: { queue_size: queue.size, in_flight: queue.inFlight },
        workers,
        ...(problems.length > 0 && { problems }),
      });
    } catch (error) {
      if (!(error instanceof QueueUnavailableError)) throw error;
      response.status(error.status).json({ status: 'unavailable', error: error.code });
    }
  };
}

/** `GET /health/live`: the process responds. It depends on nothing, so that a dead Redis does not restart the API. */
export function live(): RequestHandler {
  return (_request, response) => {
    response.json({ status: 'ok' });
  };
}

/**
 * `GET /health/ready`: 200 when this node can accept payments, 503 when not, with the result of each check. PostgreSQL is
 * reported only: while it is down, payments wait in Redis, and the API must go on accepting them.
 */
export function ready({
  enqueuer,
  ledger,
  isAccepting,
  logger,
}: Pick<AppDeps, 'enqueuer' | 'ledger' | 'isAccepting' | 'logger'>): RequestHandler {
  const outage = createOutageLog(logger, { message: 'not ready', endMessage: 'ready' });

  return async (_request, response) => {
    const [redis, postgres] = await Promise.allSettled([enqueuer.probe(), ledger.ping()]);
    if (redis.status === 'rejected') {
      outage.failed({ code: 'queue_unavailable', detail: describeError(redis.reason) });
    } else {
      outage.ended();
    }
    const checks = {
      redis: redis.status === 'fulfilled',
      postgres: postgres.status === 'fulfilled',
      accepting: isAccepting(),
    };
    const isReady = checks.redis && checks.accepting;
    response.status(isReady ? 200 : 503).json({ status: isReady ? 'ok' : 'unavailable', checks });
  };
}
