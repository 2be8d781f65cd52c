import type { RequestHandler } from 'express';
import type { AppDeps } from './app.ts';

/** `POST /purge-payments`: empties queue and ledger. For tests and the challenge; ALLOW_PURGE lets it exist. */
export function purge({
  ledger,
  queueAdmin,
  logger,
}: Pick<AppDeps, 'ledger' | 'queueAdmin' | 'logger'>): RequestHandler {
  return async (_request, response) => {
    await queueAdmin.purge();
    await ledger.purge();
    logger.warn('queue and ledger were purged');
    response.json({ message: 'All payments purged.' });
  };
}
