import { timingSafeEqual } from 'node:crypto';
import type { NextFunction, Request, RequestHandler, Response } from 'express';
import type { QueueAdmin } from '../queue/queue-admin.ts';

/** Changes an operator may make. Removing or editing a payment is not among them: it would be lost, or paid as another. */
const ALLOWED_CHANGES =
  /^\/api\/queues\/(pause|resume|[^/]+\/(pause|resume|promote|retry\/failed|(?!clean\/)[^/]+\/(retry|promote)))$/;

const BASE_PATH = '/admin/queues';

/**
 * bull-board behind basic auth. It is loaded by the first request that gets past the password.
 * @throws QueueUnavailableError out of its handlers while Redis is away.
 */
export function dashboard(
  credentials: { readonly user: string; readonly password: string },
  queueAdmin: QueueAdmin,
): RequestHandler {
  const expected = `Basic ${Buffer.from(`${credentials.user}:${credentials.password}`).toString('base64')}`;
  let board: Promise<RequestHandler> | undefined;

  return async (request, response, next) => {
    if (!isEqual(request.headers.authorization ?? '', expected)) {
      response.setHeader('WWW-Authenticate', 'Basic realm="Payrelay queues", charset="UTF-8"');
      response.status(401).json({ error: 'unauthorized' });
      return;
    }
    if (!isAllowed(request, response)) return;
    // bull-board would answer in its own way, with the inside of the fault.
    if (request.path.startsWith('/api/')) await queueAdmin.ping();
    board ??= loadBoard(queueAdmin);
    board.catch(() => {
      board = undefined;
    });
    (await board)(request, response, next as NextFunction);
  };
}

/** Browsers send basic auth along with requests that other sites make them send; those carry another Origin. */
function isAllowed(request: Request, response: Response): boolean {
  if (request.method === 'GET' || request.method === 'HEAD') return true;
  const { origin, host } = request.headers;
  if (origin !== undefined && URL.parse(origin)?.host !== host) {
    response.status(403).json({ error: 'forbidden' });
    return false;
  }
  if (request.method === 'PUT' && ALLOWED_CHANGES.test(request.path)) return true;
  response.status(405).setHeader('Allow', 'GET, HEAD').json({ error: 'method_not_allowed' });
  return false;
}

async function loadBoard(queueAdmin: QueueAdmin): Promise<RequestHandler> {
  const [{ createBullBoard }, { BullMQAdapter }, { ExpressAdapter }, queue] = await Promise.all([
    import('@bull-board/api'),
    import('@bull-board/api/bullMQAdapter'),
    import('@bull-board/express'),
    queueAdmin.queue(),
  ]);
  const serverAdapter = new ExpressAdapter();
  serverAdapter.setBasePath(BASE_PATH);
  createBullBoard({
    queues: [new BullMQAdapter(queue, { description: 'Payments. Failed ones are dead letters.' })],
    serverAdapter,
    options: { uiConfig: { boardTitle: 'Payrelay' } },
  });
  return serverAdapter.getRouter() as RequestHandler;
}

function isEqual(given: string, expected: string): boolean {
  const a = Buffer.from(given);
  const b = Buffer.from(expected);
  return a.length === b.length && timingSafeEqual(a, b);
}
