import type { NextFunction, Request, RequestHandler, Response } from 'express';
import { ConflictError, MethodNotAllowedError } from '../../errors.ts';
import { type RetryDeps, type RetryResult, retryFailedJob } from '../../operations/retry-dead-letter.ts';
import { amountTextOf, correlationIdOf } from '../../payment.ts';
import type { QueueAdmin } from '../../queue/queue-admin.ts';
import { DASHBOARD_PATH, isAllowedChange } from './dashboard-changes.ts';

/** The dashboard's requests to retry. BullMQ's own retry would enqueue the part of the payload that Redis kept. */
const RETRY_ALL = '/api/queues/payments/retry/failed';
const RETRY_ONE = /^\/api\/queues\/payments\/([^/]+)\/retry$/;

type DashboardDeps = RetryDeps & { readonly queueAdmin: QueueAdmin };

/** How many dead letters of one "retry all" are retried in parallel. */
const RETRIES_AT_ONCE = 20;

/** A payload nested deeper is not shown. Its JSON would exhaust the stack, and the whole list would fail. */
const MAX_DEPTH = 100;

/**
 * bull-board, behind operator-auth.ts. The first request loads it.
 * @throws QueueUnavailableError from its handler while Redis is down, and MethodNotAllowedError for a forbidden change.
 */
export function dashboard(deps: DashboardDeps): RequestHandler {
  const { queueAdmin } = deps;
  let board: Promise<RequestHandler> | undefined;

  return async (request, response, next) => {
    if (!isAllowed(request)) throw new MethodNotAllowedError(['GET', 'HEAD']);
    // Without Redis, bull-board would respond in its own form and show the inside of the fault.
    if (request.path.startsWith('/api/')) await queueAdmin.ping();
    if (request.method === 'PUT' && (await retry(request, response, deps))) return;
    board ??= loadBoard(queueAdmin);
    board.catch(() => {
      board = undefined;
    });
    (await board)(request, response, next as NextFunction);
  };
}

function isAllowed({ method, path }: Request): boolean {
  return method === 'GET' || method === 'HEAD' || isAllowedChange(method, path);
}

/**
 * Handles a request to retry. Resolves with false when the request is not one, or the payment is not dead: then
 * bull-board responds.
 */
async function retry({ path }: Request, response: Response, deps: DashboardDeps): Promise<boolean> {
  if (path === RETRY_ALL) {
    response.json(await retryAll(deps));
    return true;
  }
  const id = decoded(RETRY_ONE.exec(path)?.[1]);
  if (id === undefined) return false;
  const result = await retryFailedJob(id, deps);
  if (result === 'not_dead') return false;
  if (result !== 'queued') throw notRetried(NOT_RETRIED[result]);
  response.status(204).end();
  return true;
}

/** bull-board's page shows the message only in a body of this form. The key names a text that its page has. */
function notRetried(message: string): ConflictError {
  return new ConflictError(message, { details: { error: { key: 'ERRORS.INTERNAL_SERVER_ERROR' }, message } });
}

function decoded(part: string | undefined): string | undefined {
  try {
    return part === undefined ? undefined : decodeURIComponent(part);
  } catch {
    return undefined;
  }
}

const NOT_RETRIED: Readonly<Record<Exclude<RetryResult, 'queued' | 'not_dead'>, string>> = {
  in_queue: 'This payment is in the queue already.',
  cut: 'The payload of this payment was not kept whole. It has to be posted again.',
};

async function retryAll(deps: DashboardDeps): Promise<{ retried: number; skipped: number }> {
  const ids = (await deps.queueAdmin.failedIds()).values();
  let retried = 0;
  let skipped = 0;
  await Promise.all(
    Array.from({ length: RETRIES_AT_ONCE }, async () => {
      for (const id of ids) {
        if ((await retryFailedJob(id, deps)) === 'queued') retried += 1;
        else skipped += 1;
      }
    }),
  );
  return { retried, skipped };
}

/** A payload in a form that the dashboard can show. */
function shown(data: unknown): unknown {
  if (!isDeeperThan(MAX_DEPTH, data)) return data;
  return { correlationId: correlationIdOf(data), amount: amountTextOf(data), note: 'nested too deep to be shown' };
}

function isDeeperThan(levels: number, value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((part) => isDeeperThan(levels - 1, part));
}

async function loadBoard(queueAdmin: QueueAdmin): Promise<RequestHandler> {
  const [{ createBullBoard }, { BullMQAdapter }, { ExpressAdapter }, queue] = await Promise.all([
    import('@bull-board/api'),
    import('@bull-board/api/bullMQAdapter'),
    import('@bull-board/express'),
    queueAdmin.queue(),
  ]);
  const serverAdapter = new ExpressAdapter();
  serverAdapter.setBasePath(DASHBOARD_PATH);
  const adapter = new BullMQAdapter(queue, {
    description: 'Payments. Failed ones are the newest dead letters; the ledger has all of them.',
  });
  adapter.setFormatter('data', shown);
  createBullBoard({
    queues: [adapter],
    serverAdapter,
    options: { uiConfig: { boardTitle: 'Payrelay' } },
  });
  return serverAdapter.getRouter() as RequestHandler;
}
