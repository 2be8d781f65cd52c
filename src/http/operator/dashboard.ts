import { type RequestHandler, type Response, Router } from 'express';
import { ConflictError, MethodNotAllowedError, NotFoundError } from '../../errors.ts';
import { type RetryDeps, type RetryResult, retryFailedJob } from '../../operations/retry-dead-letter.ts';
import { inParallel } from '../../process/in-parallel.ts';
import type { QueueAdmin } from '../../queue/queue-admin.ts';
import type { SteeringStore } from '../../queue/steering.ts';
import { DASHBOARD_CHANGES, PAUSE_ALL, PAUSE_ONE, RETRY_ALL, RETRY_ONE } from './dashboard-changes.ts';
import { mayAct } from './operator-auth.ts';

type DashboardDeps = RetryDeps & {
  readonly queueAdmin: QueueAdmin;
  readonly steering: Pick<SteeringStore, 'notePause'>;
};

/** How many dead letters of one "retry all" are retried in parallel. */
const RETRIES_AT_ONCE = 20;

/**
 * bull-board, behind operator-auth.ts. The first request loads it.
 *
 * An Express router matches the table of allowed changes, so it reads a path as bull-board's router does: without case, with
 * or without a slash at the end, and with escapes.
 * @throws QueueUnavailableError from its handler while Redis is down, and MethodNotAllowedError for a forbidden change.
 */
export function dashboard(deps: DashboardDeps): RequestHandler {
  const { queueAdmin, steering } = deps;
  const boards = { toAct: lazyBoard(queueAdmin, 'act'), toLook: lazyBoard(queueAdmin, 'look') };
  const board: RequestHandler = (request, response, next) =>
    (mayAct(response) ? boards.toAct : boards.toLook)(request, response, next);
  // Without Redis, bull-board would respond in its own form and show the inside of the fault.
  const redisIsUp: RequestHandler = async (_request, _response, next) => {
    await queueAdmin.ping();
    next();
  };
  /** bull-board's table has the name of the queue in the path. @throws NotFoundError */
  const shardOfPath = async (name: unknown) => {
    const shard = boardNames(await queueAdmin.queues()).indexOf(String(name));
    if (shard < 0) throw new NotFoundError('no such queue');
    return shard;
  };
  /** Otherwise the reason of an earlier pause would be taken for that of this one. */
  const notePause: RequestHandler = async (_request, { locals }, next) => {
    await steering.notePause({ who: String(locals['operator']), reason: undefined });
    next();
  };
  const own: Readonly<Record<string, RequestHandler[]>> = {
    [PAUSE_ALL]: [notePause, board],
    [PAUSE_ONE]: [notePause, board],
    [RETRY_ALL]: [
      async ({ params }, response) => {
        response.json(await retryAll(await shardOfPath(params['queueName']), deps));
      },
    ],
    [RETRY_ONE]: [
      async ({ params }, response) => {
        await shardOfPath(params['queueName']);
        await retry(String(params['jobId']), response, deps);
      },
    ],
  };

  const router = Router();
  router.get('/api{/*path}', redisIsUp, board);
  router.get('/{*path}', board);
  for (const { method, path } of DASHBOARD_CHANGES) {
    router[method.toLowerCase() as Lowercase<typeof method>](path, redisIsUp, own[path] ?? board);
  }
  router.all('/{*path}', ({ method }, _response, next) => {
    if (method !== 'GET' && method !== 'HEAD') throw new MethodNotAllowedError(['GET', 'HEAD']);
    next();
  });
  return router;
}

/** Loads bull-board with the first request. A load that failed is tried again with the next. */
function lazyBoard(queueAdmin: QueueAdmin, purpose: 'act' | 'look'): RequestHandler {
  let board: Promise<RequestHandler> | undefined;
  return async (request, response, next) => {
    board ??= Promise.all([import('./bull-board.ts'), queueAdmin.queues()]).then(([{ createBoard }, queues]) =>
      createBoard(queues, boardNames(queues), purpose),
    );
    board.catch(() => {
      board = undefined;
    });
    (await board)(request, response, next);
  };
}

/** How the dashboard names the queue of each shard: `payments`, or `payments-1`, `payments-2` … */
function boardNames(queues: Awaited<ReturnType<QueueAdmin['queues']>>): string[] {
  return queues.map(({ name }, index) => (queues.length === 1 ? name : `${name}-${index + 1}`));
}

async function retry(id: string, response: Response, deps: DashboardDeps): Promise<void> {
  const result = await retryFailedJob(id, deps);
  if (result !== 'queued') throw notRetried(NOT_RETRIED[result]);
  response.status(204).end();
}

/** bull-board's page shows the message only in a body of this form. The key names a text that its page has. */
function notRetried(message: string): ConflictError {
  return new ConflictError(message, { details: { error: { key: 'ERRORS.INTERNAL_SERVER_ERROR' }, message } });
}

const NOT_RETRIED: Readonly<Record<Exclude<RetryResult, 'queued'>, string>> = {
  in_queue: 'This payment is in the queue already.',
  cut: 'The payload of this payment was not kept whole. It has to be posted again.',
  not_dead: 'There is no dead letter of this id among the newest.',
};

/** Of one shard: the page has a button for each. */
async function retryAll(shard: number, deps: DashboardDeps): Promise<{ retried: number; skipped: number }> {
  let retried = 0;
  let skipped = 0;
  await inParallel(await deps.queueAdmin.failedIds(shard), RETRIES_AT_ONCE, async (id) => {
    if ((await retryFailedJob(id, deps)) === 'queued') retried += 1;
    else skipped += 1;
  });
  return { retried, skipped };
}
