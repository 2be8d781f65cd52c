import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { createDb } from '../../src/ledger/db.ts';
import { createOpenDeadLetters } from '../../src/ledger/open-dead-letters.ts';
import { createOperatorActions } from '../../src/ledger/operator-actions.ts';
import { findAction, startDeadLetterAction } from '../../src/operations/dead-letter-actions.ts';
import { atTestEnd } from './cleanup.ts';
import { insertLetters, statesOf } from './dead-letters.ts';
import { eventually } from './relay.ts';
import { sends, startTestStack } from './stack.ts';

/** Payments that a worker has in flight at most. */
const CONCURRENCY = 64;

/** The letters of one batch. */
const BATCH = 100;

const COMMAND = fileURLToPath(new URL('../../src/commands/dead-letters.ts', import.meta.url));

/** Starts the action as `npm run dead-letters` does, 1,000 letters a second. @throws an Error when the command fails */
export async function startByCommand({
  databaseUrl,
  redisUrl,
}: {
  databaseUrl: string;
  redisUrl: string;
}): Promise<void> {
  const which = ['--reason-code', 'rejected', '--per-second', '1000', '--reason', 'the gateway is repaired'];
  const env = { DATABASE_URL: databaseUrl, REDIS_URL: redisUrl, PATH: process.env['PATH'] };
  const child = spawn(process.execPath, [COMMAND, 'retry', ...which], { env, stdio: ['ignore', 'ignore', 'inherit'] });
  const [code] = await once(child, 'exit');
  if (code !== 0) throw new Error(`the command exited with ${code}`);
}

/**
 * Retries so many dead letters, and kills the worker that carries the action out when half is done. Another one must go on: each
 * letter is queued once, and each payment is charged once.
 * @param perSecond may be above what the API allows
 * @param start starts the action; by default the function behind the API and the command does
 */
export async function expectToSurviveKill({
  letters,
  perSecond,
  patienceMs,
  start,
}: {
  letters: number;
  perSecond: number;
  patienceMs: number;
  start?: (env: { databaseUrl: string; redisUrl: string }) => Promise<void>;
}): Promise<void> {
  const stack = await startTestStack({
    apis: 0,
    workers: 2,
    env: { PAYMENT_QUEUE_MAX_CONCURRENCY: String(CONCURRENCY), LOG_LEVEL: 'info' },
  });
  const { databaseUrl, redis, workers, primary, fallback, isQueueEmpty } = stack;
  const rows = await insertLetters(databaseUrl, letters);
  const db = createDb({ url: databaseUrl, poolSize: 2, ssl: false });
  atTestEnd(() => db.destroy());
  const actions = createOperatorActions(db);
  if (start) {
    await start({ databaseUrl, redisUrl: `redis://${redis.options.host}:${redis.options.port}/${redis.options.db}` });
  } else {
    const options = { who: 'a test', reason: 'the gateway is repaired', perSecond };
    await startDeadLetterAction('retry', {}, options, { actions, openDeadLetters: createOpenDeadLetters(db) });
  }
  const id = await eventually(async () => (await actions.list({ limit: 1 }))[0]?.id);
  const progress = async () => (await findAction(id, actions)).progress!;

  await eventually(async () => (await progress()).done >= letters / 2, patienceMs);
  const runner = workers.find((worker) => worker.hasLogged({ id, action: 'dead_letters.retry' }))!;
  await runner.kill();
  const { done } = await progress();
  expect(done, 'nothing was left for the other worker').to.be.lessThan(letters);

  const { state, outcome } = await eventually(async () => {
    const action = await findAction(id, actions);
    return action.state !== 'running' && action;
  }, patienceMs);
  expect(state).to.equal('done');
  // What the killed worker had queued of its last batch is found again: in the queue, or paid.
  const { done: retried, skipped } = outcome as { done: number; skipped: Record<string, number> };
  const again = Object.values(skipped).reduce((sum, count) => sum + count, 0);
  expect(retried + again).to.equal(letters);
  expect(again).to.be.at.most(BATCH);

  await eventually(async () => (await isQueueEmpty()) && (await statesOf(databaseUrl))['paid'] === letters, patienceMs);
  const ids = rows.map(({ correlation_id }) => correlation_id);
  expect([...primary.payments.keys()].sort()).to.deep.equal(ids.sort());
  expect(fallback.requests.total).to.equal(0);
  // Only what the killed worker had in flight is sent again; the gateway knows it.
  const sentTwice = sends(primary, ids).filter((count) => count > 1).length;
  expect(sentTwice).to.be.at.most(CONCURRENCY);
  expect(primary.requests.responded(200)).to.equal(letters);
  expect((await stack.recorded()).primary.size).to.equal(letters);
}
