import knex, { type Knex } from 'knex';
import type { DatabaseConfig } from '../config.ts';
import { LedgerUnavailableError, PoolBusyError } from '../errors.ts';

/** How long connecting may take. A refused connection fails at once; this is for a host that does not respond. */
const CONNECT_TIMEOUT_MS = 1_000;

/**
 * Statement timeout of our side. When it expires the call fails and knex destroys the connection. Far above what a
 * statement takes, even one over the whole ledger.
 */
export const STATEMENT_TIMEOUT_MS = 2_000;

/** What PostgreSQL itself allows the statements of a connection, in ms; 0 is no limit. */
export interface SessionLimits {
  readonly statementTimeoutMs: number;
  /** For each lock that a statement waits for. */
  readonly lockTimeoutMs: number;
}

/**
 * Below {@link STATEMENT_TIMEOUT_MS}: PostgreSQL ends the statement before our side drops the connection. A backend that waits for
 * a lock does not notice that its client is gone, so each dropped connection would leave a backend behind, until PostgreSQL
 * has no more.
 */
const SERVICE_LIMITS: SessionLimits = { statementTimeoutMs: 1_800, lockTimeoutMs: 1_500 };

/** For an operator, who waits for a statement as long as it takes. */
export const OPERATOR_LIMITS: SessionLimits = { ...SERVICE_LIMITS, statementTimeoutMs: 0 };

/** How to reach the ledger's database, for knex. */
export function knexConfig({ url, poolSize, ssl }: DatabaseConfig, limits = SERVICE_LIMITS): Knex.Config {
  return {
    client: 'pg',
    // The oldest that is supported. knex asks the server for it otherwise, on the first connection and without a time-out.
    version: '13',
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
      afterCreate: (connection: PgConnection, done: (error?: Error) => void) => setLimits(connection, limits, done),
    },
    // knex prints what goes wrong with a connection besides rejecting with it; whoever catches it logs it.
    log: { warn() {}, error() {}, deprecate() {}, debug() {} },
    // More than connecting and setting the limits may take: a server that hangs must not pass for a busy pool.
    acquireConnectionTimeout: 3 * CONNECT_TIMEOUT_MS,
  };
}

/** A pool of connections, opened as they are needed: PostgreSQL need not be there yet. */
export function createDb(config: DatabaseConfig, limits = SERVICE_LIMITS): Knex {
  return knex(knexConfig(config, limits));
}

/** Connections that the pool has at most. */
export function poolSizeOf(db: Knex): number {
  return (db.client as { pool: { max: number } }).pool.max;
}

/** What is used of pg's client: knex hands it over untyped. */
interface PgConnection {
  query(statement: { text: string; query_timeout: number }, done: (error?: Error) => void): void;
  end(): Promise<void>;
}

/**
 * By SET and not as start-up parameters, which poolers such as PgBouncer refuse. `synchronous_commit` is set, because a
 * payment counts as recorded once its COMMIT has returned, whatever default the server has.
 */
function setLimits(connection: PgConnection, limits: SessionLimits, done: (error?: Error) => void): void {
  const text = `SET statement_timeout = ${limits.statementTimeoutMs}; SET lock_timeout = ${limits.lockTimeoutMs}; SET synchronous_commit = on`;
  connection.query({ text, query_timeout: CONNECT_TIMEOUT_MS }, (error) => {
    // knex forgets a connection whose set-up failed, without closing it.
    if (error) void connection.end().catch(() => undefined);
    done(error);
  });
}

export interface QueryOptions {
  /** When it expires the call fails and the connection is destroyed. Default {@link STATEMENT_TIMEOUT_MS}. */
  timeoutMs?: number;
  /** With a name, PostgreSQL parses and plans the statement once for each connection, not for each call. */
  name?: string;
}

/**
 * Runs one statement on a connection of the pool.
 * @throws LedgerUnavailableError when PostgreSQL did not carry it out for a reason that may pass, see {@link isUnavailable}
 *   (PoolBusyError when no connection of our own pool became free). It may have been carried out. `cause` is the reason.
 * @throws PostgreSQL's own error when the statement itself is at fault.
 */
export function query<Row>(
  db: Knex,
  sql: string,
  bindings: readonly Binding[] = [],
  options: QueryOptions = {},
): Promise<Row[]> {
  return unlessUnavailable(db, () => run(db, sql, bindings, options));
}

