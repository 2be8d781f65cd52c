import type { RequestHandler } from 'express';
import type { OperatorDeps } from '../routes.ts';

/** `GET /admin/api/state`: everything that the operator's page shows, and who looks at it. */
export function getState({ readState, config }: Pick<OperatorDeps, 'readState' | 'config'>): RequestHandler {
  return async (_request, response) => {
    const user = String(response.locals['operator']);
    const { dashboard } = config;
    response.json({ ...(await readState()), you: { user, mayAct: user === dashboard?.user } });
  };
}
