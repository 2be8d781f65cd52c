import { readFileSync } from 'node:fs';
import { createBullBoard } from '@bull-board/api';
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter';
import type { AppControllerRoute, AppViewRoute } from '@bull-board/api/typings/app';
import { ExpressAdapter } from '@bull-board/express';
import type { RequestHandler } from 'express';
import { amountTextOf, correlationIdOf } from '../../payment.ts';
import type { BullQueue } from '../../queue/queue-admin.ts';
import { DASHBOARD_CHANGES, DASHBOARD_PATH, RETRY_ALL, RETRY_ONE } from './dashboard-changes.ts';

/** A payload nested deeper is not shown. Its JSON would exhaust the stack, and the whole list would fail. */
const MAX_DEPTH = 100;

/**
 * bull-board over these queues, without the changes that an operator may not make, and without files of other hosts.
 * @param names of the queues, which BullMQ knows by one name and different prefixes
 * @param purpose for one that only looks, the pages have no button for a change
 */
export function createBoard(
  queues: readonly BullQueue[],
  names: readonly string[],
  purpose: 'act' | 'look',
): RequestHandler {
  const serverAdapter = new OperatorAdapter();
  serverAdapter.setBasePath(DASHBOARD_PATH);
  const adapters = queues.map((queue, index) => {
    const adapter = new PaymentsAdapter(queue, names[index]!, {
      description: 'Payments. Failed ones are the newest dead letters; the ledger has all of them.',
      readOnlyMode: purpose === 'look',
    });
    adapter.setFormatter('data', shown);
    return adapter;
  });
  createBullBoard({
    queues: adapters,
    serverAdapter,
    // bull-board's own documentation explains buttons that are not there.
    options: { uiConfig: { boardTitle: 'Payrelay', hideDocsLink: true } },
  });
  return serverAdapter.getRouter() as RequestHandler;
}

/** Says which of bull-board's parts a page need not show. */
class PaymentsAdapter extends BullMQAdapter {
  readonly #name: string;

  constructor(queue: BullQueue, name: string, options: ConstructorParameters<typeof BullMQAdapter>[1]) {
    super(queue, options);
    this.#name = name;
  }

  override getName(): string {
    return this.#name;
  }

  override readonly allowCompletedRetries = false;
  override get supportsGlobalRateLimit(): boolean {
    return false;
  }
}

class OperatorAdapter extends ExpressAdapter {
  constructor() {
    super();
    this.app.disable('x-powered-by');
  }

  /**
   * bull-board gets the routes that read, and the allowed changes. So a path that bull-board would read as another change
   * than our table does (`PUT …/CLEAN/promote` is its removal of a state's jobs) changes nothing.
   */
  override setApiRoutes(routes: AppControllerRoute[]): ExpressAdapter {
    return super.setApiRoutes(routes.filter(isOffered));
  }

  /** bull-board's page, with our style sheet in the place of fonts that it would fetch from another host. */
  override setEntryRoute({ method, route, handler }: AppViewRoute): ExpressAdapter {
    const style = `<style>${readFileSync(new URL('dashboard.css', import.meta.url), 'utf8')}</style>`;
    this.app[method](route, (_request, response, next) => {
      const { name, params } = handler({ basePath: this.basePath, uiConfig: this.uiConfig });
      response.render(name, params, (error, html) => {
        if (error) next(error);
        else response.send(html.replace(FOREIGN_LINKS, '').replace('</head>', `${style}</head>`));
      });
    });
    return this;
  }
}

const FOREIGN_LINKS = /<link\b[^>]*\bhref="https?:[^>]*>/g;

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
