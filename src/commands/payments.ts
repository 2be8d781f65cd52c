import { parseArgs } from 'node:util';
import { type Config, loadConfig } from '../config.ts';
import { ConflictError, InvalidRequestError, NotFoundError, type ParameterFault } from '../errors.ts';
import { createLedgerByHand } from '../ledger/by-hand.ts';
import { createDb } from '../ledger/db.ts';
import { createDeadLetters } from '../ledger/dead-letters.ts';
import { createLedger } from '../ledger/ledger.ts';
import { createOperatorActions } from '../ledger/operator-actions.ts';
import { parseInstant } from '../ledger/summary-range.ts';
import { createLateRows } from '../operations/late-rows.ts';
import { createPaymentStatus } from '../operations/payment-status.ts';
import { createSettleByHand } from '../operations/settle-by-hand.ts';
import {
  createSettleUnresolved,
  MAX_PAGE,
  type SettledOrNot,
  type SettledPage,
  type UnresolvedFilter,
} from '../operations/settle-unresolved.ts';
import { createTrail } from '../operations/trail.ts';
import type { GatewayName } from '../payment.ts';
import { parseAmountCents } from '../payment.ts';
import { describeError } from '../process/describe-error.ts';
import { createLogger } from '../process/logger.ts';
import { runTool } from '../process/run-tool.ts';
import { createActionOutbox } from '../queue/action-outbox.ts';
import { combinePaymentFinders, createPaymentFinder } from '../queue/find-payment.ts';
import { createQueueWatch } from '../queue/queue-state.ts';
import { createProducerConnection, firstConnection, logConnection } from '../queue/redis.ts';
import { expectShards } from '../queue/shard-count.ts';
import { createShardWriters } from '../queue/shard-writers.ts';
import { paymentQueues } from '../queue/shards.ts';
import { combineWaitingJobs, createWaitingJobs } from '../queue/waiting-jobs.ts';
import { settingsOrRun } from './run-state.ts';
import { whoRuns } from './who.ts';

/**
 * `npm run payments`: where a payment is, and the operator's acts on payments that stay unresolved for good. Exits with 0, with 1
 * when an act was refused for any payment, and with 2 for a wrong argument or a server that is down.
 */
const USAGE = `usage: npm run payments -- show <id> | unresolved | record <id> | release [<id>] | reject [<id>] [options]

  show <id>             where it is, and why
  unresolved            those that only --gateway may get, the oldest first
  record <id>           the gateway has made it: --gateway, --amount and --requested-at as its provider states them
  release, reject       the gateway has not made it; it never will be made. Without an id: all that --gateway leaves unresolved

  --gateway <g>         primary or fallback
  --amount <n>          in units
  --requested-at <t>    ISO 8601
  --older-than <t>      unresolved since then or earlier (ISO 8601)
  --reason <text>       why, for the trail; required without --dry-run
  --dry-run             say what would be done, and do nothing (release, reject)

Without settings it uses the \`make run\` that runs here. In a container: node src/commands/payments.ts, with the same options.`;

