import type { RequestHandler } from 'express';
import { NotFoundError } from '../../../errors.ts';
import { findAction } from '../../../operations/dead-letter-actions.ts';
import { isRowId } from '../../../operations/dead-letter-query.ts';
import type { OperatorDeps } from '../routes.ts';

/** `GET /admin/api/actions/{id}`: an action of an operator, and how far it is. */
export function getAction({ actions }: Pick<OperatorDeps, 'actions'>): RequestHandler {
  return async ({ params }, response) => {
    response.json(await findAction(actionId(params['id']), actions));
  };
}

/** @throws NotFoundError for a text that is no id */
export function actionId(id: unknown): string {
  if (!isRowId(id)) throw new NotFoundError('no action has such an id');
  return id;
}
