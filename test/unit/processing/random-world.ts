import { setImmediate as turn } from 'node:timers/promises';
import type { SinonFakeTimers } from 'sinon';
import type { FallbackConfig } from '../../../src/config.ts';
import { createCircuit } from '../../../src/gateways/circuit.ts';
import type { AttemptOutcome, FailedAttempt, LookUpOutcome } from '../../../src/gateways/gateway.ts';
import type { DeadLetter } from '../../../src/ledger/dead-letters.ts';
import type { PaidPayment } from '../../../src/ledger/ledger.ts';
import type { GatewayName } from '../../../src/payment.ts';
import {
  DeadLetterError,
  jobLockLost,
  type PaymentRun,
  RequeueError,
  type RunHistory,
} from '../../../src/processing/payment-run.ts';
import { processPayment } from '../../../src/processing/process-payment.ts';
import type { GuardedGateway } from '../../../src/processing/processing-deps.ts';
import { recordingLogger } from '../../support/logger.ts';
import { ACCEPTED_AT, ALREADY_PAID, FOUND, ID, LOOK_UP_FAILED, NOT_FOUND, PAID } from './given.ts';
import { open } from './stage.ts';

/** Numbers in [0, 1) that the seed decides (mulberry32). */
export function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let bits = Math.imul(state ^ (state >>> 15), 1 | state);
    bits = (bits + Math.imul(bits ^ (bits >>> 7), 61 | bits)) ^ bits;
    return ((bits ^ (bits >>> 14)) >>> 0) / 2 ** 32;
  };
}

export interface WorldOptions {
  readonly random: () => number;
  readonly clock: SinonFakeTimers;
  readonly policy: FallbackConfig;
  /** The outcomes of attempts that do not pay. */
  readonly failures: readonly FailedAttempt[];
  /** How often an attempt pays; one that is unknown or doubtful charges all the same. Of 1. */
  readonly pays: number;
  readonly charges: number;
  /** How often a step of a run is its last; a run is stopped at it and overtaken. Of 1. */
  readonly dies: number;
  readonly stops: number;
  /** How often an operator stops, drains or resumes a gateway before a step. Of 1. */
  readonly steers: number;
  /** The fallback was paid before the ledger was restored. Then its look-ups are true, or fail. */
  readonly isRestored: boolean;
}

/** A run that was stopped past its job's lock, and may go on at any time. */
type Stopped = () => void;

/**
 * One payment, its job, both gateways and the ledger. Runs die or are stopped at any step, before or after its effect, and are
 * overtaken by the next one; gateways charge or do not, whatever they respond.
 */
