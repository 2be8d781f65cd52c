import { createLedgerByHand } from '../../src/ledger/by-hand.ts';
import { createDb } from '../../src/ledger/db.ts';
import { createDeadLetters } from '../../src/ledger/dead-letters.ts';
import { createLedger } from '../../src/ledger/ledger.ts';
import { createSettleByHand, type SettleDeps } from '../../src/operations/settle-by-hand.ts';
import { createSettleUnresolved } from '../../src/operations/settle-unresolved.ts';
import type { Act, Outcome } from '../../src/operations/trail.ts';
import type { GatewayName } from '../../src/payment.ts';
import { heartbeatKey, heartbeatsKey, steeringKey } from '../../src/queue/bullmq-layout.ts';
import { createPaymentFinder } from '../../src/queue/find-payment.ts';
import { createQueueWatch } from '../../src/queue/queue-state.ts';
import type { Steered } from '../../src/queue/steering.ts';
import { createWaitingJobs } from '../../src/queue/waiting-jobs.ts';
import type { GatewayVitals, Heartbeat } from '../../src/telemetry/heartbeat.ts';
import { atTestEnd } from './cleanup.ts';
import { eventually, testRedis } from './relay.ts';
import { respond } from './scripted-gateway.ts';
import { type ScriptedRelay, scriptedRelay } from './scripted-relay.ts';

/** A row of the trail, as the act has left it. */
type Row = Act & Pick<Outcome<unknown>, 'state' | 'outcome'>;

const LONG_AGO: Steered = { state: 'stopped', by: { who: 'ana', reason: undefined, at: '2020-01-01T00:00:00Z' } };
const DRAINED: GatewayVitals = { waiting: 0, steered: 'stopped', underWay: 0 };

/**
 * The acts of operators over the stores of a relay, with gateways that say they are stopped and drained unless the test says
 * otherwise, so that a test decides alone which condition fails.
 * @param change replaces parts of the dependencies
 */
export async function settling(
  { prefix, databaseUrl }: Pick<ScriptedRelay, 'prefix' | 'databaseUrl'>,
  {
    steered = LONG_AGO,
    vitals = DRAINED,
    isPretended = true,
    releaseAfterMs = 0,
    change = (deps) => deps,
  }: {
    steered?: Steered;
    vitals?: GatewayVitals;
    /** False: the steering and the heartbeats are those in Redis. */
    isPretended?: boolean;
    releaseAfterMs?: number;
    change?: (deps: SettleDeps) => SettleDeps;
  } = {},
) {
  const redis = await testRedis();
  const db = createDb({ url: databaseUrl, poolSize: 4, ssl: false });
  atTestEnd(() => db.destroy());
  const queue = { name: 'payments', prefix };
  const queueWatch = createQueueWatch({ redis, queue });
  const rows: Row[] = [];
  const trail: SettleDeps['trail'] = {
    async run(act, perform) {
      const performed = await perform();
      rows.push({ ...act, ...performed });
      return performed.result;
    },
  };
  const deps = change({
    jobs: createPaymentFinder({ redis, queue, serverCheck: { fault: undefined } }),
    ledger: createLedger(db),
    byHand: createLedgerByHand(db),
    deadLetters: createDeadLetters(db, { maxInvalid: 100 }),
    waitingJobs: createWaitingJobs({ redis, queue }),
    queueWatch: {
      read: async () => ({
        ...(await queueWatch.read()),
        ...(isPretended && {
          heartbeats: [heartbeatOf(vitals)],
          steering: { primary: steered, fallback: steered },
        }),
      }),
    },
    trail,
    releaseAfterMs,
  });
  const settle = createSettleByHand(deps);
  return { settle, rows, unresolved: createSettleUnresolved({ settle, trail, waitingJobs: deps.waitingJobs }) };
}

function heartbeatOf(vitals: GatewayVitals): Heartbeat {
  const worker = { workerId: 'w', concurrency: 1, inFlight: 0, gateways: { primary: vitals, fallback: vitals } };
  return { worker } as Heartbeat;
}

/**
 * A relay with payments that are unresolved at the primary and wait in the queue, while no worker runs. The primary
 * has not charged them.
 */
export async function unresolvedPayments(count = 1, env: Parameters<typeof scriptedRelay>[0] = {}) {
  const relay = await scriptedRelay(env);
  const ids: string[] = [];
  relay.primary.onPayment = () => respond(502, '');
  // One worker for each, so that no failure opens a circuit: a payment would stay in its worker as the probe.
  for (let n = 0; n < count; n += 1) {
    const id = await relay.post();
    ids.push(id);
    const worker = await relay.work();
    await eventually(async () => (await relay.redis.zscore(relay.key('delayed'), id)) !== null);
    await worker.close();
  }
  return { relay, ids: ids as [string, ...string[]] };
}

/** What a promise was rejected with: its code and details. */
export async function refusalOf(promise: Promise<unknown>): Promise<Record<string, unknown>> {
  try {
    await promise;
  } catch (error) {
    const { code, details } = error as { code?: string; details?: object };
    if (code === undefined) throw error;
    return { code, ...details };
  }
  throw new Error('it was not refused');
}

/** Writes to Redis what a stop and a worker that follows it would, so that a program in another process finds it. */
export async function pretendDrained(prefix: string, gateway: GatewayName): Promise<void> {
  const redis = await testRedis();
  const queue = { name: 'payments', prefix };
  await redis.hset(steeringKey(queue), gateway, JSON.stringify({ state: 'stopped', who: 'ana', reason: '', at: 1 }));
  const { worker } = heartbeatOf(DRAINED);
  await redis.zadd(heartbeatsKey(queue), 1, 'pretended');
  await redis.set(
    heartbeatKey(queue, 'pretended'),
    JSON.stringify({ id: 'pretended', role: 'worker', worker }),
    'PX',
    60_000,
  );
}
