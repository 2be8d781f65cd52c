import type { AppDeps } from '../../app.ts';
import type { Route } from '../../routes.ts';
import { listActions } from './actions-list.ts';
import { changePause } from './change-pause.ts';
import { changeGateway, getGateways } from './gateways.ts';

/** What the operator's page and programs use. Bodies are JSON. */
export function createAdminRoutes(deps: AppDeps): readonly Route[] {
  const shared = { role: 'operator', from: 'own_pages' } as const;
  const change = { ...shared, method: 'POST', changesState: true, row: 'by_handler' } as const;
  // These work while PostgreSQL is down. Their rows are written later.
  const atOnce = { ...change, worksWithoutLedger: true } as const;
  const gateway = '/admin/api/gateways/:gateway';
  return [
    { ...shared, method: 'GET', path: '/admin/api/actions', handler: listActions(deps) },
    { ...atOnce, path: '/admin/api/pause', action: 'queue.pause', handler: changePause('pause', deps) },
    { ...change, path: '/admin/api/resume', action: 'queue.resume', handler: changePause('resume', deps) },
    { ...shared, method: 'GET', path: '/admin/api/gateways', handler: getGateways(deps) },
    { ...atOnce, path: `${gateway}/stop`, action: 'gateway.stop', handler: changeGateway('stop', deps) },
    { ...change, path: `${gateway}/drain`, action: 'gateway.drain', handler: changeGateway('drain', deps) },
    { ...change, path: `${gateway}/resume`, action: 'gateway.resume', handler: changeGateway('resume', deps) },
  ];
}
