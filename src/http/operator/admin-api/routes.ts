import type { AppDeps } from '../../app.ts';
import type { Route } from '../../routes.ts';
import { listActions } from './actions-list.ts';

/** What the operator's page and programs use. Bodies are JSON. */
export function createAdminRoutes(deps: AppDeps): readonly Route[] {
  const shared = { role: 'operator', from: 'own_pages' } as const;
  return [{ ...shared, method: 'GET', path: '/admin/api/actions', handler: listActions(deps) }];
}
