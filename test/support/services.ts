import { randomUUID } from 'node:crypto';
import pg from 'pg';
import { startPostgres } from '../../dev/local/postgres.ts';
import type { ManagedServer } from '../../dev/local/processes.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { migrate } from '../../dev/stack.ts';
import { atTestEnd } from './cleanup.ts';

/**
 * The Redis and PostgreSQL that all tests of a process share. They start with the first test that uses them. Every test has
 * its own key prefix and its own database there. A test that stops, hangs or fills a server starts one of its own.
 */
let redis: Promise<ManagedServer> | undefined;
let postgres: Promise<ManagedServer> | undefined;

const TEMPLATE = 'payrelay_template';

export function sharedRedis(): Promise<ManagedServer> {
  redis ??= startRedis();
  return redis;
}

export function sharedPostgres(): Promise<ManagedServer> {
  postgres ??= startTestPostgres();
  return postgres;
}

/** A PostgreSQL ready for `freshDatabase`. It does not wait for the disk, as no test cuts the power. */
export async function startTestPostgres(settings: Readonly<Record<string, string>> = {}): Promise<ManagedServer> {
  const server = await startPostgres({ settings: { fsync: 'off', ...settings } });
  await sql(server.url, `CREATE DATABASE ${TEMPLATE}`);
  await migrate(databaseUrl(server, TEMPLATE));
  return server;
}

/** A key prefix of the test's own. */
export function freshPrefix(): string {
  return `{test-${randomUUID()}}`;
}

/** A migrated, empty database of the test's own. */
export async function freshDatabase(server?: ManagedServer): Promise<string> {
  const host = server ?? (await sharedPostgres());
  const name = `test_${randomUUID().replaceAll('-', '')}`;
  await sql(host.url, `CREATE DATABASE ${name} TEMPLATE ${TEMPLATE}`);
  return databaseUrl(host, name);
}

/** Runs one statement on a connection of its own. */
export async function sql<Row extends pg.QueryResultRow>(
  url: string,
  text: string,
  values: unknown[] = [],
): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<Row>(text, values)).rows;
  } finally {
    await client.end();
  }
}

/** Locks a table of the ledger, so that every statement on it waits. @returns a function that releases the lock */
export async function holdTable(url: string, table = 'payments'): Promise<() => Promise<void>> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  atTestEnd(() => client.end());
  await client.query('BEGIN');
  await client.query(`LOCK TABLE ${table} IN ACCESS EXCLUSIVE MODE`);
  return async () => {
    await client.query('ROLLBACK');
  };
}

/** How many of them run. */
export function countSharedServices(): number {
  return [redis, postgres].filter((server) => server !== undefined).length;
}

export async function stopSharedServices(): Promise<void> {
  const servers = await Promise.all([redis, postgres]);
  redis = undefined;
  postgres = undefined;
  for (const server of servers) await server?.dispose();
}

function databaseUrl(server: ManagedServer, name: string): string {
  const url = new URL(server.url);
  url.pathname = `/${name}`;
  return url.href;
}
