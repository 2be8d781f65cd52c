import type { GatewayName } from '../payment.ts';
import type { QueueState } from '../queue/queue-state.ts';
import type { Steered } from '../queue/steering.ts';

/** Longer than a heartbeat lives. So every live heartbeat was written after a stop that is this old. */
const HEARTBEAT_LIVES_MS = 6_000;

/**
 * Why a worker may still have an attempt at this gateway under way; undefined when it was stopped, and every live worker has
 * reported since then that it follows the stop and has nothing under way. A sentence for people.
 *
 * A worker that shuts down has removed its heartbeat, and a frozen one has lost it. The age of the last attempt
 * (RELEASE_AFTER_MS) is for them.
 */
export function whyNotDrained(gateway: GatewayName, steered: Steered, queue: Reports): string | undefined {
  if (steered.state !== 'stopped') return `the ${gateway} gateway is not stopped`;
  return whyStillBusy(gateway, steered, queue);
}

type Reports = Pick<QueueState, 'heartbeats' | 'heartbeatFault' | 'nowMs'>;

/** The same for a gateway that drains. It may get payments again at any moment. */
export function whyStillBusy(
  gateway: GatewayName,
  { state, by }: Steered,
  { heartbeats, heartbeatFault, nowMs }: Reports,
): string | undefined {
  const verb = state === 'stopped' ? 'stop' : 'drain';
  if (by === undefined) return `the ${gateway} gateway is not stopped`;
  if (nowMs - Date.parse(by.at) < HEARTBEAT_LIVES_MS)
    return `the ${verb} of the ${gateway} gateway began a moment ago: the workers report within seconds`;
  if (heartbeatFault) return `the workers' heartbeats could not be read: ${heartbeatFault.detail}`;
  const vitals = heartbeats.flatMap(({ worker }) => worker?.gateways[gateway] ?? []);
  if (vitals.length === 0) return 'no worker runs: one must report that it follows';
  const deaf = vitals.filter(({ steered }) => steered !== state).length;
  if (deaf > 0) return `${deaf} of ${vitals.length} workers do not follow the ${verb}: an older version, perhaps`;
  const underWay = vitals.reduce((sum, each) => sum + (each.underWay ?? 0), 0);
  return underWay > 0 ? `${underWay} attempts at the ${gateway} gateway are under way` : undefined;
}
