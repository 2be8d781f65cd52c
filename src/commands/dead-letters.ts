import { setTimeout as sleep } from 'node:timers/promises';
import { parseArgs } from 'node:util';
import { loadConfig } from '../config.ts';
import { InvalidRequestError, NotFoundError } from '../errors.ts';
import { createDb } from '../ledger/db.ts';
import { createOpenDeadLetters, type OpenDeadLetters } from '../ledger/open-dead-letters.ts';
import { createOperatorActions, type OperatorActions } from '../ledger/operator-actions.ts';
import { findAction, type ShownAction, startDeadLetterAction } from '../operations/dead-letter-actions.ts';
import { listDeadLetters, shownDeadLetter } from '../operations/dead-letter-list.ts';
import { isRowId, parseActionRequest, parseListQuery } from '../operations/dead-letter-query.ts';
import {
  type DeadLetterVerb,
  dryRun,
  SKIP_REASONS,
  type SkipReason,
  shown,
} from '../operations/dead-letter-verdicts.ts';
import { createLogger } from '../process/logger.ts';
import { runTool } from '../process/run-tool.ts';
import { openOperatorQueue } from '../queue/operator-queue.ts';
import { settingsOrRun } from './run-state.ts';
import { whoRuns } from './who.ts';

/**
 * `npm run dead-letters`: the operator's API as a command. It starts actions; a worker carries them out. Exits with 0, with 1 when
 * an action with `--wait` did not end as `done`, and with 2 for a wrong argument or a server that is down.
 */
const USAGE = `usage: npm run dead-letters -- list | show <id> | retry | discard [options]

  list                open dead letters, the newest first, and how many there are
  show <id>           one dead letter with its payload, in whatever state
  retry, discard      what a filter or ids select; a worker does it, and it outlives this command

  --reason-code <c>   invalid_payment, rejected or payload_missing
  --gateway <g>       tied to primary or fallback
  --from, --to <t>    died between these times (ISO 8601)
  --id <id>           this one; may be repeated, and excludes the others
  --all               every open one
  --limit, --after    pages of a list

  --dry-run           say what would be done, and do nothing
  --per-second <n>    pace, 1 to 1000, default 50
  --reason <text>     why, for the trail; required without --dry-run
  --wait              show the progress until the end

Without settings it uses the \`make run\` that runs here. In a container: node src/commands/dead-letters.ts, with the same options.`;

/** How often `--wait` asks for the progress. */
const LOOK_EVERY_MS = 500;

type Values = ReturnType<typeof readArguments>['values'];

interface Stores {
  readonly openDeadLetters: OpenDeadLetters;
  readonly actions: OperatorActions;
}

