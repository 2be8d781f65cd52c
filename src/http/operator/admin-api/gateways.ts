import type { RequestHandler } from 'express';
import { NotFoundError } from '../../../errors.ts';
import { readSteeredGateways, type SteerDeps, type SteeringAct, steerGateway } from '../../../operations/steer.ts';
import { readReason } from './reason-body.ts';

/** `GET /admin/api/gateways`: how both are steered, and how far the workers follow. */
export function getGateways(deps: Pick<SteerDeps, 'queueWatch'>): RequestHandler {
  return async (_request, response) => {
    response.json(await readSteeredGateways(deps));
  };
}

/** `POST /admin/api/gateways/{gateway}/{act}`. The response has the state afterwards. */
export function changeGateway(act: SteeringAct, deps: SteerDeps): RequestHandler {
  return async (request, response) => {
    const { gateway } = request.params;
    if (gateway !== 'primary' && gateway !== 'fallback') throw new NotFoundError('no such gateway');
    const reason = await readReason(request);
    response.json(await steerGateway({ gateway, act, who: String(response.locals['operator']), reason }, deps));
  };
}
