import type { GatewayName } from '../payment.ts';
import type { QueueState, QueueWatch } from '../queue/queue-state.ts';
import type { Decider, Steered, SteeringState, SteeringStore } from '../queue/steering.ts';
import { whyStillBusy } from './gateway-drained.ts';
import type { Trail } from './trail.ts';

/** What operators do with a gateway, and the state that it leads to. */
export const STEERING_ACTS = { stop: 'stopped', drain: 'draining', resume: 'open' } as const satisfies Readonly<
  Record<string, SteeringState>
>;

export type SteeringAct = keyof typeof STEERING_ACTS;

/** A gateway as operators have steered it, and how far the workers follow. */
export interface SteeredGateway extends Steered {
  /** Every live worker has reported that it follows. */
  readonly isFollowed: boolean;
  /**
   * Stopped: every worker has reported since the stop that it has no attempt under way. Draining: that, and no payment is left
   * that only this gateway may get.
   */
  readonly isDrained: boolean;
  /** Why it is not drained. Undefined when it is, or while it is open. */
  readonly notDrained: string | undefined;
  /** Payments that only this gateway may get. */
  readonly unresolved: number;
  readonly workers: readonly FollowingWorker[];
}

export interface FollowingWorker {
  readonly host: string;
  readonly pid: number;
  /** Undefined: an older version, which does not know of steering. */
  readonly steered: SteeringState | undefined;
  /** Attempts and look-ups under way. */
  readonly underWay: number;
  /** Payments that wait in the worker for the gateway. */
  readonly waiting: number;
}

export interface SteerDeps {
  readonly steering: Pick<SteeringStore, 'set'>;
  readonly queueWatch: QueueWatch;
  readonly trail: Trail;
}

/**
 * Stops, drains or resumes a gateway. A stop also works while PostgreSQL is down.
 * @returns the gateway afterwards. Workers follow within a second, and report it within another one
 * @throws QueueUnavailableError; LedgerUnavailableError unless it is a stop. Then nothing was changed.
 */
export async function steerGateway(
  { gateway, act, who, reason }: Decider & { gateway: GatewayName; act: SteeringAct },
  { steering, queueWatch, trail }: SteerDeps,
): Promise<SteeredGateway> {
  const run = act === 'stop' ? trail.runAtOnce : trail.run;
  return run({ who, action: `gateway.${act}`, target: { gateway }, reason }, async () => {
    const before = (await queueWatch.read()).steering[gateway];
    await steering.set(gateway, STEERING_ACTS[act], { who, reason });
    const queue = await queueWatch.read();
    return {
      result: steeredGateway(gateway, queue),
      state: 'done',
      outcome: { before, after: queue.steering[gateway] },
    };
  });
}

/** How both gateways are steered. @throws QueueUnavailableError */
export async function readSteeredGateways({
  queueWatch,
}: Pick<SteerDeps, 'queueWatch'>): Promise<Readonly<Record<GatewayName, SteeredGateway>>> {
  const queue = await queueWatch.read();
  return { primary: steeredGateway('primary', queue), fallback: steeredGateway('fallback', queue) };
}

/** What the queue's state says about the steering of one gateway. */
export function steeredGateway(gateway: GatewayName, queue: QueueState): SteeredGateway {
  const steered = queue.steering[gateway];
  const { count: unresolved } = queue.unresolved[gateway];
  const workers = queue.heartbeats.flatMap(({ host, pid, worker }): FollowingWorker[] => {
    const vitals = worker?.gateways[gateway];
    if (vitals === undefined) return [];
    return [{ host, pid, steered: vitals.steered, underWay: vitals.underWay ?? 0, waiting: vitals.waiting }];
  });
  const notDrained = steered.state === 'open' ? undefined : reasonNotDrained(gateway, steered, unresolved, queue);
  return {
    ...steered,
    // A worker of an older version sends to every gateway.
    isFollowed: workers.every((worker) => (worker.steered ?? 'open') === steered.state),
    isDrained: steered.state !== 'open' && notDrained === undefined,
    notDrained,
    unresolved,
    workers,
  };
}

function reasonNotDrained(
  gateway: GatewayName,
  steered: Steered,
  unresolved: number,
  queue: QueueState,
): string | undefined {
  if (steered.state === 'draining') {
    if (unresolved > 0) return `${unresolved} payments are left that only the ${gateway} gateway may get`;
    const missing = queue.shards.find(({ failure }) => failure !== undefined)?.failure;
    if (missing) return `payments may be left in a shard that cannot be read: ${missing.detail}`;
  }
  return whyStillBusy(gateway, steered, queue);
}
