import { parseArgs } from 'node:util';
import { type Config, loadConfig } from '../config.ts';
import { createDb, OPERATOR_LIMITS } from '../ledger/db.ts';
import { createOperatorActions } from '../ledger/operator-actions.ts';
import { createLateRows } from '../operations/late-rows.ts';
import { createTrail } from '../operations/trail.ts';
import { describeError } from '../process/describe-error.ts';
import { createLogger } from '../process/logger.ts';
import { runTool } from '../process/run-tool.ts';
import { createActionOutbox } from '../queue/action-outbox.ts';
import { createShards, type Shards } from '../queue/change-shards.ts';
import type { Shard } from '../queue/read-shard.ts';
import { createProducerConnection, firstConnection } from '../queue/redis.ts';
import { closerOf, isClosed } from '../queue/shard-count.ts';
import { paymentQueues } from '../queue/shards.ts';
import { settingsOrRun } from './run-state.ts';
import { whoRuns } from './who.ts';

const USAGE = `npm run shards -- [--to N --reason …]`;

/** The largest QUEUE_SHARDS. */
const MAX_SHARDS = 256;

/** How often the command says how many payments are left. */
const SAY_EVERY_MS = 2_000;

/**
 * `npm run shards`: shows how many shards the relay has, or changes their number while processes run. Ctrl-C ends a change and
 * opens the shards again. Exits with 0; with 1 when the number was not changed, and for a wrong argument.
 */
async function main(): Promise<number> {
  const { values } = parseArgs({ options: { to: { type: 'string' }, reason: { type: 'string' } } });
  const to = values.to === undefined ? undefined : Number(values.to);
  const reason = values.reason?.trim();
  const isValid = to === undefined || (Number.isInteger(to) && to >= 1 && to <= MAX_SHARDS && reason);
  if (!isValid) {
    console.error(USAGE);
    return 1;
  }
  const config = loadConfig(await settingsOrRun());
  const redis = createProducerConnection(config.redis);
  // A lost connection fails the commands. Without a listener its event would end the process.
  redis.on('error', () => {});
  await firstConnection(redis);
  try {
    const shards = createShards(config, redis);
    if (to !== undefined) await change(to, reason!, { config, redis, shards });
    print(await shards.read());
    return 0;
  } finally {
    redis.disconnect();
  }
}

/** With a row in the trail, so PostgreSQL must be up. */
async function change(
  to: number,
  reason: string,
  { config, redis, shards }: { config: Config; redis: ReturnType<typeof createProducerConnection>; shards: Shards },
): Promise<void> {
  const db = createDb(config.database, OPERATOR_LIMITS);
  const logger = createLogger({ level: 'error', role: 'shards' });
  const actions = createOperatorActions(db);
  const outbox = createActionOutbox({ redis, queue: paymentQueues(config.queue).home });
  const trail = createTrail({ actions, lateRows: createLateRows({ outbox, actions, logger }), logger });
  const interrupt = new AbortController();
  const onSignal = () => interrupt.abort(new Error('interrupted: the number of shards was not changed'));
  process.once('SIGINT', onSignal);
  process.once('SIGTERM', onSignal);
  let nextAtMs = 0;
  try {
    const from = (await shards.read()).length;
    await trail.run({ who: whoRuns(), action: 'shards.change', target: { from, to }, reason }, async () => {
      await shards.change(to, {
        who: whoRuns(),
        signal: interrupt.signal,
        onLeft({ size, inFlight, failed }) {
          if (performance.now() < nextAtMs) return;
          nextAtMs = performance.now() + SAY_EVERY_MS;
          const toBury = size + inFlight > 0 ? '' : `, ${failed} failed ones are not in the ledger yet`;
          console.log(`closed, and not empty yet: ${size} payments wait, ${inFlight} are in flight${toBury}`);
        },
      });
      return { result: undefined, state: 'done', outcome: { before: from, after: to } };
    });
  } finally {
    process.off('SIGINT', onSignal);
    process.off('SIGTERM', onSignal);
    await trail.close();
    await db.destroy();
  }
}

function print(shards: readonly Shard[]): void {
  console.log(`QUEUE_SHARDS=${shards.length}`);
  for (const [index, { queue, mark, size, inFlight }] of shards.entries()) {
    const closed = isClosed(mark)
      ? `; closed ${closerOf(mark)}: if that command was killed, npm run shards -- --to ${shards.length} opens it`
      : '';
    console.log(`  ${index + 1}  ${queue.prefix}  ${size} wait, ${inFlight} in flight${closed}`);
  }
}

function explain(error: unknown): number {
  const { message } = error as Error;
  console.error(message || describeError(error));
  return 1;
}

runTool(import.meta, main, { onError: explain });
