import { QueueUnavailableError } from '../errors.ts';
import type { DeadLetters } from '../ledger/dead-letters.ts';
import type { OperatorAction, OperatorActions } from '../ledger/operator-actions.ts';
import type { PaidMinutes } from '../ledger/paid-minutes.ts';
import type { Reconciliations } from '../ledger/reconciliations.ts';
import { describeError } from '../process/describe-error.ts';
import type { AcceptedMinutes } from '../queue/accepted-minutes.ts';
import type { Problem, RelayHealthCheck } from './relay-health.ts';
import { firstMinute, type RelayState, toRelayState } from './relay-state.ts';
import { byThen, shared } from './shared-reading.ts';

/** After so long the page gets what was read until then. */
const STATE_MS = 900;

/** At most one reading a second, however many pages ask. */
const STATE_AGE_MS = 1_000;

/** What changes slowly, or costs PostgreSQL more than a few rows: a count of 100,000 dead letters takes tens of milliseconds. */
const COUNTS_AGE_MS = 10_000;

/** Actions that the page shows beside those that run. */
const LATEST_ACTIONS = 20;

/**
 * Reads what the operator's page shows. Never rejects, and takes at most {@link STATE_MS}. Nothing is read while nobody calls
 * it. What it costs does not depend on how many payments there are.
 */
export type ReadRelayState = () => Promise<RelayState>;

export function createRelayState({
  healthCheck,
  acceptedMinutes,
  paidMinutes,
  deadLetters,
  reconciliations,
  actions,
  maxSize,
}: {
  healthCheck: Pick<RelayHealthCheck, 'check'>;
  acceptedMinutes: AcceptedMinutes;
  paidMinutes: PaidMinutes;
  deadLetters: Pick<DeadLetters, 'countOpen'>;
  reconciliations: Pick<Reconciliations, 'last'>;
  actions: Pick<OperatorActions, 'running' | 'list'>;
  /** How many payments may wait in all shards together. */
  maxSize: number;
}): ReadRelayState {
  let unreadableSince: string | undefined;
  /** Without Redis the health check knows no problems. */
  function since(cause: string): Problem[] {
    unreadableSince ??= new Date().toISOString();
    return [{ code: 'queue_unavailable', since: unreadableSince, cause }];
  }
  const readHealth = shared(async () => {
    try {
      return { health: await healthCheck.check(), fault: undefined };
    } catch (error) {
      return { health: undefined, fault: queueFault(error) };
    }
  }, 0);
  const readAccepted = shared(() => acceptedMinutes.read(), 0);
  // One after the other, so that the page never takes more than one of the pool's connections.
  const readCounts = shared(
    async () => ({
      deadLetters: await deadLetters.countOpen(),
      reconciliation: await reconciliations.last().catch(() => undefined),
    }),
    COUNTS_AGE_MS,
  );
  /** Those that run, then the latest others. */
  async function latestActions(): Promise<readonly OperatorAction[]> {
    const running = await actions.running();
    const latest = await actions.list({ limit: LATEST_ACTIONS });
    return [...running, ...latest.filter(({ state }) => state !== 'running')];
  }
  const readLedger = shared(async () => {
    const paid = await paidMinutes.since(new Date(firstMinute(Date.now())));
    return { paid, actions: await latestActions(), ...(await readCounts()) };
  }, 0);

  const read = shared(async () => {
    const at = new Date();
    const deadline = performance.now() + STATE_MS;
    const [checked, accepted, ledger] = await Promise.all([
      byThen(deadline, readHealth()),
      byThen(deadline, readAccepted()),
      byThen(deadline, readLedger()),
    ]);
    if (checked?.health) unreadableSince = undefined;
    return toRelayState({
      at,
      maxSize,
      problems: checked?.health?.problems ?? since(checked?.fault ?? SILENT),
      queue: checked?.health?.queue,
      accepted,
      paid: ledger?.paid,
      deadLetters: ledger?.deadLetters,
      reconciliation: ledger?.reconciliation,
      actions: ledger?.actions,
    });
  }, STATE_AGE_MS);

  return async () => (await read())!;
}

const SILENT = `Redis has not responded within ${STATE_MS} ms`;

function queueFault(error: unknown): string {
  return error instanceof QueueUnavailableError ? error.message : describeError(error);
}