export function createWorld({
  random,
  clock,
  policy,
  failures,
  pays,
  charges,
  dies,
  stops,
  steers,
  isRestored,
}: WorldOptions) {
  let isOverWithTrouble = false;
  const happens = (share: number) => random() < share;
  const goesWrong = (share: number) => !isOverWithTrouble && happens(share);
  const pick = <T>(items: readonly T[]): T => items[Math.floor(random() * items.length)]!;

  /** As BullMQ and the scripts keep it; `owner` is the run whose token the lock has. */
  let job = {
    started: 0,
    made: 0,
    boundTo: undefined as GatewayName | undefined,
    doubts: 0,
    doubtedSinceMs: 0,
    owner: 0,
  };
  let letterTies: GatewayName | undefined;
  let recordedAt: GatewayName | undefined;
  const isCharged = { primary: false, fallback: isRestored };
  /** An attempt there is paid, or may be. */
  const mayBePaid = { primary: false, fallback: isRestored };
  const faults: string[] = [];
  const seen = { doubts: 0, overtaken: 0, deaths: 0, deadLetters: 0, steered: 0 };
  const stopped: Stopped[] = [];
  let runs = 0;

  const guarded = (name: GatewayName, step: Step): GuardedGateway => ({
    gateway: {
      name,
      send: () => step(() => attemptAt(name)),
      findPayment: () => step(() => lookUpAt(name)),
      get hasFreeConnection() {
        return happens(0.5);
      },
      get wouldWaitInVain() {
        return happens(0.3);
      },
      close() {},
    },
    circuit: createCircuit({
      gateway: name,
      failureThreshold: 3,
      probeIntervalMs: 200,
      probeLimitMs: 500,
      tiedPlaces: { limit: pick([0, 1, 2]), taken: 0 },
      sparesNew: happens(0.5),
    }),
    // Others are paid all the time, or never.
    lastPaidAtMs: happens(0.2) ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY,
  });

  function attemptAt(name: GatewayName): AttemptOutcome {
    const other = name === 'primary' ? 'fallback' : 'primary';
    if (mayBePaid[other]) faults.push(`sent to ${name} what may be paid at ${other}`);
    if (isOverWithTrouble || happens(pays)) {
      const isKnown = isCharged[name];
      isCharged[name] = true;
      mayBePaid[name] = true;
      return isKnown ? ALREADY_PAID : PAID;
    }
    const outcome = pick(failures);
    if (outcome.kind === 'unknown' || outcome.kind === 'doubtful') {
      mayBePaid[name] = true;
      if (happens(charges)) isCharged[name] = true;
      if (outcome.kind === 'doubtful') seen.doubts += 1;
    }
    return outcome;
  }

  /** Intermediaries respond to look-ups, too: a 404 may be wrong. */
  function lookUpAt(name: GatewayName): LookUpOutcome {
    if (goesWrong(0.2)) return LOOK_UP_FAILED;
    if (!isCharged[name]) return NOT_FOUND;
    return !isRestored && goesWrong(0.2) ? NOT_FOUND : FOUND;
  }

  type Step = <T>(effect: () => T) => Promise<T>;

  /** Resolves when the run has ended, died or was stopped: the job may be taken again. */
  async function oneRun(): Promise<void> {
    runs += 1;
    const me = runs;
    job.owner = me;
    job.started += 1;
    const gone = Promise.withResolvers<void>();
    const step: Step = async (effect) => {
      // While this run works, one that was stopped may go on.
      if (happens(0.2)) stopped.shift()?.();
      if (goesWrong(steers)) steerAny();
      await interrupted();
      const result = effect();
      await interrupted();
      return result;
    };
    async function interrupted(): Promise<void> {
      if (goesWrong(dies)) {
        seen.deaths += 1;
        gone.resolve();
        await new Promise(() => {});
      }
      if (goesWrong(stops)) {
        seen.overtaken += 1;
        gone.resolve();
        await new Promise<void>((goOn) => stopped.push(goOn));
      }
    }
    const steerAny = () => {
      pick([primary, fallback]).circuit.steer(pick(['open', 'draining', 'stopped']));
      seen.steered += 1;
    };
    const owned = (write: () => void) =>
      step(() => {
        if (job.owner !== me) return false;
        write();
        return true;
      });
    const bind = async (boundTo: GatewayName | undefined) => {
      if (!(await owned(() => Object.assign(job, { boundTo })))) throw jobLockLost();
    };
    const notClean = job.started - 1 - job.made;
    const history: RunHistory =
      notClean === 0
        ? { runs: job.started - 1, isUnresolved: false, doubts: 0, doubtedSinceMs: undefined }
        : {
            runs: job.started - 1,
            isUnresolved: notClean > job.doubts,
            doubts: job.doubts,
            doubtedSinceMs: job.doubts > 0 ? job.doubtedSinceMs : undefined,
          };
    const run: PaymentRun = {
      jobId: ID,
      payload: { correlationId: ID, amount: 19.9 },
      isOwned: true,
      readPayloadText: () => step(() => '{}'),
      acceptedAt: ACCEPTED_AT,
      get ageMs() {
        return Date.now() - ACCEPTED_AT.getTime();
      },
      history,
      boundTo: job.boundTo,
      bindTo: bind,
      release: () => bind(undefined),
      noteUnresolved() {},
    };
    const primary = guarded('primary', step);
    const fallback = guarded('fallback', step);
    if (happens(0.4)) await open(primary, pick(failures.filter(({ evidence }) => evidence !== 'none')));
    if (happens(0.2)) await open(fallback, pick(failures.filter(({ evidence }) => evidence !== 'none')));
    if (goesWrong(3 * steers)) steerAny();
    const ended = processPayment(run, {
      primary,
      fallback,
      recorder: {
        lookUp: () => step(() => ({ isRecorded: recordedAt !== undefined, tiedTo: letterTies })),
        record: ({ gateway }: PaidPayment) =>
          step(() => {
            if (!isCharged[gateway]) faults.push(`recorded at ${gateway} what was not paid there`);
            recordedAt ??= gateway;
          }),
        bury: ({ gateway }: DeadLetter) =>
          step(() => {
            letterTies = gateway;
          }),
      },
      policy,
      rejectAfterMs: 0,
      nowMs: () => Date.now(),
      logger: recordingLogger().logger,
    }).catch(async (error: unknown) => {
      if (error instanceof DeadLetterError) {
        // The job ends, and its id is posted again.
        await owned(() => {
          seen.deadLetters += 1;
          job = { started: 0, made: 0, boundTo: undefined, doubts: 0, doubtedSinceMs: 0, owner: 0 };
        });
        return;
      }
      if (!(error instanceof RequeueError)) throw error;
      if (error.end === 'doubtful') {
        await owned(() => {
          job.doubts += 1;
          if (job.doubts === 1) job.doubtedSinceMs = Date.now();
        });
      }
      await owned(() => {
        if (error.end === 'clean') job.made += 1;
        job.owner = 0;
      });
    });
    let isOver = false;
    const over = Promise.race([ended, gone.promise]).finally(() => {
      isOver = true;
    });
    // A run that has not ended by then is killed.
    for (let timers = 0; timers < 60 && !isOver; timers += 1) {
      await turn();
      if (!isOver) clock.next();
    }
    if (isOver) await over;
    job.owner = 0;
  }

  return {
    faults,
    seen,
    isCharged,
    oneRun,
    /** From now on the gateways pay and no run ends before its time. Runs that were stopped go on. */
    async endTrouble(): Promise<void> {
      isOverWithTrouble = true;
      for (let goOn = stopped.shift(); goOn; goOn = stopped.shift()) {
        goOn();
        await turn();
      }
    },
    get recordedAt() {
      return recordedAt;
    },
  };
}
