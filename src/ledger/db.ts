import knex, { type Knex } from 'knex';
import type { DatabaseConfig } from '../config.ts';
import { LedgerUnavailableError, PoolBusyError } from '../errors.ts';

/** Timeout of connecting. A refused connection fails at once; the timeout is for a host that does not respond. */
const CONNECT_TIMEOUT_MS = 1_000;

/**
 * Statement timeout on our side. When it expires the call fails and knex destroys the connection. Far longer than any
 * statement takes, even one over the whole ledger.
 */
export const STATEMENT_TIMEOUT_MS = 2_000;

/** PostgreSQL's own timeouts for the statements of a connection, in ms. 0 means no limit. */
export interface SessionLimits {
  readonly statementTimeoutMs: number;
  /** Limits the wait for each lock. */
  readonly lockTimeoutMs: number;
}

/**
 * Below {@link STATEMENT_TIMEOUT_MS}, so that PostgreSQL ends the statement before our side drops the connection. A backend
 * that waits for a lock does not notice a dropped connection. Each one would leave such a backend behind, until PostgreSQL
 * has none left.
 */
const SERVICE_LIMITS: SessionLimits = { statementTimeoutMs: 1_800, lockTimeoutMs: 1_500 };

/** For operators: no limit on a statement's duration. */
export const OPERATOR_LIMITS: SessionLimits = { ...SERVICE_LIMITS, statementTimeoutMs: 0 };

/** The ledger's database as a configuration of knex. */
export function knexConfig({ url, poolSize, ssl }: DatabaseConfig, limits = SERVICE_LIMITS): Knex.Config {
  return {
    client: 'pg',
    // The oldest supported version. Without it knex queries the version on the first connection, with no timeout.
    version: '13',
    connection: {
      connectionString: url,
      ssl,
      keepAlive: true,
      connectionTimeoutMillis: CONNECT_TIMEOUT_MS,
      application_name: 'payrelay',
    } as Knex.PgConnectionConfig,
    pool: {
      // Keeps no idle connections, so that none of them is left from before an outage.
      min: 0,
      max: poolSize,
      idleTimeoutMillis: 60_000,
      afterCreate: (connection: PgConnection, done: (error?: Error) => void) => setLimits(connection, limits, done),
    },
    // knex prints connection errors in addition to rejecting with them. Our code that catches them logs them.
    log: { warn() {}, error() {}, deprecate() {}, debug() {} },
    // Longer than connecting and setting the limits take, so that a hanging server does not look like a busy pool.
    acquireConnectionTimeout: 3 * CONNECT_TIMEOUT_MS,
  };
}

/** Creates a pool. It connects on demand, so PostgreSQL may be down when it is created. */
export function createDb(config: DatabaseConfig, limits = SERVICE_LIMITS): Knex {
  return knex(knexConfig(config, limits));
}

/** The maximum number of connections of the pool. */
export function poolSizeOf(db: Knex): number {
  return (db.client as { pool: { max: number } }).pool.max;
}

/** The part of pg's client that we use. knex passes it untyped. */
interface PgConnection {
  query(statement: { text: string; query_timeout: number }, done: (error?: Error) => void): void;
  on(event: 'notice', listener: (notice: { readonly routine?: string }) => void): void;
  end(): Promise<void>;
}

/**
 * Connections whose last COMMIT is not on the synchronous standby. When that wait is cancelled, PostgreSQL commits on its own
 * machine and reports success, with a warning. The warning's text depends on the server's language, and its SQLSTATE says
 * nothing, but it names the function it comes from.
 */
const notReplicated = new WeakSet<PgConnection>();
const COMMIT_WAIT = 'SyncRepWaitForLSN';

/**
 * Uses SET, because poolers such as PgBouncer do not accept these as start-up parameters. Sets `synchronous_commit`, because
 * a payment counts as recorded once its COMMIT has returned, whatever the server's default is.
 */
function setLimits(connection: PgConnection, limits: SessionLimits, done: (error?: Error) => void): void {
  connection.on('notice', ({ routine }) => {
    if (routine === COMMIT_WAIT) notReplicated.add(connection);
  });
  const text = `SET statement_timeout = ${limits.statementTimeoutMs}; SET lock_timeout = ${limits.lockTimeoutMs}; SET synchronous_commit = on`;
  connection.query({ text, query_timeout: CONNECT_TIMEOUT_MS }, (error) => {
    // knex drops a connection whose set-up failed without closing it.
    if (error) void connection.end().catch(() => undefined);
    done(error);
  });
}

export interface QueryOptions {
  /** When it expires the call fails and the connection is destroyed. Default {@link STATEMENT_TIMEOUT_MS}. */
  timeoutMs?: number;
  /** With a name, PostgreSQL parses and plans the statement once per connection, not once per call. */
  name?: string;
}

/**
 * Runs one statement on a connection of the pool.
 * @throws LedgerUnavailableError after a temporary failure, see {@link isUnavailable}, and when PostgreSQL has committed
 *   without its synchronous standby; PoolBusyError when no connection of our own pool became free. The statement may have
 *   taken effect. `cause` is the reason.
 * @throws PostgreSQL's own error when the statement itself is at fault.
 */
export async function query<Row>(
  db: Knex,
  sql: string,
  bindings: readonly Binding[] = [],
  options: QueryOptions = {},
): Promise<Row[]> {
  return (await runOnFree<Row>(db, sql, bindings, options)).rows;
}

