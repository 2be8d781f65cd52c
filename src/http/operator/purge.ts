import type { RequestHandler } from 'express';
import type { AppDeps } from '../app.ts';

/**
 * `POST /purge-payments`: empties queue and ledger. For tests and the challenge; the route exists only with ALLOW_PURGE=true.
 *
 * The queue is emptied inside the ledger's transaction, so that a queue that fails leaves the ledger as it was, and a ledger that
 * cannot be emptied leaves the queue. Two stores cannot do better: a queue that fails halfway, or a COMMIT that fails, is
 * answered 503 with some of it done, and another purge does the rest.
 */
export function purge({
  ledger,
  queueAdmin,
  logger,
}: Pick<AppDeps, 'ledger' | 'queueAdmin' | 'logger'>): RequestHandler {
  return async (_request, response) => {
    // A queue that is down is noticed before anybody has to wait for the ledger's locks.
    await queueAdmin.ping();
    await ledger.purge(() => queueAdmin.purge());
    logger.warn('queue and ledger were purged');
    response.json({ message: 'All payments purged.' });
  };
}
