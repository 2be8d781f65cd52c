import type { GatewayName } from '../payment.ts';

/**
 * What operators have decided about the gateways and the queue, in Redis. Every worker reads it, and follows it within a second.
 *
 * | state    | new payments | payments that only this gateway may get |
 * |----------|--------------|------------------------------------------|
 * | open     | sent         | sent                                     |
 * | draining | not sent     | sent, until none is left                 |
 * | stopped  | not sent     | not sent; they wait in the queue         |
 */
export type SteeringState = 'open' | 'draining' | 'stopped';

export interface Steered {
  readonly state: SteeringState;
  /** Undefined while it is open. */
  readonly by?: { readonly who: string; readonly reason: string | undefined; readonly at: string };
}

export type Steering = Readonly<Record<GatewayName, Steered>>;
