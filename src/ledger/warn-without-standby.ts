import type { Knex } from 'knex';
import { LedgerUnavailableError } from '../errors.ts';
import type { Logger } from '../process/logger.ts';
import { query } from './db.ts';

/**
 * Logs one warning when a COMMIT waits for no standby. It is no problem of `/health`: a managed PostgreSQL may replicate its
 * disk, which no setting shows. Does nothing while PostgreSQL is unavailable.
 */
export async function warnWithoutStandby(db: Knex, logger: Logger): Promise<void> {
  try {
    const [row] = await query<{ synchronous_standby_names: string }>(db, 'SHOW synchronous_standby_names');
    if (row!.synchronous_standby_names !== '') return;
    logger.warn('the ledger is on one machine, unless its disk is replicated: synchronous_standby_names is empty', {
      code: 'no_standby',
    });
  } catch (error) {
    if (!(error instanceof LedgerUnavailableError)) throw error;
  }
}