/** As {@link query}. @returns how many rows the statement has written */
export async function write(
  db: Knex,
  sql: string,
  bindings: readonly Binding[],
  options: QueryOptions = {},
): Promise<number> {
  return (await runOnFree(db, sql, bindings, options)).rowCount;
}

/** A value or an array of values. knex's own type does not allow nulls in an array. */
export type Binding = Knex.RawBinding | readonly (string | number | null)[];

interface Result<Row> {
  readonly rows: Row[];
  readonly rowCount: number;
}

function runOnFree<Row>(
  db: Knex,
  sql: string,
  bindings: readonly Binding[],
  options: QueryOptions,
): Promise<Result<Row>> {
  return unlessUnavailable(db, async () => {
    const connection = (await db.client.acquireConnection()) as PgConnection;
    try {
      return await run<Row>(db, connection, sql, bindings, options);
    } finally {
      await db.client.releaseConnection(connection);
    }
  });
}

async function run<Row>(
  db: Knex,
  connection: PgConnection,
  sql: string,
  bindings: readonly Binding[],
  { timeoutMs = STATEMENT_TIMEOUT_MS, name }: QueryOptions,
): Promise<Result<Row>> {
  notReplicated.delete(connection);
  const result = await db
    .raw<Result<Row>>(sql, [...bindings] as Knex.RawBinding[])
    .options(name === undefined ? {} : { name })
    .connection(connection)
    .timeout(timeoutMs);
  if (notReplicated.has(connection)) {
    throw new LedgerUnavailableError(
      'PostgreSQL has committed without its synchronous standby: the wait was cancelled',
    );
  }
  return result;
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
 * Runs `work` in one transaction, on one connection of the pool, with its own limits. An error of `work` rolls the
 * transaction back and is rethrown.
 * @throws as {@link query} does. After a failed COMMIT the transaction may have taken effect.
 */
export async function inTransaction<T>(
  db: Knex,
  { statementTimeoutMs, lockTimeoutMs }: SessionLimits,
  work: (query: <Row>(sql: string, bindings?: readonly Binding[]) => Promise<Row[]>) => Promise<T>,
): Promise<T> {
  const connection = await unlessUnavailable(db, async () => (await db.client.acquireConnection()) as PgConnection);
  // Again longer than PostgreSQL's own timeout, for the reason given at SERVICE_LIMITS.
  const timeoutMs = statementTimeoutMs + STATEMENT_TIMEOUT_MS - SERVICE_LIMITS.statementTimeoutMs;
  const inIt = <Row>(sql: string, bindings: readonly Binding[] = []) =>
    unlessUnavailable(db, async () => (await run<Row>(db, connection, sql, bindings, { timeoutMs })).rows);
  try {
    await inIt(`BEGIN; SET LOCAL statement_timeout = ${statementTimeoutMs}; SET LOCAL lock_timeout = ${lockTimeoutMs}`);
    const result = await work(inIt);
    await inIt('COMMIT');
    return result;
  } catch (error) {
    // After a failed ROLLBACK only the end of the connection releases the locks.
    await run(db, connection, 'ROLLBACK', [], {}).catch(() => connection.end().catch(() => undefined));
    throw error;
  } finally {
    await db.client.releaseConnection(connection);
  }
}

/**
 * Whether knex timed out waiting for a connection while our own statements used the whole pool. The timeout of a statement
 * has the same error name, but no cause. While PostgreSQL is unreachable the pool is not full.
 */
function isPoolTimeout(db: Knex, error: unknown): boolean {
  if (!(error instanceof Error) || error.name !== 'KnexTimeoutError' || error.cause === undefined) return false;
  const { pool } = db.client as { pool: { numUsed(): number; max: number } };
  return pool.numUsed() >= pool.max;
}

/**
 * True when the fault is in the connection to PostgreSQL or in its state, false when it is in the statement itself.
 *
 * SQLSTATE classes by the PostgreSQL manual, appendix A: 08 connection, 25006 read-only (a replica), 28 login refused,
 * 3D000 no such database, 40 rolled back, 42501 no right to it, 42883 and 42P01 no such function or table (not migrated yet),
 * 53 out of disk, memory or connections, 55 not in the state for it, 57 stopped by an operator, 58 system (disk) error.
 * An error without SQLSTATE means that the statement did not reach PostgreSQL, or that no response came. Faults in our own
 * code are a TypeError or RangeError.
 */
export function isUnavailable(error: unknown): boolean {
  if (!(error instanceof Error) || error instanceof TypeError || error instanceof RangeError) return false;
  const code = sqlStateOf(error);
  return code === undefined || /^(08|25006|28|3D000|40|42501|42883|42P01|53|55|57|58)/.test(code);
}

/** Whether other statements blocked this one, in PostgreSQL (deadlock, lock timeout) or in our own pool. Nothing has changed then. */
export function isLockConflict(error: unknown): boolean {
  return (
    error instanceof PoolBusyError ||
    (error instanceof LedgerUnavailableError && /^(40|55P03)/.test(sqlStateOf(error) ?? ''))
  );
}

/** The SQLSTATE of an error or of its causes. Undefined when the error is not PostgreSQL's. */
export function sqlStateOf(error: unknown): string | undefined {
  if (!(error instanceof Error)) return undefined;
  const code = 'code' in error && typeof error.code === 'string' ? error.code : '';
  // The system's codes (EPIPE) begin with an E; no SQLSTATE does.
  return /^[0-9A-DF-Z][0-9A-Z]{4}$/.test(code) ? code : sqlStateOf(error.cause);
}
