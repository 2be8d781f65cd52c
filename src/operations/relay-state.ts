import type { DeadLetterCode } from '../ledger/dead-letters.ts';
import type { OperatorAction } from '../ledger/operator-actions.ts';
import type { PaidMinute } from '../ledger/paid-minutes.ts';
import type { GatewayDifference, Reconciliation } from '../ledger/reconciliations.ts';
import type { GatewayName } from '../payment.ts';
import type { AcceptedByMinute } from '../queue/accepted-minutes.ts';
import type { QueueState } from '../queue/queue-state.ts';
import type { Steered, SteeringState } from '../queue/steering.ts';
import type { Heartbeat, Rates, Since } from '../telemetry/heartbeat.ts';
import { HOP_BOUNDS_MS, quantile } from '../telemetry/histogram.ts';
import { HOPS, type Hop } from '../telemetry/labels.ts';
import type { Problem } from './relay-health.ts';

/**
 * Everything that the operator's page shows. A part that could not be read is undefined; `problems` says why. Rates are per
 * second, in the mean over the last ten seconds.
 */
export interface RelayState {
  /** When it was read, by this node's clock. */
  readonly at: Date;
  /** The worst first. */
  readonly problems: readonly Problem[];
  /** Of all processes together. */
  readonly rates: Rates | undefined;
  readonly lastHour: LastHour | undefined;
  readonly queue: QueueSize | undefined;
  readonly hops: Readonly<Record<Hop, HopTimes>> | undefined;
  readonly gateways: Readonly<Record<GatewayName, GatewayState>> | undefined;
  readonly processes: readonly ProcessState[] | undefined;
  /** Undefined when Redis has no limit, too. */
  readonly redisMemory: QueueState['memory'];
  /** Open ones, by reason. */
  readonly deadLetters: Readonly<Record<DeadLetterCode, number>> | undefined;
  /** The last one; undefined when there was none, too. */
  readonly reconciliation: LastReconciliation | undefined;
  /** Those that run, then the latest others. */
  readonly actions: readonly OperatorAction[] | undefined;
}

/** The last {@link MINUTES} minutes, the present one included, which is not complete. Each list has a number for each minute. */
export interface LastHour {
  /** The beginning of the first minute. */
  readonly from: Date;
  /** By the time of acceptance. Undefined: Redis did not respond. */
  readonly accepted: readonly number[] | undefined;
  /** By `requestedAt`. Undefined: PostgreSQL did not respond. */
  readonly paid: Readonly<Record<GatewayName, PaidHour>> | undefined;
}

export interface PaidHour {
  readonly payments: readonly number[];
  readonly amountCents: readonly number[];
}

export const MINUTES = 60;

export interface QueueSize extends Pick<QueueState, 'size' | 'waiting' | 'delayed' | 'inFlight' | 'isPaused'> {
  /** How many payments may wait in all shards together. */
  readonly capacity: number;
  readonly oldestSeconds: number;
}

/** Of the last ten seconds. Undefined: nothing was measured. */
export interface HopTimes {
  readonly count: number;
  readonly p50Ms: number | undefined;
  readonly p99Ms: number | undefined;
}

export interface GatewayState {
  /** Why its circuit is open, and since when it first was in a worker; undefined while it is closed in all of them. */
  readonly down: (Since & { readonly workers: number }) | undefined;
  /** Payments in workers that wait for the circuit. */
  readonly waiting: number;
  /** Attempts and look-ups under way. */
  readonly underWay: number;
  /** What operators have decided. */
  readonly steered: Steered;
  /** In how many workers each state holds. All follow within a second. */
  readonly followed: Readonly<Record<SteeringState, number>>;
  readonly unresolved: { readonly count: number; readonly oldestSeconds: number };
}

export interface ProcessState extends Pick<Heartbeat, 'id' | 'role' | 'host' | 'pid' | 'version' | 'startedAt'> {
  readonly rates: Rates;
  readonly worker: WorkerState | undefined;
}

export interface WorkerState {
  readonly concurrency: number;
  readonly inFlight: number;
  /** Why it takes no payments. */
  readonly fault: Since | undefined;
  readonly ledgerDown: Since | undefined;
}

export interface LastReconciliation {
  readonly endedAt: Date;
  readonly differences: Readonly<Record<GatewayName, GatewayDifference>>;
}

/** What was read, each from its own source. Undefined: it could not be. */
export interface Readings {
  readonly at: Date;
  readonly problems: readonly Problem[];
  /** How many payments may wait in all shards together. */
  readonly maxSize: number;
  readonly queue: QueueState | undefined;
  readonly accepted: AcceptedByMinute | undefined;
  readonly paid: readonly PaidMinute[] | undefined;
  readonly deadLetters: RelayState['deadLetters'];
  readonly reconciliation: (Reconciliation & { readonly endedAt: Date }) | undefined;
  readonly actions: RelayState['actions'];
}

