import type { RequestHandler } from 'express';
import type { AppDeps } from '../app.ts';

/**
 * `POST /purge-payments`: empties queue and ledger. For tests and the challenge; the route exists only with ALLOW_PURGE=true.
 *
 * The queue is emptied inside the ledger's transaction. So a failing queue leaves the ledger as it was, and a ledger that
 * cannot be emptied leaves the queue as it was. Two stores allow no more: when the queue fails halfway, or the COMMIT fails,
 * the response is 503, part of the purge is done, and another purge does the rest.
 */
export function purge({
  ledger,
  queueAdmin,
  logger,
}: Pick<AppDeps, 'ledger' | 'queueAdmin' | 'logger'>): RequestHandler {
  return async (_request, response) => {
    // Fails before it takes the ledger's locks when Redis is down.
    await queueAdmin.ping();
    await ledger.purge(() => queueAdmin.purge());
    logger.warn('queue and ledger were purged');
    response.json({ message: 'All payments purged.' });
  };
}
