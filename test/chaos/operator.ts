import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster, Redis } from 'ioredis';
import { gatewayAdmin } from '../../dev/gateway-admin.ts';
import { loadConfig } from '../../src/config.ts';
import { createLedgerByHand } from '../../src/ledger/by-hand.ts';
import { createDb } from '../../src/ledger/db.ts';
import { createDeadLetters } from '../../src/ledger/dead-letters.ts';
import { createLedger } from '../../src/ledger/ledger.ts';
import { createOperatorActions } from '../../src/ledger/operator-actions.ts';
import { createLateRows } from '../../src/operations/late-rows.ts';
import { createSettleByHand } from '../../src/operations/settle-by-hand.ts';
import { createTrail } from '../../src/operations/trail.ts';
import { createLogger } from '../../src/process/logger.ts';
import { createActionOutbox } from '../../src/queue/action-outbox.ts';
import type { PaymentQueueName } from '../../src/queue/bullmq-layout.ts';
import { createPaymentFinder } from '../../src/queue/find-payment.ts';
import { createQueueWatch } from '../../src/queue/queue-state.ts';
import { createProducerConnection } from '../../src/queue/redis.ts';
import { createSteering } from '../../src/queue/steering.ts';
import { createWaitingJobs } from '../../src/queue/waiting-jobs.ts';
import type { Fault, Stage } from './faults.ts';

/**
 * Longer than a run sends without a confirmation of its lock (queue/owned-jobs.ts, 30 s). The setting's least value, 60 s, would be
 * longer than most runs, so the operation is called with a time of its own.
 */
const RELEASE_AFTER_MS = 33_000;

/** How long the operator tries: other faults go on meanwhile. */
const TRIES_FOR_MS = 12_000;

const RETRY_MS = 500;

/**
 * A gateway goes silent, an operator stops it, asks its books, and releases every unresolved payment that they do not have. Then the
 * gateway is open again. Released payments must be paid once, at whichever gateway.
 * @param onReleased called with each id
 */
export function operatorFault(stage: Stage, onReleased: (id: string) => void): Fault {
  const { stack, proxies, random } = stage;
  const on = random.pick(['primary', 'primary', 'fallback'] as const);
  const by = { who: 'chaos', reason: 'not in the books' };
  return {
    name: `${on} goes silent, is stopped, and an operator releases what it has not made`,
    on,
    async run() {
      await using cleanUp = new AsyncDisposableStack();
      const redis = createProducerConnection(stage.redis);
      redis.on('error', () => {});
      cleanUp.defer(() => redis.disconnect());
      const db = createDb(loadConfig({ DATABASE_URL: stack.databaseUrl }).database);
      cleanUp.defer(() => db.destroy());
      const { home, shards } = stage.queues;
      const steering = createSteering({ redis, queue: home });
      const ofShards = shards.map((queue) => operations(redis, db, { home, queue }));

      await proxies[on].set({ kind: 'half_open' });
      await sleep(1_500);
      await proxies[on].set({ kind: 'none' });
      await repeat(() => steering.set(on, 'stopped', by));
      try {
        await sleep(RELEASE_AFTER_MS + 1_000);
        const until = performance.now() + TRIES_FOR_MS;
        while (performance.now() < until) {
          // What the gateway has charged by now is all: nothing is under way.
          const made = new Set(
            (await gatewayAdmin(stack[on].url!).payments()).map(({ correlationId }) => correlationId),
          );
          for (const { settle, unresolved } of ofShards) {
            const ids = await unresolved(on).catch(() => []);
            for (const id of ids.filter((each) => !made.has(each))) {
              // Refused, or a server is down. The next round tries again.
              await settle.release(id, by).then(
                () => onReleased(id),
                () => undefined,
              );
            }
          }
          await sleep(RETRY_MS);
        }
      } finally {
        await repeat(() => steering.set(on, 'open', by));
      }
    },
  };
}

function operations(
  redis: Redis | Cluster,
  db: ReturnType<typeof createDb>,
  { home, queue }: { home: PaymentQueueName; queue: PaymentQueueName },
) {
  const logger = createLogger({ level: 'error', role: 'chaos' });
  const waitingJobs = createWaitingJobs({ redis, queue });
  const actions = createOperatorActions(db);
  const lateRows = createLateRows({ outbox: createActionOutbox({ redis, queue: home }), actions, logger });
  const settle = createSettleByHand({
    jobs: createPaymentFinder({ redis, queue, serverCheck: { fault: undefined } }),
    ledger: createLedger(db),
    byHand: createLedgerByHand(db),
    deadLetters: createDeadLetters(db, { maxInvalid: 1_000 }),
    waitingJobs,
    queueWatch: createQueueWatch({ redis, queue: home }),
    trail: createTrail({ actions, lateRows, logger }),
    releaseAfterMs: RELEASE_AFTER_MS,
  });
  const unresolved = async (gateway: 'primary' | 'fallback') => {
    const page = { offset: 0, limit: 1_000, notedBeforeMs: Number.MAX_SAFE_INTEGER };
    return (await waitingJobs.unresolved(gateway, page)).map(({ id }) => id);
  };
  return { settle, unresolved };
}

/** Until it works: Redis may be down, for 10 s at most. */
async function repeat<T>(act: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await act();
    } catch {
      await sleep(RETRY_MS);
    }
  }
}
