import { expect } from 'chai';
import sinon from 'sinon';
import type { FallbackConfig } from '../../../src/config.ts';
import { createCircuit } from '../../../src/gateways/circuit.ts';
import type {
  AttemptHistory,
  AttemptOutcome,
  FailedAttempt,
  Gateway,
  LookUpOutcome,
} from '../../../src/gateways/gateway.ts';
import { createInFlightLimit } from '../../../src/gateways/in-flight-limit.ts';
import type { ProbeRight } from '../../../src/gateways/probes.ts';
import type { TiedPlaces } from '../../../src/gateways/waiting-room.ts';
import type { DeadLetter, LookUp } from '../../../src/ledger/dead-letters.ts';
import type { PaidPayment } from '../../../src/ledger/ledger.ts';
import type { GatewayName, Payment } from '../../../src/payment.ts';
import type { Failure } from '../../../src/process/outage-log.ts';
import {
  DeadLetterError,
  type Pause,
  type PaymentRun,
  RequeueError,
  type RunEnd,
} from '../../../src/processing/payment-run.ts';
import { processPayment } from '../../../src/processing/process-payment.ts';
import type { GuardedGateway, ProcessingDeps } from '../../../src/processing/processing-deps.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { recordingLogger } from '../../support/logger.ts';
import { ACCEPTED_AT, CLEAN, ID, NOT_FOUND, ON_POOL_TIMEOUT } from './given.ts';

export const FAILURE_THRESHOLD = 3;
export const PROBE_INTERVAL_MS = 200;
export const REJECT_AFTER_MS = 300_000;

/** Outcomes in order, where one more attempt fails the test; or a function that decides each attempt. */
export type Script = readonly AttemptOutcome[] | (() => AttemptOutcome | Promise<AttemptOutcome>);

export interface Scene {
  readonly primary?: Script;
  readonly fallback?: Script;
  /** Outcomes of a look-up of the payment at the gateways. */
  readonly primaryLookUp?: LookUpOutcome;
  readonly fallbackLookUp?: LookUpOutcome;
  readonly policy?: FallbackConfig;
  /** Places for tied payments. */
  readonly places?: number;
  /** This worker's share of the requests, by gateway. Default: no limit. */
  readonly shares?: Partial<Record<GatewayName, number>>;
  /** The right to probe, by gateway. Default: there is no other worker. */
  readonly rights?: Partial<Record<GatewayName, ProbeRight>>;
  readonly lookUp?: () => Promise<LookUp>;
  readonly record?: () => Promise<void>;
  readonly bury?: () => Promise<void>;
}

export interface RunOptions extends Partial<PaymentRun> {
  readonly onBind?: () => void;
}

export const TIED_TO_NONE: LookUp = { isRecorded: false, tiedTo: undefined };

let clockOfScene: sinon.SinonFakeTimers | undefined;

/** The clock of this scene replaces that of the scene before: a table in one test has a scene for each row. */
function fakeClock(): sinon.SinonFakeTimers {
  clockOfScene?.restore();
  const clock = sinon.useFakeTimers({ now: ACCEPTED_AT });
  clockOfScene = clock;
  atTestEnd(() => {
    clock.restore();
    clockOfScene = undefined;
  });
  return clock;
}

