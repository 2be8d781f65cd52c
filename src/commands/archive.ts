import { parseArgs } from 'node:util';
import { type Config, loadConfig } from '../config.ts';
import { InvalidRequestError } from '../errors.ts';
import { createArchive } from '../ledger/archive.ts';
import { createDb } from '../ledger/db.ts';
import { createOperatorActions } from '../ledger/operator-actions.ts';
import { parseInstant } from '../ledger/summary-range.ts';
import { type ArchiveDeps, archivePayments, measureArchive } from '../operations/archive-payments.ts';
import { createLateRows } from '../operations/late-rows.ts';
import { createTrail } from '../operations/trail.ts';
import { describeError } from '../process/describe-error.ts';
import { createLogger } from '../process/logger.ts';
import { runTool } from '../process/run-tool.ts';
import { watchSignals } from '../process/signals.ts';
import { createActionOutbox } from '../queue/action-outbox.ts';
import { paymentQueue } from '../queue/payment-queue.ts';
import { createProducerConnection, firstConnection, logConnection } from '../queue/redis.ts';
import { settingsOrRun } from './run-state.ts';
import { whoRuns } from './who.ts';

/**
 * `npm run archive`: moves old payments to the archive, beside a running relay. Exits with 0, with 1 when it was stopped before the
 * end, and with 2 for a wrong argument or a server that is down.
 */
const USAGE = `usage: npm run archive -- --before <ISO 8601> [--dry-run | --reason <text>]

Moves the payments that were requested and recorded before an instant, at least 24 hours ago, from the table payments to
payments_archive. They still count: their ids are not paid again, and totals include them. Ctrl-C ends it after the batch
under way; run it again to go on. End all workers of versions without an archive first: they do not know these ids.

  --before <t>     ISO 8601; a date is its 00:00, without an offset in UTC
  --reason <text>  why, for the trail; required without --dry-run
  --dry-run        say how many payments and bytes it would move, and do nothing

Without settings it uses the \`make run\` that runs here. In a container: node src/commands/archive.ts, with the same options.`;

/** The shortest time between two lines of progress. */
const LINE_EVERY_MS = 1_000;

function readArguments() {
  return parseArgs({
    options: {
      before: { type: 'string' },
      reason: { type: 'string' },
      'dry-run': { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  }).values;
}

type Values = ReturnType<typeof readArguments>;

async function main(): Promise<number> {
  const values = readArguments();
  if (values.help) {
    console.log(USAGE);
    return 0;
  }
  const before = beforeOf(values);
  const reason = values['dry-run'] ? '' : reasonOf(values);
  const signals = watchSignals();
  signals.listen(() => process.exit(1));
  const { close, ...deps } = await openDeps(loadConfig(await settingsOrRun()));
  try {
    const { oldPayments, payments, oldBytes } = await measureArchive(before, deps);
    const size = `${shown(oldPayments)} of ${shown(payments)} payments, about ${(oldBytes / 1_000_000).toFixed(1)} MB`;
    const bound = `requested and recorded before ${before.toISOString()}`;
    if (values['dry-run']) {
      console.log(`Would move ${size}: ${bound}.`);
      return 0;
    }
    console.log(`Moving ${size}: ${bound}.`);
    const stop = new AbortController();
    signals.listen(() => stop.abort());
    const progress = progressOf(oldPayments);
    const act = { before, who: whoRuns(), reason, signal: stop.signal };
    const { moved, isComplete } = await archivePayments(act, deps, progress);
    const end = isComplete
      ? 'What others held locked is left for the next run.'
      : 'It was stopped: run it again to go on.';
    console.log(`Moved ${shown(moved)} payments. ${end}`);
    return isComplete ? 0 : 1;
  } finally {
    await close();
  }
}

/** Prints how many have moved, once in {@link LINE_EVERY_MS} at most. */
function progressOf(oldPayments: number): (moved: number) => void {
  let printedAtMs = performance.now();
  return (moved) => {
    if (performance.now() - printedAtMs < LINE_EVERY_MS) return;
    printedAtMs = performance.now();
    console.log(`${shown(moved)} of ${shown(oldPayments)} moved`);
  };
}

async function openDeps(config: Config): Promise<ArchiveDeps & { close(): Promise<void> }> {
  const logger = createLogger({ level: 'error', role: 'archive' });
  const queue = paymentQueue(config.queue);
  // Only for the end of the row, when PostgreSQL fails: it waits in Redis then.
  const redis = createProducerConnection(config.redis);
  logConnection(redis, logger);
  await firstConnection(redis);
  const db = createDb(config.database);
  const actions = createOperatorActions(db);
  const lateRows = createLateRows({ outbox: createActionOutbox({ redis, queue }), actions, logger });
  const trail = createTrail({ actions, lateRows, logger });
  return {
    archive: createArchive(db),
    trail,
    async close() {
      await trail.close();
      redis.disconnect();
      await db.destroy();
    },
  };
}

function beforeOf({ before = '' }: Values): Date {
  const instant = parseInstant(before);
  if (instant === undefined) throw fault('--before', 'must be a time in ISO 8601');
  return new Date(instant.ms);
}

function reasonOf({ reason = '' }: Values): string {
  if (reason.trim() === '') throw fault('--reason', 'is required: it is for the trail');
  return reason.trim();
}

function fault(param: string, message: string): InvalidRequestError {
  return new InvalidRequestError([{ param, message }]);
}

function shown(count: number): string {
  return count.toLocaleString('en-US');
}

function explain(error: unknown): number {
  const { message, code } = error as Error & { code?: string };
  console.error(message || describeError(error));
  if (code?.startsWith('ERR_PARSE_ARGS') || code === 'invalid_request') console.error(USAGE);
  return 2;
}

runTool(import.meta, main, { onError: explain });
