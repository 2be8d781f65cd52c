import pg from 'pg';
import { fromGatewayColumn, type GatewayColumn } from '../src/ledger/gateway-column.ts';
import type { GatewayName } from '../src/payment.ts';
import { gatewayAdmin } from './gateway-admin.ts';
import type { LoadReport } from './load.ts';
import type { Stack } from './stack.ts';

/** A payment in one of the books. */
export interface BookEntry {
  readonly amountCents: number;
  /** ISO UTC with milliseconds. */
  readonly requestedAt: string;
}

export type Book = ReadonlyMap<string, BookEntry>;

/** Everything the four guarantees (README, "Guarantees") are checked on. */
export interface Books {
  /** Ids with a 2xx response. */
  readonly accepted: ReadonlySet<string>;
  /** Ids whose response never arrived or was 503 `queue_unavailable`: they may be paid or not. */
  readonly unknown: ReadonlySet<string>;
  /** Ids with an invalid payload: they must never be paid. */
  readonly deadLetters: ReadonlySet<string>;
  readonly gateways: Readonly<Record<GatewayName, Book>>;
  readonly ledger: Readonly<Record<GatewayName, Book>>;
}

/** The ids that break a guarantee, by guarantee. All are empty when every guarantee was kept. */
export interface Breaches {
  /** Accepted, valid, and not on record at any gateway. */
  readonly lost: readonly string[];
  /** On record at both gateways. */
  readonly paidTwice: readonly string[];
  /** On record at a gateway and not in the ledger for it, or there with another amount or requestedAt. */
  readonly unrecorded: readonly string[];
  /** In the ledger for a gateway that does not have it on record. */
  readonly unpaid: readonly string[];
  /** On record at a gateway although no client can have posted it. */
  readonly phantom: readonly string[];
}

/** Compares sets of ids, amounts and times, not counts. */
export function audit({ accepted, unknown, deadLetters, gateways, ledger }: Books): Breaches {
  const names: GatewayName[] = ['primary', 'fallback'];
  const paid = new Set(names.flatMap((name) => [...gateways[name].keys()]));
  const same = (a: BookEntry | undefined, b: BookEntry) =>
    a !== undefined && a.amountCents === b.amountCents && a.requestedAt === b.requestedAt;
  return {
    lost: [...accepted].filter((id) => !paid.has(id) && !deadLetters.has(id)),
    paidTwice: [...gateways.primary.keys()].filter((id) => gateways.fallback.has(id)),
    unrecorded: names.flatMap((name) =>
      [...gateways[name]].filter(([id, entry]) => !same(ledger[name].get(id), entry)).map(([id]) => id),
    ),
    unpaid: names.flatMap((name) => [...ledger[name].keys()].filter((id) => !gateways[name].has(id))),
    phantom: [...paid].filter((id) => !accepted.has(id) && !unknown.has(id)),
  };
}

/** Whether any guarantee is broken. */
export function isBreached(breaches: Breaches): boolean {
  return Object.values(breaches).some((ids) => ids.length > 0);
}

/**
 * The books of a stack at rest, for {@link audit}.
 * @param deadLetters ids that were posted with an invalid payload
 */
export async function readBooks(
  stack: Pick<Stack, 'primary' | 'fallback' | 'databaseUrl'>,
  { accepted, unknown }: Pick<LoadReport, 'accepted' | 'unknown'>,
  deadLetters: ReadonlySet<string> = new Set(),
): Promise<Books> {
  const [primary, fallback, ledger] = await Promise.all([
    readGateway(stack.primary.url!),
    readGateway(stack.fallback.url!),
    readLedger(stack.databaseUrl),
  ]);
  return { accepted, unknown, deadLetters, gateways: { primary, fallback }, ledger };
}

/** All payments on record at a simulated gateway. */
export async function readGateway(url: string): Promise<Book> {
  const payments = await gatewayAdmin(url).payments();
  return new Map(
    payments.map(({ correlationId, amount, requestedAt }) => [
      correlationId,
      { amountCents: Math.round(amount * 100), requestedAt },
    ]),
  );
}

/** All rows of the ledger. */
export async function readLedger(databaseUrl: string): Promise<Record<GatewayName, Book>> {
  const client = new pg.Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    const { rows } = await client.query<{ id: string; gateway: GatewayColumn; cents: string; at: Date }>(
      'SELECT correlation_id AS id, gateway, amount_cents AS cents, requested_at AS at FROM recorded_payments',
    );
    const books = { primary: new Map<string, BookEntry>(), fallback: new Map<string, BookEntry>() };
    for (const { id, gateway, cents, at } of rows) {
      books[fromGatewayColumn(gateway)].set(id, { amountCents: Number(cents), requestedAt: at.toISOString() });
    }
    return books;
  } finally {
    await client.end();
  }
}

/**
 * The ids of all payments that ever became dead letters, also of those that were closed since. A dead letter without a usable id
 * is listed by its job's id.
 * @param failed the ids of Redis' failed jobs: a worker without the ledger's table of dead letters has them only there
 */
export async function readDeadLetters(databaseUrl: string, failed: readonly string[]): Promise<ReadonlySet<string>> {
  const client = new pg.Client({ connectionString: databaseUrl });
  try {
    await client.connect();
    const { rows: tables } = await client.query<{ name: string | null }>(`SELECT to_regclass('dead_letters') AS name`);
    if (tables[0]!.name === null) return new Set(failed);
    const { rows } = await client.query<{ id: string }>(
      'SELECT coalesce(correlation_id::text, job_id) AS id FROM dead_letters',
    );
    return new Set([...failed, ...rows.map(({ id }) => id)]);
  } finally {
    await client.end();
  }
}
