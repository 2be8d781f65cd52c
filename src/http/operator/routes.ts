import type { Config } from '../../config.ts';
import type { OpenDeadLetters } from '../../ledger/open-dead-letters.ts';
import type { OperatorActions } from '../../ledger/operator-actions.ts';
import type { ReadRelayState } from '../../operations/read-relay-state.ts';
import type { SettleByHand } from '../../operations/settle-by-hand.ts';
import type { SettleUnresolved } from '../../operations/settle-unresolved.ts';
import type { Trail } from '../../operations/trail.ts';
import type { QueueWatch } from '../../queue/queue-state.ts';
import type { QueuedCheck } from '../../queue/queued-check.ts';
import type { SteeringStore } from '../../queue/steering.ts';
import type { AppDeps } from '../app.ts';
import type { Route } from '../routes.ts';
import { createAdminRoutes } from './admin-api/routes.ts';
import { ADMIN_PATH, adminPage } from './admin-page.ts';
import { dashboard } from './dashboard.ts';
import { DASHBOARD_CHANGES, DASHBOARD_PATH } from './dashboard-changes.ts';

/** The parts that the operator's routes use. */
export interface OperatorDeps extends Pick<AppDeps, 'enqueuer' | 'deadLetters' | 'findPaymentStatus' | 'queueAdmin'> {
  readonly openDeadLetters: OpenDeadLetters;
  readonly areQueued: QueuedCheck;
  /** @throws QueueUnavailableError when the relay has another number of shards than this node */
  readonly expectShards: () => Promise<void>;
  readonly actions: OperatorActions;
  readonly queueWatch: QueueWatch;
  readonly steering: SteeringStore;
  readonly trail: Trail;
  readonly settleByHand: SettleByHand;
  readonly settleUnresolved: SettleUnresolved;
  readonly readState: ReadRelayState;
  readonly config: Config['http'];
}

/** The routes that need the operator's login. A node without one does not load this file, which keeps its heap small. */
export function createOperatorRoutes(deps: OperatorDeps): readonly Route[] {
  const board = { handler: dashboard(deps), mount: DASHBOARD_PATH, role: 'operator', from: 'own_pages' } as const;
  return [
    { ...board, method: 'GET', path: `${DASHBOARD_PATH}{/*page}` },
    ...DASHBOARD_CHANGES.map(({ path, ...change }) => ({
      ...board,
      ...change,
      path: DASHBOARD_PATH + path,
      changesState: true,
    })),
    ...createAdminRoutes(deps),
    // The last, because everything above is below its path.
    {
      method: 'GET',
      path: `${ADMIN_PATH}{/*file}`,
      handler: adminPage(),
      mount: ADMIN_PATH,
      role: 'operator',
      from: 'own_pages',
    },
  ];
}
