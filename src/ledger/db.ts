import knex, { type Knex } from 'knex';
import type { DatabaseConfig } from '../config.ts';

/** How long connecting may take. A refused connection fails at once; this is for a host that does not answer. */
const CONNECT_TIMEOUT_MS = 1_000;

/** How to reach the ledger's database, for knex. */
export function knexConfig({ url, poolSize, ssl }: DatabaseConfig): Knex.Config {
  return {
    client: 'pg',
    connection: {
      connectionString: url,
      ssl,
      keepAlive: true,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      application_name: 'payrelay',
    } as Knex.PgConnectionConfig,
    pool: {
      // Connections that sat through an outage are gone when it ends; none are kept for idle times.
      min: 0,
      max: poolSize,
      idleTimeoutMillis: 60_000,
    },
    // knex prints what goes wrong with a connection besides rejecting with it; whoever catches it logs it.
    log: { warn() {}, error() {}, deprecate() {}, debug() {} },
    acquireConnectionTimeout: 2 * CONNECT_TIMEOUT_MS,
  };
}

/** A pool of connections, opened as they are needed: PostgreSQL need not be there yet. */
export function createDb(config: DatabaseConfig): Knex {
  return knex(knexConfig(config));
}
