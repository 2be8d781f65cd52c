import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import type { AppControllerRoute } from '@bull-board/api/typings/app';
import { ExpressAdapter } from '@bull-board/express';
import type { Queue } from 'bullmq';
import type { RequestHandler } from 'express';
import { amountTextOf, correlationIdOf } from '../../payment.ts';
import { DASHBOARD_CHANGES, DASHBOARD_PATH, RETRY_ALL, RETRY_ONE } from './dashboard-changes.ts';

/** A payload nested deeper is not shown. Its JSON would exhaust the stack, and the whole list would fail. */
const MAX_DEPTH = 100;

/** bull-board over this queue, without the changes that an operator may not make. */
export function createBoard(queue: Queue): RequestHandler {
  const serverAdapter = new OperatorAdapter();
  serverAdapter.setBasePath(DASHBOARD_PATH);
  const adapter = new BullMQAdapter(queue, {
    description: 'Payments. Failed ones are the newest dead letters; the ledger has all of them.',
  });
  adapter.setFormatter('data', shown);
  createBullBoard({
    queues: [adapter],
    serverAdapter,
    options: { uiConfig: { boardTitle: 'Payrelay' } },
  });
  return serverAdapter.getRouter() as RequestHandler;
}

class OperatorAdapter extends ExpressAdapter {
  /**
   * bull-board gets the routes that read, and the allowed changes. So a path that bull-board would read as another change
   * than our table does (`PUT …/CLEAN/promote` is its removal of a state's jobs) changes nothing.
   */
  override setApiRoutes(routes: AppControllerRoute[]): ExpressAdapter {
    return super.setApiRoutes(routes.filter(isOffered));
  }
}

function isOffered({ method, route }: AppControllerRoute): boolean {
  if (method === 'get') return true;
  return BOARD_CHANGES.some((change) => change.path === route && change.method.toLowerCase() === method);
}

const BOARD_CHANGES = DASHBOARD_CHANGES.filter(({ path }) => path !== RETRY_ALL && path !== RETRY_ONE);

/** A payload in a form that the dashboard can show. */
function shown(data: unknown): unknown {
  if (!isDeeperThan(MAX_DEPTH, data)) return data;
  return { correlationId: correlationIdOf(data), amount: amountTextOf(data), note: 'nested too deep to be shown' };
}

function isDeeperThan(levels: number, value: unknown): boolean {
  if (typeof value !== 'object' || value === null) return false;
  return levels === 0 || Object.values(value).some((part) => isDeeperThan(levels - 1, part));
}
