import type { RequestHandler } from 'express';
import { DEAD_LETTER_VERBS } from '../../../operations/dead-letter-verdicts.ts';
import { getPayment } from '../../payments/get-payment.ts';
import type { Route } from '../../routes.ts';
import type { OperatorDeps } from '../routes.ts';
import { listActions } from './actions-list.ts';
import { changePause } from './change-pause.ts';
import { deleteAction } from './delete-action.ts';
import { changeGateway, getGateways } from './gateways.ts';
import { getAction } from './get-action.ts';
import { getDeadLetters } from './get-dead-letters.ts';
import { getState } from './get-state.ts';
import { postDeadLetters } from './post-dead-letters.ts';
import { recordPayment, settlePage, settlePayment } from './settle.ts';

/** What the operator's page and programs use. Bodies are JSON. */
export function createAdminRoutes(deps: OperatorDeps): readonly Route[] {
  const look = { role: 'operator', from: 'own_pages', method: 'GET' } as const;
  const change = { role: 'operator', from: 'own_pages', changesState: true, row: 'by_handler' } as const;
  const post = { ...change, method: 'POST' } as const;
  // These work while PostgreSQL is down. Their rows are written later.
  const atOnce = { ...post, worksWithoutLedger: true } as const;
  // With another number of shards it would read or change queues that nobody uses.
  const ofShards =
    (handler: RequestHandler): RequestHandler =>
    async (request, response, next) => {
      await deps.expectShards();
      await handler(request, response, next);
    };
  const gateway = '/admin/api/gateways/:gateway';
  const action = '/admin/api/actions/:id';
  const payment = '/admin/api/payments/:correlationId';
  const unresolved = '/admin/api/unresolved';
  return [
    { ...look, path: '/admin/api/state', handler: getState(deps) },
    { ...look, path: '/admin/api/actions', handler: listActions(deps) },
    { ...look, path: action, handler: getAction(deps) },
    { ...change, method: 'DELETE', path: action, action: 'action.stop', handler: deleteAction(deps) },
    { ...atOnce, path: '/admin/api/pause', action: 'queue.pause', handler: ofShards(changePause('pause', deps)) },
    { ...post, path: '/admin/api/resume', action: 'queue.resume', handler: ofShards(changePause('resume', deps)) },
    { ...look, path: '/admin/api/gateways', handler: ofShards(getGateways(deps)) },
    { ...atOnce, path: `${gateway}/stop`, action: 'gateway.stop', handler: ofShards(changeGateway('stop', deps)) },
    { ...post, path: `${gateway}/drain`, action: 'gateway.drain', handler: ofShards(changeGateway('drain', deps)) },
    { ...post, path: `${gateway}/resume`, action: 'gateway.resume', handler: ofShards(changeGateway('resume', deps)) },
    { ...look, path: '/admin/api/dead-letters', handler: getDeadLetters(deps) },
    ...DEAD_LETTER_VERBS.map((verb) => ({
      ...post,
      path: `/admin/api/dead-letters/${verb}`,
      action: `dead_letters.${verb}`,
      handler: postDeadLetters(verb, deps),
    })),
    // A page cannot send STATUS_TOKEN. Here the login counts.
    { ...look, path: payment, handler: getPayment(deps) },
    { ...post, path: `${payment}/record`, action: 'payment.record', handler: recordPayment(deps) },
    { ...post, path: `${payment}/release`, action: 'payment.release', handler: settlePayment('release', deps) },
    { ...post, path: `${payment}/reject`, action: 'payment.reject', handler: settlePayment('reject', deps) },
    {
      ...post,
      path: `${unresolved}/release`,
      action: 'unresolved.release',
      handler: ofShards(settlePage('release', deps)),
    },
    {
      ...post,
      path: `${unresolved}/reject`,
      action: 'unresolved.reject',
      handler: ofShards(settlePage('reject', deps)),
    },
  ];
}
