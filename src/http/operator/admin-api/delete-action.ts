import type { RequestHandler } from 'express';
import { stopAction } from '../../../operations/dead-letter-actions.ts';
import { parseReason } from '../../../operations/dead-letter-query.ts';
import type { OperatorDeps } from '../routes.ts';
import { actionId } from './get-action.ts';

/** `DELETE /admin/api/actions/{id}`: stops an action that runs. Its worker ends within a second. */
export function deleteAction(deps: Pick<OperatorDeps, 'actions' | 'trail'>): RequestHandler {
  return async ({ params, query }, response) => {
    const who = String(response.locals['operator']);
    const id = actionId(params['id']);
    response.json(await stopAction(id, { who, reason: parseReason(query['reason']) }, deps));
  };
}
