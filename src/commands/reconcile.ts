import { parseArgs } from 'node:util';
import pg from 'pg';
import { type Config, type DatabaseConfig, loadConfig } from '../config.ts';
import { AdminApiError, listAdminPayments, readAdminSummary } from '../gateways/admin-summary.ts';
import type { PaymentOnRecord } from '../gateways/gateway.ts';
import { parsePaymentOnRecord } from '../gateways/on-record.ts';
import { createDb, sqlStateOf } from '../ledger/db.ts';
import { fromGatewayColumn, type GatewayColumn } from '../ledger/gateway-column.ts';
import { createLedger, type GatewayTotals } from '../ledger/ledger.ts';
import { createReconciliations, type GatewayDifference, type Reconciliation } from '../ledger/reconciliations.ts';
import { parseRange, type SummaryRange } from '../ledger/summary-range.ts';
import { type GatewayName, parseCorrelationId } from '../payment.ts';
import { describeError } from '../process/describe-error.ts';
import { inParallel } from '../process/in-parallel.ts';
import { runTool } from '../process/run-tool.ts';
import { createQueueAdmin } from '../queue/queue-admin.ts';
import { paymentQueues } from '../queue/shards.ts';
import { type Releases, readReleases } from './releases.ts';
import { settingsOrRun } from './run-state.ts';

/**
 * `npm run reconcile`: compares the ledger with both gateways. Exits with 0 when nothing differs, with 1 when something does,
 * and with 2 when the comparison failed.
 *
 * It first compares the totals of the range, with one request to each gateway: that needs the challenge's admin API at both.
 * When they differ, it looks up at both gateways every payment that the ledger has in the range, and every id in the queue,
 * among the dead letters and among the released payments that the ledger has no payment of. A released payment that a gateway
 * has on record after all is named with the operator who released it. The simulated gateways also list what they have on record.
 * Another gateway cannot, so of its other payments the output has only the number.
 *
 * The result of a complete comparison is kept in the ledger, where an API node reads it for `/metrics`.
 */
const USAGE = `usage: npm run reconcile -- [--from <ISO 8601>] [--to <ISO 8601>] [--token <admin token of the gateways>]

Compares the ledger with both gateways, which need the admin API of the Rinha de Backend 2025. Without settings it uses the
\`make run\` that runs here. In a container: node src/commands/reconcile.ts, with the same options.`;

const NAMES: readonly GatewayName[] = ['primary', 'fallback'];

/** Look-ups in parallel: enough to be quick, few enough not to slow the gateway down. */
const PARALLEL = 16;

/** Payments of one page of the ledger or the queue. */
const PAGE = 1_000;

interface LedgerRow {
  readonly id: string;
  readonly gateway: GatewayColumn;
  readonly cents: string;
  readonly at: Date;
}

