import type { DeadLetters } from '../ledger/dead-letters.ts';
import type { GatewayDifference, Reconciliation, Reconciliations } from '../ledger/reconciliations.ts';
import type { GatewayName } from '../payment.ts';
import type { QueueState } from '../queue/queue-state.ts';
import type { RelayGauges } from '../telemetry/metrics.ts';
import type { RelayHealthCheck } from './relay-health.ts';
import { byThen, shared } from './shared-reading.ts';

/** After so long a scrape goes on without what is not read yet, so that it ends within a second. */
const SCRAPE_MS = 900;

/** Maximum age of the counts in PostgreSQL. A count of 100,000 open dead letters takes tens of milliseconds. */
const LEDGER_AGE_MS = 10_000;

/**
 * Reads what `/metrics` says about the whole relay. Never rejects, and takes at most {@link SCRAPE_MS}: what cannot be read by
 * then is undefined. However many scrapes there are, one reading is under way at a time, and they share its result.
 */
export function createRelayGauges({
  healthCheck,
  deadLetters,
  reconciliations,
  maxSize,
}: {
  healthCheck: Pick<RelayHealthCheck, 'check'>;
  deadLetters: Pick<DeadLetters, 'countOpen'>;
  reconciliations: Pick<Reconciliations, 'last'>;
  /** How many payments may wait in all shards together. */
  maxSize: number;
}): () => Promise<RelayGauges> {
  const readHealth = shared(() => healthCheck.check(), 0);
  // One after the other, so that a scrape never takes more than one of the pool's connections.
  const readLedger = shared(
    async () => ({
      deadLetters: await deadLetters.countOpen(),
      reconciliation: await reconciliations.last().catch(() => undefined),
    }),
    LEDGER_AGE_MS,
  );

  return async () => {
    const deadline = performance.now() + SCRAPE_MS;
    const [health, ledger] = await Promise.all([byThen(deadline, readHealth()), byThen(deadline, readLedger())]);
    const problems = health?.problems.map(({ code }) => code) ?? ['queue_unavailable'];
    // The last counts are from before the outage.
    const counted = problems.includes('ledger_unavailable') ? undefined : ledger;
    return {
      ...gaugesOfQueue(health?.queue),
      capacity: maxSize,
      deadLetters: counted?.deadLetters,
      reconciliation: counted?.reconciliation && gaugeOfReconciliation(counted.reconciliation),
      problems,
    };
  };
}

type QueueGauges = Pick<RelayGauges, 'queue' | 'oldestWaitingSeconds' | 'unresolved' | 'circuitsOpen' | 'workers'>;

function gaugesOfQueue(state: QueueState | undefined): QueueGauges {
  if (state === undefined) {
    return {
      queue: undefined,
      oldestWaitingSeconds: undefined,
      unresolved: undefined,
      circuitsOpen: undefined,
      workers: undefined,
    };
  }
  const { waiting, delayed, inFlight, oldestMs } = state;
  const workers = state.heartbeats.flatMap(({ worker }) => worker ?? []);
  return {
    queue: { waiting, delayed, in_flight: inFlight },
    oldestWaitingSeconds: oldestMs / 1_000,
    unresolved: ofEachGateway((name) => {
      const { count, oldestMs: ageMs } = state.unresolved[name];
      return { count, oldestSeconds: ageMs / 1_000 };
    }),
    circuitsOpen: ofEachGateway((name) => workers.filter(({ gateways }) => gateways[name].down !== undefined).length),
    workers: workers.length,
  };
}

function gaugeOfReconciliation({
  endedAt,
  differences,
}: Reconciliation & { endedAt: Date }): RelayGauges['reconciliation'] {
  return { at: endedAt, differences: ofEachGateway((name) => numberOf(differences[name])) };
}

/** The payments that the gateway has more (above zero) or fewer on record. ±1 when only the amount differs: 0 means that nothing does. */
function numberOf({ payments, amountCents }: GatewayDifference): number {
  return payments === 0 ? Math.sign(amountCents) : payments;
}

function ofEachGateway<T>(read: (name: GatewayName) => T): Record<GatewayName, T> {
  return { primary: read('primary'), fallback: read('fallback') };
}