function readArguments() {
  return parseArgs({
    allowPositionals: true,
    options: {
      gateway: { type: 'string' },
      amount: { type: 'string' },
      'requested-at': { type: 'string' },
      'older-than': { type: 'string' },
      reason: { type: 'string' },
      'dry-run': { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
}

type Values = ReturnType<typeof readArguments>['values'];

async function main(): Promise<number> {
  const { values, positionals } = readArguments();
  const [command, id] = positionals;
  if (values.help || command === undefined) {
    console.log(USAGE);
    return values.help ? 0 : 2;
  }
  const relay = await openRelay(loadConfig(await settingsOrRun()));
  try {
    await relay.expectShards();
    switch (command) {
      case 'show':
        print(await relay.paymentStatus(needed(id)));
        return 0;
      case 'unresolved':
        return await listUnresolved(values, relay);
      case 'record':
        print(
          await relay.settleByHand.record(needed(id), statementOf(values), {
            who: whoRuns(),
            reason: reasonOf(values),
          }),
        );
        return 0;
      case 'release':
      case 'reject':
        return id === undefined ? await settleAll(command, values, relay) : await settleOne(command, id, values, relay);
      default:
        throw fault(command, 'is no command');
    }
  } finally {
    await relay.close();
  }
}

type Relay = Awaited<ReturnType<typeof openRelay>>;

/** The stores of a relay, and what operators do over them. */
async function openRelay(config: Config) {
  const logger = createLogger({ level: 'error', role: 'payments' });
  const db = createDb(config.database);
  const queues = paymentQueues(config.queue);
  const { home: queue, shards } = queues;
  const redis = createProducerConnection(config.redis);
  logConnection(redis, logger);
  const writers = createShardWriters(config, redis, queues);
  await firstConnection(redis);
  const ledger = createLedger(db);
  const queueWatch = createQueueWatch({ redis, queue, shards });
  const jobs = combinePaymentFinders(
    shards.map((shard) => createPaymentFinder({ redis, queue: shard, serverCheck: { fault: undefined } })),
  );
  const waitingJobs = combineWaitingJobs(
    shards.map((shard, index) => createWaitingJobs({ redis, queue: shard, writer: writers.shards[index] })),
  );
  const actions = createOperatorActions(db);
  const lateRows = createLateRows({ outbox: createActionOutbox({ redis, queue }), actions, logger });
  const trail = createTrail({ actions, lateRows, logger });
  const settleByHand = createSettleByHand({
    jobs,
    ledger,
    byHand: createLedgerByHand(db),
    deadLetters: createDeadLetters(db, config.deadLetters),
    waitingJobs,
    queueWatch,
    trail,
    releaseAfterMs: config.releaseAfterMs,
  });
  return {
    paymentStatus: createPaymentStatus({ jobs, ledger, queueWatch }),
    expectShards: () => expectShards(redis, queues),
    waitingJobs,
    settleByHand,
    settleUnresolved: createSettleUnresolved({ settle: settleByHand, waitingJobs, trail }),
    async close() {
      await trail.close();
      writers.close();
      redis.disconnect();
      await db.destroy();
    },
  };
}

async function listUnresolved(values: Values, { waitingJobs, paymentStatus }: Relay): Promise<number> {
  const gateway = gatewayOf(values);
  const notedBeforeMs = olderThanOf(values)?.getTime() ?? Number.MAX_SAFE_INTEGER;
  for (let offset = 0; ; offset += MAX_PAGE) {
    const page = await waitingJobs.unresolved(gateway, { offset, limit: MAX_PAGE, notedBeforeMs });
    const statuses = await Promise.all(page.map(({ id }) => paymentStatus(id).catch(() => undefined)));
    for (const [index, { id, since }] of page.entries()) {
      const status = statuses[index];
      const why = status && 'detail' in status ? `${status.state}  ${status.reason}  ${status.detail}` : status?.state;
      console.log([id, since.toISOString(), why ?? ''].map(printable).join('  '));
    }
    if (page.length < MAX_PAGE) return 0;
  }
}

async function settleOne(
  act: 'release' | 'reject',
  id: string,
  values: Values,
  { settleByHand }: Relay,
): Promise<number> {
  if (values['dry-run']) print(await settleByHand.preview(act === 'release' ? 'released' : 'rejected', id));
  else print(await settleByHand[act](id, { who: whoRuns(), reason: reasonOf(values) }));
  return 0;
}

async function settleAll(act: 'release' | 'reject', values: Values, { settleUnresolved }: Relay): Promise<number> {
  const filter = { gateway: gatewayOf(values), olderThan: olderThanOf(values), limit: MAX_PAGE };
  const isDryRun = values['dry-run'];
  const by = { who: whoRuns(), reason: isDryRun ? '' : reasonOf(values) };
  const counts: Record<string, number> = {};
  for (let offset: number | undefined = 0; offset !== undefined; ) {
    const page: UnresolvedFilter = { ...filter, offset };
    const { payments, next }: SettledPage = isDryRun
      ? await settleUnresolved.preview(act === 'release' ? 'released' : 'rejected', page)
      : await settleUnresolved[act](page, by);
    for (const payment of payments) {
      counts[payment.result] = (counts[payment.result] ?? 0) + 1;
      console.log(lineOf(payment));
    }
    offset = next;
  }
  const summary = Object.entries(counts).map(([result, count]) => `${count} ${result}`);
  console.log(`${isDryRun ? 'Would be: ' : ''}${summary.join(', ') || 'no payment is unresolved there'}`);
  return counts['refused'] === undefined ? 0 : 1;
}

function lineOf(payment: SettledOrNot): string {
  const why = payment.result === 'refused' ? `${payment.reason}: ${payment.message}` : payment.gateway;
  return [payment.correlationId, payment.result, why].map(printable).join('  ');
}

/** A client may have posted characters that move a terminal's cursor. */
function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, '?');
}

function print(value: unknown): void {
  console.log(JSON.stringify(value, undefined, 2));
}

function fault(param: string, message: ParameterFault['message']): InvalidRequestError {
  return new InvalidRequestError([{ param, message }]);
}

function needed(id: string | undefined): string {
  if (id === undefined) throw fault('<id>', 'is required');
  return id;
}

function gatewayOf({ gateway }: Values): GatewayName {
  if (gateway !== 'primary' && gateway !== 'fallback') throw fault('--gateway', 'must be primary or fallback');
  return gateway;
}

function reasonOf({ reason = '' }: Values): string {
  if (reason.trim() === '') throw fault('--reason', 'is required: it is for the trail');
  return reason.trim();
}

function olderThanOf({ 'older-than': text }: Values): Date | undefined {
  return text === undefined ? undefined : instantOf('--older-than', text);
}

function statementOf(values: Values) {
  const amountCents = parseAmountCents(Number(values.amount));
  if (amountCents === undefined) throw fault('--amount', 'must be an amount in units');
  const requestedAt = instantOf('--requested-at', values['requested-at'] ?? '');
  return { gateway: gatewayOf(values), amountCents, requestedAt };
}

function instantOf(param: string, text: string): Date {
  const instant = parseInstant(text);
  if (instant === undefined) throw fault(param, 'must be a time in ISO 8601');
  return new Date(instant.ms);
}

function explain(error: unknown): number {
  if (error instanceof ConflictError || error instanceof NotFoundError) {
    console.error(`Refused: ${error.message}`);
    return 1;
  }
  const { message, code } = error as Error & { code?: string };
  console.error(message || describeError(error));
  if (code?.startsWith('ERR_PARSE_ARGS') || code === 'invalid_request') console.error(USAGE);
  return 2;
}

runTool(import.meta, main, { onError: explain });