async function main(): Promise<number> {
  const { values } = parseArgs({
    options: {
      from: { type: 'string' },
      to: { type: 'string' },
      token: { type: 'string', default: '123' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  const range = parseRange({ from: values.from, to: values.to }, 'optional');
  const config = loadConfig(await settingsOrRun());
  const urls = { primary: config.gateways.primary.url, fallback: config.gateways.fallback.url };

  const ledger = await summariseLedger(config.database, range);
  const onRecord = {
    primary: await readAdminSummary(urls.primary, values.token, range),
    fallback: await readAdminSummary(urls.fallback, values.token, range),
  };
  console.log('            in the ledger                 at the gateway');
  for (const name of NAMES) console.log(`${name.padEnd(11)} ${show(ledger[name])} ${show(onRecord[name])}`);
  if (ledger.archivedUntil) console.log(`Of it, payments until ${ledger.archivedUntil.toISOString()} are archived.`);
  const differences = {
    primary: differenceOf(ledger.primary, onRecord.primary),
    fallback: differenceOf(ledger.fallback, onRecord.fallback),
  };
  if (NAMES.every((name) => isZero(differences[name]))) {
    console.log('Nothing differs.');
    await keepResult(config.database, { range, differences });
    return 0;
  }

  const client = new pg.Client({ connectionString: config.database.url, ssl: config.database.ssl });
  await client.connect();
  const lines: string[] = [];
  try {
    const releases = await readReleases(client);
    const comparison = { client, config, urls, token: values.token, range, releases };
    lines.push(...(await compareLedger(comparison)));
    lines.push(...(await findUnrecorded(comparison)));
  } finally {
    await client.end();
  }
  for (const line of lines) console.log(line);
  for (const name of NAMES) {
    const { payments: more } = differences[name];
    if (more > 0) console.log(`${name}: ${more} more on record than in the ledger`);
  }
  await keepResult(config.database, { range, differences });
  return 1;
}

/** Adds the result to the ledger, for the metrics. A failure is one line: the comparison is complete without it. */
async function keepResult(database: DatabaseConfig, result: Reconciliation): Promise<void> {
  const db = createDb(database);
  try {
    await createReconciliations(db).add(result);
  } catch (error) {
    const reason =
      sqlStateOf(error) === '42P01' ? 'the schema is older than this command, see db:migrate' : describeError(error);
    console.error(`The result was not kept for the metrics: ${reason}`);
  } finally {
    await db.destroy();
  }
}

async function summariseLedger(database: DatabaseConfig, range: SummaryRange) {
  const db = createDb(database);
  try {
    return await createLedger(db).summarise(range);
  } finally {
    await db.destroy();
  }
}

/** Looks up every payment of the ledger in the range at both gateways. */
async function compareLedger({ client, urls, range, releases }: Comparison): Promise<string[]> {
  const differences: string[] = [];
  let last = '00000000-0000-0000-0000-000000000000';
  for (;;) {
    const { rows } = await client.query<LedgerRow>(
      `SELECT correlation_id AS id, gateway, amount_cents AS cents, requested_at AS at FROM recorded_payments
       WHERE correlation_id > $1
         AND requested_at BETWEEN coalesce($2::timestamptz, '-infinity') AND coalesce($3::timestamptz, 'infinity')
       ORDER BY correlation_id LIMIT ${PAGE}`,
      [last, range.from?.toISOString() ?? null, range.to?.toISOString() ?? null],
    );
    await inParallel(rows, PARALLEL, async ({ id, gateway, cents, at }) => {
      for (const name of NAMES) {
        const found = await find(urls[name], id);
        if (name !== fromGatewayColumn(gateway)) {
          const line = `${id}  recorded for ${fromGatewayColumn(gateway)}, also on record at ${name}`;
          if (found) differences.push(line + releases.describe(id, name));
          continue;
        }
        const recorded = { amountCents: Number(cents), requestedAt: at };
        const line = `${id}  recorded for ${name}`;
        if (!found) differences.push(`${line}, not on record there`);
        else if (!isSame(recorded, found)) {
          differences.push(`${line} as ${describe(recorded)}, on record there as ${describe(found)}`);
        }
      }
    });
    if (rows.length < PAGE) return differences;
    last = rows.at(-1)!.id;
  }
}

interface Comparison {
  readonly client: pg.Client;
  readonly config: Config;
  readonly urls: Record<GatewayName, string>;
  readonly token: string;
  readonly range: SummaryRange;
  /** An operator has declared that a gateway has not made them, so it is news when it has. */
  readonly releases: Releases;
}

/** Names every payment that is on record at a gateway and not in the ledger, as far as the ids are known anywhere. */
async function findUnrecorded({ client, config, urls, token, range, releases }: Comparison): Promise<string[]> {
  /** By id and gateway, because one payment may be in the queue and a dead letter at once. */
  const lines = new Map<string, string>();
  const note = (id: string, name: GatewayName, where: string) => {
    const line = `${id}  on record at ${name}, ${where}not recorded${releases.describe(id, name)}`;
    if (!lines.has(`${id} ${name}`)) lines.set(`${id} ${name}`, line);
  };
  const lookUp = async (ids: readonly string[], where: string) => {
    await inParallel(await withoutRow(client, ids), PARALLEL, async (id) => {
      for (const name of NAMES) if (await find(urls[name], id)) note(id, name, where);
    });
  };
  for await (const ids of queuedIds(config)) await lookUp(ids, 'in the queue and ');
  for await (const ids of deadIds(client)) await lookUp(ids, 'a dead letter and ');
  for (const ids of pagesOf(releases.ids)) await lookUp(ids, '');
  for (const name of NAMES) {
    const listed = await listAdminPayments(urls[name], token, range);
    for (const page of pagesOf((listed ?? []).map(({ correlationId }) => correlationId.toLowerCase()))) {
      for (const id of await withoutRow(client, page)) note(id, name, '');
    }
  }
  return [...lines.values()];
}

/** The ids of the queue's payments, in pages. One may be paid and not recorded yet. */
async function* queuedIds(config: Config): AsyncGenerator<string[]> {
  const queueAdmin = createQueueAdmin(config.redis, paymentQueues(config.queue));
  try {
    await queueAdmin.ping();
    for (const queue of await queueAdmin.queues()) {
      let found = PAGE;
      for (let start = 0; found === PAGE; start += PAGE) {
        const jobs = await queue.getJobs(['active', 'waiting', 'delayed', 'failed'], start, start + PAGE - 1, true);
        yield jobs.flatMap((job) => parseCorrelationId(job?.id) ?? []);
        found = jobs.length;
      }
    }
  } finally {
    await queueAdmin.close();
  }
}

/** The ids of dead letters of which an attempt may have been paid, in pages. */
async function* deadIds(client: pg.Client): AsyncGenerator<string[]> {
  const { rows } = await client.query<{ id: string }>(
    `SELECT DISTINCT correlation_id AS id FROM dead_letters
     WHERE correlation_id IS NOT NULL AND gateway IS NOT NULL AND state NOT IN ('paid', 'recorded')`,
  );
  yield* pagesOf(rows.map(({ id }) => id));
}

/** Those ids that the ledger has no payment of. */
async function withoutRow(client: pg.Client, ids: readonly string[]): Promise<string[]> {
  const { rows } = await client.query<{ id: string }>(
    'SELECT correlation_id AS id FROM recorded_payments WHERE correlation_id = ANY($1::uuid[])',
    [ids],
  );
  const recorded = new Set(rows.map(({ id }) => id));
  return ids.filter((id) => !recorded.has(id));
}

function* pagesOf(ids: readonly string[]): Generator<string[]> {
  for (let start = 0; start < ids.length; start += PAGE) yield ids.slice(start, start + PAGE);
}

async function find(url: string, correlationId: string): Promise<PaymentOnRecord | undefined> {
  const response = await fetch(`${url}/payments/${correlationId}`);
  const body = await response.text();
  if (response.status === 404) return undefined;
  const found = response.ok ? parsePaymentOnRecord(body, correlationId) : undefined;
  if (!found) throw new Error(`${url} cannot look up ${correlationId}: status ${response.status}`);
  return found;
}

function differenceOf(ledger: GatewayTotals, onRecord: GatewayTotals): GatewayDifference {
  return {
    payments: onRecord.totalRequests - ledger.totalRequests,
    amountCents: onRecord.totalAmountCents - ledger.totalAmountCents,
  };
}

function isZero({ payments, amountCents }: GatewayDifference): boolean {
  return payments === 0 && amountCents === 0;
}

function isSame(a: PaymentOnRecord, b: PaymentOnRecord): boolean {
  return a.amountCents === b.amountCents && a.requestedAt.getTime() === b.requestedAt.getTime();
}

function describe({ amountCents, requestedAt }: PaymentOnRecord): string {
  return `${amountCents / 100} of ${requestedAt.toISOString()}`;
}

function show({ totalRequests, totalAmountCents }: GatewayTotals): string {
  return `${String(totalRequests).padStart(12)} ${(totalAmountCents / 100).toFixed(2).padStart(16)}`;
}

function explain(error: unknown): number {
  const { message, code } = error as Error & { code?: string };
  // A failed connection to a name with several addresses has an empty message.
  const text = message || describeError(error);
  const isOfGateway = error instanceof AdminApiError;
  console.error(
    isOfGateway ? `${text}: reconcile needs the admin API of the Rinha de Backend 2025 at both gateways` : text,
  );
  if (code?.startsWith('ERR_PARSE_ARGS') || code === 'invalid_request') console.error(USAGE);
  return 2;
}

runTool(import.meta, main, { onError: explain });