function readArguments() {
  return parseArgs({
    allowPositionals: true,
    options: {
      'reason-code': { type: 'string' },
      gateway: { type: 'string' },
      from: { type: 'string' },
      to: { type: 'string' },
      id: { type: 'string', multiple: true },
      all: { type: 'boolean', default: false },
      limit: { type: 'string' },
      after: { type: 'string' },
      'dry-run': { type: 'boolean', default: false },
      'per-second': { type: 'string' },
      reason: { type: 'string' },
      wait: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
}

async function main(): Promise<number> {
  const { values, positionals } = readArguments();
  const [command, id] = positionals;
  if (values.help || command === undefined) {
    console.log(USAGE);
    return values.help ? 0 : 2;
  }
  const config = loadConfig(await settingsOrRun());
  const db = createDb(config.database);
  const stores = { openDeadLetters: createOpenDeadLetters(db), actions: createOperatorActions(db) };
  try {
    switch (command) {
      case 'list':
        return await list(values, stores);
      case 'show':
        return await show(id, stores);
      case 'retry':
      case 'discard':
        return await change(command, values, stores, config);
      default:
        throw new InvalidRequestError([{ param: command, message: 'is no command' }]);
    }
  } finally {
    await db.destroy();
  }
}

function filterOf({ 'reason-code': reason, gateway, from, to }: Values) {
  return { reason, gateway, from, to };
}

async function list(values: Values, { openDeadLetters }: Stores): Promise<number> {
  const query = parseListQuery({ ...filterOf(values), limit: values.limit, after: values.after });
  const { matching, isComplete, deadLetters, next } = await listDeadLetters(query, openDeadLetters);
  for (const [reason, count] of Object.entries(matching)) console.log(`${reason.padEnd(16)} ${shown(count)}`);
  if (!isComplete)
    console.log('There may be more: a count ends at 100,000 of one reason and gateway, or when it takes too long.');
  for (const { id, diedAt, reason, jobId, gateway = '-', amount = '-', detail } of deadLetters) {
    console.log([id, diedAt, reason, jobId, gateway, amount, detail].map(printable).join('  '));
  }
  if (next !== undefined) console.log(`More: --after ${next}`);
  return 0;
}

async function show(id: string | undefined, { openDeadLetters }: Stores): Promise<number> {
  if (!isRowId(id)) throw new InvalidRequestError([{ param: 'id', message: 'must be the id of a dead letter' }]);
  const letter = await openDeadLetters.find(id);
  if (letter === undefined) throw new NotFoundError(`no dead letter has the id ${id}`);
  const { state, stateAt, stateBy, payload } = letter;
  console.log(JSON.stringify({ ...shownDeadLetter(letter), state, stateAt, stateBy, payload }, undefined, 2));
  return 0;
}

async function change(
  verb: DeadLetterVerb,
  values: Values,
  stores: Stores,
  config: ReturnType<typeof loadConfig>,
): Promise<number> {
  const { 'per-second': perSecondText, id: ids, all, reason } = values;
  const fields = Object.entries(filterOf(values)).filter(([, value]) => value !== undefined);
  const request = parseActionRequest({
    ...(fields.length > 0 && { filter: Object.fromEntries(fields) }),
    ...(ids && { ids }),
    ...(all && { all }),
    dryRun: values['dry-run'],
    ...(perSecondText !== undefined && { perSecond: Number(perSecondText) }),
    ...(reason !== undefined && { reason }),
  });
  const { filter, isDryRun, perSecond } = request;
  if (isDryRun) {
    const queue = await openOperatorQueue(config, createLogger({ level: 'error', role: 'dead-letters' }));
    try {
      console.log((await dryRun(verb, filter, { ...stores, areQueued: queue.areQueued })).summary);
    } finally {
      queue.close();
    }
    return 0;
  }
  const action = await startDeadLetterAction(
    verb,
    filter,
    { who: whoRuns(), reason: request.reason, perSecond },
    stores,
  );
  const { id, remaining } = action;
  const letters = remaining === undefined ? 'uncounted' : shown(remaining);
  console.log(`Action ${id} was started: ${letters} dead letters at ${perSecond} a second.`);
  if (!values.wait) return 0;
  const ended = await waitForEnd(action.id, stores);
  return ended.state === 'done' ? 0 : 1;
}

/** Prints each change of the progress. */
async function waitForEnd(id: string, { actions }: Stores): Promise<ShownAction> {
  let printed = '';
  for (;;) {
    const action = await findAction(id, actions);
    const line = progressLine(action);
    if (line !== printed) console.log(line);
    printed = line;
    if (action.state !== 'running') return action;
    await sleep(LOOK_EVERY_MS);
  }
}

function progressLine({ state, progress, remaining }: ShownAction): string {
  const { done = 0, skipped = {}, waiting } = progress ?? {};
  const not = (Object.entries(skipped) as [SkipReason, number][]).map(
    ([why, count]) => `${shown(count)} not: ${SKIP_REASONS[why]}`,
  );
  const parts = [`${state}: ${shown(done)} done`, ...not];
  if (remaining !== undefined) parts.push(`${shown(remaining)} remaining`);
  if (waiting) parts.push(`waits since ${waiting.since}: ${waiting.detail}`);
  return parts.join('; ');
}

/** Clients may post control characters; a terminal must not obey them. */
function printable(text: string): string {
  return text.replaceAll(/\p{Cc}/gu, ' ');
}

function explain(error: unknown): number {
  const { message, code } = error as Error & { code?: string };
  console.error(message);
  if (code?.startsWith('ERR_PARSE_ARGS') || code === 'invalid_request') console.error(USAGE);
  return 2;
}

runTool(import.meta, main, { onError: explain });
