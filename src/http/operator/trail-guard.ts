import type { RequestHandler, Response } from 'express';
import type { Outcome, Trail } from '../../operations/trail.ts';
import type { Route } from '../routes.ts';

/**
 * Writes the row of a change whose handler writes none: before the handler, and after it the status that it responded with.
 * The handler is not called unless the row is written.
 * @throws LedgerUnavailableError; QueueUnavailableError for a change that works without PostgreSQL
 */
export function trailGuard(
  trail: Trail,
  { action, worksWithoutLedger = false }: Pick<Route, 'action' | 'worksWithoutLedger'>,
): RequestHandler {
  if (action === undefined) throw new Error('a change without a name cannot be in the trail');
  return async ({ params, socket }, response, next) => {
    const act = {
      // The purge has no login: every client that reaches the port may send it.
      who: response.locals['operator'] ?? socket.remoteAddress ?? 'unix socket',
      action,
      target: { ...params },
      reason: undefined,
    };
    let isHandled = false;
    const perform = () => {
      isHandled = true;
      const outcome = outcomeOf(response);
      next();
      return outcome;
    };
    try {
      await (worksWithoutLedger ? trail.runAtOnce(act, perform) : trail.run(act, perform));
    } catch (error) {
      // The client has the handler's response already.
      if (!isHandled) throw error;
    }
  };
}

/**
 * Resolves when the handler has responded, whether or not there still is a client: of a lost connection Node tells at once,
 * while the handler is at work.
 * @throws an Error when the service failed, so that the change may have been made in part
 */
function outcomeOf(response: Response): Promise<Outcome<void>> {
  return new Promise((resolve, reject) => {
    const end = response.end;
    response.end = ((...args: Parameters<typeof end>) => {
      const { statusCode: status } = response;
      const code = response.locals['errorCode'];
      if (status >= 500) {
        reject(Object.assign(new Error(`the response was ${status}`), { code }));
      } else {
        const state = status < 400 ? 'done' : 'refused';
        resolve({ result: undefined, state, outcome: { status, ...(code && { error: code }) } });
      }
      return end.apply(response, args);
    }) as typeof end;
  });
}
