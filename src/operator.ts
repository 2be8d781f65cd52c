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
import { paymentQueue } from './queue/payment-queue.ts';
import { createQueuedCheck } from './queue/queued-check.ts';
import type { ReplicatedWriter } from './queue/replicated-writer.ts';
import type { ServerCheck, ServerCheckOptions } from './queue/server-check.ts';
import { createSteering } from './queue/steering.ts';
import { createWaitingJobs } from './queue/waiting-jobs.ts';

/** What the operator's routes share with the rest of an API node. */
interface SharedParts
  extends Pick<
    OperatorDeps,
    'enqueuer' | 'deadLetters' | 'findPaymentStatus' | 'queueAdmin' | 'actions' | 'queueWatch' | 'trail'
  > {
  readonly redis: ServerCheckOptions['redis'];
  readonly db: ReturnType<typeof createDb>;
  readonly writer: ReplicatedWriter | undefined;
  readonly serverCheck: ServerCheck;
  readonly jobs: PaymentFinder;
  readonly ledger: Ledger;
  readonly deadLetters: DeadLetters;
  readonly reconciliations: Reconciliations;
  readonly healthCheck: RelayHealthCheck;
}

/** The operator's part of an API node. Only a node with an operator's login loads this file and what it imports. */
export function createOperator(config: Config, shared: SharedParts): readonly Route[] {
  const queue = paymentQueue(config.queue);
  const { redis, db, writer, serverCheck, jobs, ledger, deadLetters, queueWatch, trail } = shared;
  const waitingJobs = createWaitingJobs({ redis, queue, writer });
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
    areQueued: createQueuedCheck({ redis, queue, serverCheck }),
    steering: createSteering({ redis, queue, writer }),
    settleByHand,
    settleUnresolved: createSettleUnresolved({ settle: settleByHand, waitingJobs, trail }),
    readState: createRelayState({
      ...shared,
      acceptedMinutes: createAcceptedMinutes({ redis, queue, minutes: MINUTES }),
      paidMinutes: createPaidMinutes(db),
      maxSize: config.queue.maxSize,
    }),
    config: config.http,
  });
}
