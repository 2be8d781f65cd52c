import type { Config } from './config.ts';
import { createOperatorRoutes, type OperatorDeps } from './http/operator/routes.ts';
import type { Route } from './http/routes.ts';
import { createLedgerByHand } from './ledger/by-hand.ts';
import type { createDb } from './ledger/db.ts';
import type { DeadLetters } from './ledger/dead-letters.ts';
import type { Ledger } from './ledger/ledger.ts';
import { createOpenDeadLetters } from './ledger/open-dead-letters.ts';
import { createPaidMinutes } from './ledger/paid-minutes.ts';
import type { Reconciliations } from './ledger/reconciliations.ts';
import { createRelayState } from './operations/read-relay-state.ts';
import type { RelayHealthCheck } from './operations/relay-health.ts';
import { MINUTES } from './operations/relay-state.ts';
import { createSettleByHand } from './operations/settle-by-hand.ts';
import { createSettleUnresolved } from './operations/settle-unresolved.ts';
import { createAcceptedMinutes } from './queue/accepted-minutes.ts';
import type { PaymentFinder } from './queue/find-payment.ts';
import type { ProducerShards } from './queue/producer-shards.ts';
import { combineQueuedChecks, createQueuedCheck } from './queue/queued-check.ts';
import type { ServerCheckOptions } from './queue/server-check.ts';
import { expectShards } from './queue/shard-count.ts';
import { capacityOf, type PaymentQueues } from './queue/shards.ts';
import { createSteering } from './queue/steering.ts';
import { combineWaitingJobs, createWaitingJobs } from './queue/waiting-jobs.ts';

/** What the operator's routes share with the rest of an API node. */
interface SharedParts
  extends Pick<
    OperatorDeps,
    'enqueuer' | 'deadLetters' | 'findPaymentStatus' | 'queueAdmin' | 'actions' | 'queueWatch' | 'trail'
  > {
  readonly redis: ServerCheckOptions['redis'];
  readonly db: ReturnType<typeof createDb>;
  readonly queues: PaymentQueues;
  readonly shards: ProducerShards;
  readonly jobs: PaymentFinder;
  readonly ledger: Ledger;
  readonly deadLetters: DeadLetters;
  readonly reconciliations: Reconciliations;
  readonly healthCheck: RelayHealthCheck;
}

/** The operator's part of an API node. Only a node with an operator's login loads this file and what it imports. */
export function createOperator(config: Config, shared: SharedParts): readonly Route[] {
  const { redis, db, queues, shards, jobs, ledger, deadLetters, queueWatch, trail } = shared;
  const { home: queue } = queues;
  const waitingJobs = combineWaitingJobs(shards.each.map(createWaitingJobs));
  const settleByHand = createSettleByHand({
    jobs,
    ledger,
    byHand: createLedgerByHand(db),
    deadLetters,
    waitingJobs,
    queueWatch,
    trail,
    releaseAfterMs: config.releaseAfterMs,
  });
  return createOperatorRoutes({
    ...shared,
    openDeadLetters: createOpenDeadLetters(db),
    areQueued: combineQueuedChecks(shards.each.map(createQueuedCheck)),
    expectShards: () => expectShards(redis, queues),
    steering: createSteering({ redis, queue, writer: shards.homeWriter }),
    settleByHand,
    settleUnresolved: createSettleUnresolved({ settle: settleByHand, waitingJobs, trail }),
    readState: createRelayState({
      ...shared,
      acceptedMinutes: createAcceptedMinutes({ redis, queue, minutes: MINUTES }),
      paidMinutes: createPaidMinutes(db),
      maxSize: capacityOf(config.queue),
    }),
    config: config.http,
  });
}
