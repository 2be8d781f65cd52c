import type { RequestHandler } from 'express';
import { InvalidRequestError, type ParameterFault } from '../../../errors.ts';
import type { OperatorAction } from '../../../ledger/operator-actions.ts';
import { isRowId } from '../../../operations/dead-letter-query.ts';
import type { OperatorDeps } from '../routes.ts';

const MAX_LIMIT = 200;
const DEFAULT_LIMIT = '50';

/** `GET /admin/api/actions?before=&limit=`: a page of the trail, the newest first. @throws LedgerUnavailableError */
export function listActions({ actions }: Pick<OperatorDeps, 'actions'>): RequestHandler {
  return async ({ query }, response) => {
    const { before, limit = DEFAULT_LIMIT } = query;
    const faults: ParameterFault[] = [];
    if (before !== undefined && !isRowId(before))
      faults.push({ param: 'before', message: 'must be the id of an action' });
    if (!/^\d{1,3}$/.test(String(limit)) || Number(limit) < 1 || Number(limit) > MAX_LIMIT) {
      faults.push({ param: 'limit', message: `must be an integer from 1 to ${MAX_LIMIT}` });
    }
    if (faults.length > 0) throw new InvalidRequestError(faults);
    const page = await actions.list({ before: before as string | undefined, limit: Number(limit) });
    response.json({ actions: page.map(actionJson) });
  };
}

/** An action as the API shows it. What is not known is missing. */
export function actionJson({ key: _key, ...action }: OperatorAction): object {
  return action;
}