/** Puts together what was read. */
export function toRelayState(readings: Readings): RelayState {
  const { at, problems, queue, deadLetters, reconciliation, actions } = readings;
  const heartbeats = queue?.heartbeats ?? [];
  return {
    at,
    problems,
    rates: queue && sumOfRates(heartbeats),
    lastHour: lastHourOf(readings),
    queue: queue && sizeOf(queue, readings.maxSize),
    hops: queue && (Object.fromEntries(HOPS.map((hop) => [hop, timesOf(hop, heartbeats)])) as RelayState['hops']),
    gateways: queue && ofEachGateway((name) => gatewayOf(name, queue)),
    processes: queue && heartbeats.map(processOf).sort(byRoleAndHost),
    redisMemory: queue?.memory,
    deadLetters,
    reconciliation: reconciliation && {
      endedAt: reconciliation.endedAt,
      differences: reconciliation.differences,
    },
    actions,
  };
}

function sumOfRates(heartbeats: readonly Heartbeat[]): Rates {
  const sum = (of: (rates: Rates) => number) =>
    Math.round(heartbeats.reduce((total, { rates }) => total + of(rates), 0) * 100) / 100;
  return {
    accepted: sum(({ accepted }) => accepted),
    notAccepted: sum(({ notAccepted }) => notAccepted),
    paid: ofEachGateway((name) => sum(({ paid }) => paid[name])),
  };
}

const MINUTE_MS = 60_000;

/** The first minute that belongs to the last hour, in Unix ms. */
export function firstMinute(nowMs: number): number {
  return (Math.floor(nowMs / MINUTE_MS) - MINUTES + 1) * MINUTE_MS;
}

function lastHourOf({ at, queue, accepted, paid }: Readings): LastHour | undefined {
  if (accepted === undefined && paid === undefined) return undefined;
  // The clock of Redis if possible, so that all nodes show the same.
  const fromMs = accepted?.fromMs ?? firstMinute(queue?.nowMs ?? at.getTime());
  return {
    from: new Date(fromMs),
    accepted: accepted?.accepted,
    paid: paid && ofEachGateway((name) => paidHourOf(name, paid, fromMs)),
  };
}

function paidHourOf(name: GatewayName, paid: readonly PaidMinute[], fromMs: number): PaidHour {
  const payments = Array<number>(MINUTES).fill(0);
  const amountCents = Array<number>(MINUTES).fill(0);
  for (const minute of paid) {
    const index = Math.round((minute.at.getTime() - fromMs) / MINUTE_MS);
    // A worker's clock may be ahead of the others.
    if (minute.gateway !== name || index < 0 || index >= MINUTES) continue;
    payments[index] = minute.payments;
    amountCents[index] = minute.amountCents;
  }
  return { payments, amountCents };
}

function sizeOf({ size, waiting, delayed, inFlight, isPaused, oldestMs }: QueueState, capacity: number): QueueSize {
  return { size, capacity, waiting, delayed, inFlight, isPaused, oldestSeconds: oldestMs / 1_000 };
}

function timesOf(hop: Hop, heartbeats: readonly Heartbeat[]): HopTimes {
  const counts = Array.from({ length: HOP_BOUNDS_MS.length + 1 }, (_, bucket) =>
    heartbeats.reduce((sum, { hops }) => sum + (hops[hop][bucket] ?? 0), 0),
  );
  const at = (share: number) => {
    const ms = quantile(share, counts, HOP_BOUNDS_MS);
    return ms === undefined ? undefined : Math.round(ms * 100) / 100;
  };
  return { count: counts.reduce((sum, count) => sum + count, 0), p50Ms: at(0.5), p99Ms: at(0.99) };
}

function gatewayOf(name: GatewayName, queue: QueueState): GatewayState {
  const vitals = queue.heartbeats.flatMap(({ worker }) => (worker ? [worker.gateways[name]] : []));
  const downs = vitals.flatMap(({ down }) => down ?? []).sort((a, b) => Date.parse(a.since) - Date.parse(b.since));
  const [first] = downs;
  const followedBy = (state: SteeringState) => vitals.filter(({ steered = 'open' }) => steered === state).length;
  const followed = { open: followedBy('open'), draining: followedBy('draining'), stopped: followedBy('stopped') };
  const { count, oldestMs } = queue.unresolved[name];
  return {
    down: first && { ...first, workers: downs.length },
    waiting: vitals.reduce((sum, { waiting }) => sum + waiting, 0),
    underWay: vitals.reduce((sum, { underWay = 0 }) => sum + underWay, 0),
    steered: queue.steering?.[name] ?? { state: strictest(followed) },
    followed,
    unresolved: { count, oldestSeconds: oldestMs / 1_000 },
  };
}

/** What workers follow, while what operators have decided could not be read. */
function strictest(followed: GatewayState['followed']): SteeringState {
  if (followed.stopped > 0) return 'stopped';
  return followed.draining > 0 ? 'draining' : 'open';
}

function processOf({ id, role, host, pid, version, startedAt, rates, worker }: Heartbeat): ProcessState {
  return {
    ...{ id, role, host, pid, version, startedAt, rates },
    worker: worker && {
      concurrency: worker.concurrency,
      inFlight: worker.inFlight,
      fault: worker.fault ?? worker.gateways.primary.alone,
      ledgerDown: worker.ledgerDown,
    },
  };
}

function byRoleAndHost(a: ProcessState, b: ProcessState): number {
  return `${a.role} ${a.host}`.localeCompare(`${b.role} ${b.host}`) || a.pid - b.pid;
}

function ofEachGateway<T>(read: (name: GatewayName) => T): Record<GatewayName, T> {
  return { primary: read('primary'), fallback: read('fallback') };
}