/** Scripted gateways behind real circuits, and a ledger, under a clock of the test's own. `events` are in their order. */
export function stage({
  primary = [],
  fallback = [],
  primaryLookUp = NOT_FOUND,
  fallbackLookUp = NOT_FOUND,
  policy = ON_POOL_TIMEOUT,
  places = 2,
  shares = {},
  rights = {},
  lookUp = async () => TIED_TO_NONE,
  record = async () => {},
  bury = async () => {},
}: Scene = {}) {
  const clock = fakeClock();
  const events: string[] = [];
  const sent: Payment[] = [];
  const histories: AttemptHistory[] = [];
  const recorded: PaidPayment[] = [];
  const letters: DeadLetter[] = [];
  const notes: Failure[] = [];
  const { logger, entries } = recordingLogger();
  const tiedPlaces: TiedPlaces = { limit: places, taken: 0 };
  const hasFreeConnection = { primary: true, fallback: true };
  const wouldWaitInVain = { primary: false, fallback: false };

  const guarded = (name: GatewayName, script: Script, lookUpOutcome: LookUpOutcome): GuardedGateway => {
    const outcomes = typeof script === 'function' ? undefined : [...script];
    const gateway: Gateway = {
      name,
      async send(payment, history) {
        events.push(`send to ${name}`);
        sent.push(payment);
        histories.push(history);
        const outcome = typeof script === 'function' ? await script() : outcomes!.shift();
        if (outcome === undefined) throw new Error(`the script has no further attempt at ${name}`);
        return outcome;
      },
      async findPayment() {
        events.push(`ask ${name}`);
        return lookUpOutcome;
      },
      get hasFreeConnection() {
        return hasFreeConnection[name];
      },
      get wouldWaitInVain() {
        return wouldWaitInVain[name];
      },
      close() {},
    };
    const circuit = createCircuit({
      gateway: name,
      failureThreshold: FAILURE_THRESHOLD,
      probeIntervalMs: PROBE_INTERVAL_MS,
      probeLimitMs: 500,
      tiedPlaces,
      sparesNew: false,
      inFlightLimit: createInFlightLimit(shares[name]),
      ...(rights[name] && { right: rights[name] }),
    });
    return { gateway, circuit, lastPaidAtMs: Number.NEGATIVE_INFINITY };
  };
  const deps: ProcessingDeps = {
    primary: guarded('primary', primary, primaryLookUp),
    fallback: guarded('fallback', fallback, fallbackLookUp),
    recorder: {
      async lookUp() {
        events.push('look up');
        return lookUp();
      },
      async record(payment: PaidPayment) {
        events.push('record');
        recorded.push(payment);
        await record();
      },
      async bury(letter: DeadLetter) {
        events.push('bury');
        letters.push(letter);
        await bury();
      },
    },
    policy,
    rejectAfterMs: REJECT_AFTER_MS,
    nowMs: () => Date.now(),
    logger,
  };

  /** Runs one payment's job; the promise resolves with how it ended. */
  function run({ onBind, ageMs: ageAtStartMs = 0, bindTo, release, ...fields }: RunOptions = {}): Promise<unknown> {
    const startedAtMs = performance.now();
    const paymentRun: PaymentRun = {
      jobId: ID,
      payload: { correlationId: ID, amount: 19.9 },
      readPayloadText: async () => `{"correlationId":"${ID}","amount":19.9}`,
      acceptedAt: ACCEPTED_AT,
      get ageMs() {
        return ageAtStartMs + performance.now() - startedAtMs;
      },
      history: CLEAN,
      isOwned: true,
      boundTo: undefined,
      async bindTo(gateway) {
        events.push(`bind to ${gateway}`);
        onBind?.();
        await bindTo?.(gateway);
      },
      async release() {
        events.push('release');
        await release?.();
      },
      noteUnresolved: (reason) => notes.push(reason),
      ...fields,
    };
    return processPayment(paymentRun, deps).then(
      () => 'completed',
      (error: unknown) => error,
    );
  }

  return {
    clock,
    events,
    sent,
    histories,
    recorded,
    letters,
    notes,
    entries,
    tiedPlaces,
    hasFreeConnection,
    wouldWaitInVain,
    primary: deps.primary,
    fallback: deps.fallback,
    run,
    /** Like `run`, for one that does not end soon: `end` stays undefined until it does. */
    start(options: RunOptions = {}): { end: unknown } {
      const running: { end: unknown } = { end: undefined };
      void run(options).then((end) => {
        running.end = end;
      });
      return running;
    },
    /** How often the payment was sent to this gateway. */
    sends: (gateway: GatewayName) => events.filter((event) => event === `send to ${gateway}`).length,
  };
}

let others = 0;

/** Another payment that passes the circuit now; its attempt ends when the test says so. */
export function anotherPaymentAt({ circuit }: GuardedGateway): (outcome: AttemptOutcome) => Promise<void> {
  others += 1;
  const outcome = Promise.withResolvers<AttemptOutcome>();
  const result = circuit.run(
    {
      correlationId: `other-${others}`,
      isNew: true,
      isTied: false,
      hasHadItsTurn: false,
      arrivedAtMs: performance.now(),
      maxWaitMs: 0,
      notBeforeMs: Number.NEGATIVE_INFINITY,
    },
    () => outcome.promise,
  );
  return async (value) => {
    outcome.resolve(value);
    const { kind } = await result;
    if (kind === 'not_tried') throw new Error('the circuit did not let the other payment pass');
  };
}

/** Opens the circuit by failures of other payments. */
export async function open(at: GuardedGateway, outcome: FailedAttempt): Promise<void> {
  const attempts = Array.from({ length: FAILURE_THRESHOLD }, () => anotherPaymentAt(at));
  for (const end of attempts) await end(outcome);
  if (at.circuit.cause === undefined) throw new Error('the circuit did not open');
}

/** Opens the circuit for `forMs` without a probe, because its gateway asked for that. */
export function openWithoutProbes(at: GuardedGateway, outcome: FailedAttempt, forMs = 86_400_000): Promise<void> {
  return open(at, { ...outcome, retryAfterMs: forMs });
}

/** Whether the circuit lets a new payment pass freely, or not, or only as a probe. */
export function stateOf({ circuit }: GuardedGateway): 'closed' | 'open' | 'probing' {
  if (circuit.cause === undefined) return 'closed';
  return circuit.isAccepting ? 'probing' : 'open';
}

export function expectRequeue(
  end: unknown,
  expected: { end: RunEnd; pause: Pause; code?: string; atLeastMs?: number },
): void {
  expect(end).to.be.instanceOf(RequeueError);
  expect(end).to.include(expected);
}

export function expectDeadLetter(end: unknown, reason: string): void {
  expect(end).to.be.instanceOf(DeadLetterError);
  expect((end as DeadLetterError).message).to.equal(reason);
}
