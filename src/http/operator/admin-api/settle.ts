import type { RequestHandler } from 'express';
import type { OperatorDeps } from '../routes.ts';
import { readFilter, readSettleBody, readStatement } from './settle-body.ts';

type Deps = Pick<OperatorDeps, 'settleByHand' | 'settleUnresolved'>;

/** What a dry run previews. */
const RESULTS = { release: 'released', reject: 'rejected' } as const;

/** `POST /admin/api/payments/{correlationId}/record`: the gateway has made it. */
export function recordPayment({ settleByHand }: Pick<Deps, 'settleByHand'>): RequestHandler {
  return async (request, response) => {
    const { statement, reason } = await readStatement(request);
    const by = { who: String(response.locals['operator']), reason };
    response.json(await settleByHand.record(request.params['correlationId'] as string, statement, by));
  };
}

/** `POST /admin/api/payments/{correlationId}/{act}`: the gateway has not made it, or never will. */
export function settlePayment(act: keyof typeof RESULTS, { settleByHand }: Pick<Deps, 'settleByHand'>): RequestHandler {
  return async (request, response) => {
    const { isDryRun, reason } = await readSettleBody(request);
    const id = request.params['correlationId'] as string;
    const by = { who: String(response.locals['operator']), reason };
    response.json(isDryRun ? await settleByHand.preview(RESULTS[act], id) : await settleByHand[act](id, by));
  };
}

/** `POST /admin/api/unresolved/{act}`: the same for a page of unresolved payments. */
export function settlePage(
  act: keyof typeof RESULTS,
  { settleUnresolved }: Pick<Deps, 'settleUnresolved'>,
): RequestHandler {
  return async (request, response) => {
    const { isDryRun, reason, filter } = await readFilter(request);
    const by = { who: String(response.locals['operator']), reason };
    response.json(
      isDryRun ? await settleUnresolved.preview(RESULTS[act], filter) : await settleUnresolved[act](filter, by),
    );
  };
}