/** A value, or an array of them: knex' own type forgets that an array may hold nulls. */
export type Binding = Knex.RawBinding | readonly (string | number | null)[];

async function run<Row>(
  db: Knex,
  sql: string,
  bindings: readonly Binding[],
  { timeoutMs = STATEMENT_TIMEOUT_MS, name }: QueryOptions,
  connection?: PgConnection,
): Promise<Row[]> {
  const statement = db
    .raw<{ rows: Row[] }>(sql, [...bindings] as Knex.RawBinding[])
    .options(name === undefined ? {} : { name });
  if (connection) statement.connection(connection);
  const { rows } = await statement.timeout(timeoutMs);
  return rows;
}

async function unlessUnavailable<T>(db: Knex, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (error instanceof LedgerUnavailableError) throw error;
    if (isPoolTimeout(db, error))
      throw new PoolBusyError('no connection of our own pool became free', { cause: error });
    if (isUnavailable(error)) throw new LedgerUnavailableError('PostgreSQL did not respond', { cause: error });
    throw error;
  }
}

/**
 * Runs `work` in one transaction, on one connection of the pool and with limits of its own. Whatever `work` throws rolls the
 * transaction back and is thrown as it is.
 * @throws as {@link query} does. After a COMMIT that failed it may have been carried out.
 */
export async function inTransaction<T>(
  db: Knex,
  { statementTimeoutMs, lockTimeoutMs }: SessionLimits,
  work: (query: <Row>(sql: string) => Promise<Row[]>) => Promise<T>,
): Promise<T> {
  const connection = await unlessUnavailable(db, async () => (await db.client.acquireConnection()) as PgConnection);
  // PostgreSQL ends a statement before we do, as SERVICE_LIMITS say.
  const timeoutMs = statementTimeoutMs + STATEMENT_TIMEOUT_MS - SERVICE_LIMITS.statementTimeoutMs;
  const inIt = <Row>(sql: string) => unlessUnavailable(db, () => run<Row>(db, sql, [], { timeoutMs }, connection));
  try {
    await inIt(`BEGIN; SET LOCAL statement_timeout = ${statementTimeoutMs}; SET LOCAL lock_timeout = ${lockTimeoutMs}`);
    const result = await work(inIt);
    await inIt('COMMIT');
    return result;
  } catch (error) {
    // What cannot be rolled back holds its locks as long as the connection lives.
    await run(db, 'ROLLBACK', [], {}, connection).catch(() => connection.end().catch(() => undefined));
    throw error;
  } finally {
    await db.client.releaseConnection(connection);
  }
}

/**
 * Whether knex gave up waiting for a connection while our own statements held all of the pool. A statement that timed out
 * has the same name and no cause; with PostgreSQL unreachable the pool is not full.
 */
function isPoolTimeout(db: Knex, error: unknown): boolean {
  if (!(error instanceof Error) || error.name !== 'KnexTimeoutError' || error.cause === undefined) return false;
  const { pool } = db.client as { pool: { numUsed(): number; max: number } };
  return pool.numUsed() >= pool.max;
}

/**
 * True for faults of the way to PostgreSQL or of its state, false for faults of the statement itself.
 *
 * SQLSTATE classes by the PostgreSQL manual, appendix A: 08 connection, 25006 read-only (a replica), 28 login refused,
 * 3D000 no such database, 40 rolled back, 42501 no right to it, 42P01 no such table (not migrated yet), 53 out of disk,
 * memory or connections, 55 not in the state for it, 57 stopped by an operator, 58 system (disk) error.
 * What has no SQLSTATE never reached PostgreSQL or got no response; a fault in our own code is a TypeError or RangeError.
 */
export function isUnavailable(error: unknown): boolean {
  if (!(error instanceof Error) || error instanceof TypeError || error instanceof RangeError) return false;
  const code = sqlStateOf(error);
  return code === undefined || /^(08|25006|28|3D000|40|42501|42P01|53|55|57|58)/.test(code);
}

/** The SQLSTATE of an error, or of what caused it; undefined when PostgreSQL did not say one. */
export function sqlStateOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  // The system's own codes (EPIPE) begin with an E, which no SQLSTATE does.
  return /^[0-9A-DF-Z][0-9A-Z]{4}$/.test(code) ? code : sqlStateOf(error.cause);
}
