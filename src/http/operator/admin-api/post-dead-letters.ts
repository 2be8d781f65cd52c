import type { RequestHandler } from 'express';
import { startDeadLetterAction } from '../../../operations/dead-letter-actions.ts';
import { parseActionRequest } from '../../../operations/dead-letter-query.ts';
import { type DeadLetterVerb, dryRun } from '../../../operations/dead-letter-verdicts.ts';
import { readJsonBody } from '../../payments/json-body.ts';
import type { OperatorDeps } from '../routes.ts';

/** `POST /admin/api/dead-letters/{retry,discard}`: starts an action that a worker carries out, or says what it would do. */
export function postDeadLetters(
  verb: DeadLetterVerb,
  deps: Pick<OperatorDeps, 'openDeadLetters' | 'areQueued' | 'actions'>,
): RequestHandler {
  return async (request, response) => {
    const { filter, isDryRun, perSecond, reason } = parseActionRequest((await readJsonBody(request)).value);
    if (isDryRun) {
      response.json(await dryRun(verb, filter, deps));
      return;
    }
    const who = String(response.locals['operator']);
    const action = await startDeadLetterAction(verb, filter, { who, reason, perSecond }, deps);
    response.status(202).location(`/admin/api/actions/${action.id}`).json(action);
  };
}
