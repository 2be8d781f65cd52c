import { expect } from 'chai';
import sinon from 'sinon';
import type { FallbackConfig } from '../../../src/config.ts';
import { LedgerUnavailableError } from '../../../src/errors.ts';
import { type Circuit, type CircuitFailure, createCircuit } from '../../../src/gateways/circuit.ts';
import type { AttemptOutcome, Gateway, HeldPayment } from '../../../src/gateways/gateway.ts';
import type { DeadLetter } from '../../../src/ledger/dead-letters.ts';
import type { PaidPayment } from '../../../src/ledger/payments-table.ts';
import type { GatewayName, Payment } from '../../../src/payment.ts';
import {
  DeadLetterError,
  type PaymentRun,
  type ProcessingDeps,
  processPayment,
  RequeueError,
} from '../../../src/processing/process-payment.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { recordingLogger } from '../../support/logger.ts';

const ID = '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3';
const SENT_AT = new Date('2025-07-15T12:00:00.123Z');

const ACCEPTED_AT = new Date('2025-07-15T11:59:59.000Z');
/** As it was posted, which is not as it would be written again. */
const PAYLOAD_TEXT = `{"correlationId": "${ID}", "amount": 19.90}`;

const PAID: AttemptOutcome = { kind: 'paid', requestedAt: SENT_AT };
const ALREADY_PAID: AttemptOutcome = { kind: 'already_paid' };
const POOL_TIMEOUT: AttemptOutcome = { kind: 'not_sent', reason: 'pool_timeout', cause: 'no connection was free' };
const UNREACHABLE: AttemptOutcome = { kind: 'not_sent', reason: 'unreachable', cause: 'ECONNREFUSED' };
const REFUSED: AttemptOutcome = { kind: 'refused', cause: 'HTTP 500' };
const INVALID: AttemptOutcome = { kind: 'invalid', cause: 'HTTP 400' };
const UNKNOWN: AttemptOutcome = { kind: 'unknown', cause: 'ECONNRESET' };

const NEVER = Number.POSITIVE_INFINITY;
const ON_POOL_TIMEOUT: FallbackConfig = { on: 'pool_timeout', afterMs: NEVER };
const ON_NOT_SENT: FallbackConfig = { on: 'not_sent', afterMs: NEVER };
const AFTER_5_S: FallbackConfig = { on: 'pool_timeout', afterMs: 5_000 };
/** The policies that send most to the fallback. */
const EAGER: FallbackConfig[] = [ON_NOT_SENT, { on: 'pool_timeout', afterMs: 0 }, { on: 'not_sent', afterMs: 0 }];

const FAILURE_THRESHOLD = 3;
const PROBE_INTERVAL_MS = 200;

interface Scene {
  /** What the gateways answer, attempt by attempt; one more attempt fails the test. */
  primary?: AttemptOutcome[];
  fallback?: AttemptOutcome[];
  /** What a gateway says it holds. */
  held?: HeldPayment | undefined;
  policy?: FallbackConfig;
  isRecorded?: () => Promise<boolean>;
  /** The gateway to which a dead letter ties the id. */
  tiedTo?: GatewayName;
  record?: () => Promise<void>;
  bury?: () => Promise<void>;
}

/** Gateways by script and a ledger, under a clock of the test's own. `events` tells what happened in which order. */
function stage({
  primary = [],
  fallback = [],
  held,
  policy = ON_POOL_TIMEOUT,
  isRecorded,
  tiedTo,
  record,
  bury,
}: Scene = {}) {
  const clock = sinon.useFakeTimers();
  atTestEnd(() => clock.restore());
  const events: string[] = [];
  const sent: Payment[] = [];
  const recorded: PaidPayment[] = [];
  const buried: DeadLetter[] = [];
  const { logger, entries } = recordingLogger();

  const guarded = (name: GatewayName, script: AttemptOutcome[]) => {
    const gateway: Gateway = {
      name,
      async send(payment) {
        events.push(`send to ${name}`);
        sent.push(payment);
        const outcome = script.shift();
        if (outcome === undefined) throw new Error(`nobody expected an attempt at ${name}`);
        return outcome;
      },
      async findPayment(correlationId) {
        events.push(`ask ${name} for ${correlationId}`);
        return held;
      },
      close() {},
    };
    const circuit = createCircuit({ failureThreshold: FAILURE_THRESHOLD, probeIntervalMs: PROBE_INTERVAL_MS });
    return { gateway, circuit };
  };
  const deps: ProcessingDeps = {
    primary: guarded('default', primary),
    fallback: guarded('fallback', fallback),
    recorder: {
      async lookUp() {
        events.push('look up');
        return { isRecorded: isRecorded ? await isRecorded() : false, tiedTo };
      },
      async bury(letter) {
        events.push('bury');
        buried.push(letter);
        await bury?.();
      },
      async record(payment) {
        events.push('record');
        recorded.push(payment);
        await record?.();
      },
    },
    policy,
    logger,
  };

  interface RunOptions extends Partial<PaymentRun> {
    /** Answers of the marking, call by call; true when there is none left. */
    markAnswers?: (boolean | Error)[];
    onMark?: () => void;
  }

  /** Runs one payment's job; the promise resolves with the way it ended. */
  function run({ markAnswers = [], onMark, ...fields }: RunOptions = {}): Promise<unknown> {
    return processPayment(
      {
        jobId: ID,
        payload: { correlationId: ID, amount: 19.9 },
        payloadText: async () => PAYLOAD_TEXT,
        attempts: 1,
        acceptedAt: ACCEPTED_AT,
        ageMs: 0,
        earlierRunsAreClean: true,
        isMarkedForFallback: false,
        async markForFallback(marked) {
          events.push(marked ? 'mark' : 'unmark');
          onMark?.();
          const answer = markAnswers.shift() ?? true;
          if (answer instanceof Error) throw answer;
          return answer;
        },
        ...fields,
      },
      deps,
    ).then(
      () => 'completed',
      (error: unknown) => error,
    );
  }

  return {
    clock,
    events,
    sent,
    recorded,
    buried,
    entries,
    run,
    primary: deps.primary.circuit,
    fallback: deps.fallback.circuit,
    /** Like `run`, for one that does not end soon: `end` stays undefined until it does. */
    start(options: RunOptions = {}) {
      const running: { end: unknown } = { end: undefined };
      run(options).then((end) => {
        running.end = end;
      });
      return running;
    },
  };
}

function open(circuit: Circuit, reason: CircuitFailure): void {
  for (let failure = 0; failure < FAILURE_THRESHOLD; failure += 1) circuit.failed('passed', reason);
}

/** Takes the next probe of an open circuit and never reports, so that nobody else gets one. */
function blockProbes(circuit: Circuit): void {
  circuit.enter(NEVER);
}

function expectRequeue(end: unknown, expected: { isClean: boolean; backOff: boolean }): void {
  expect(end).to.be.instanceOf(RequeueError);
  const { isClean, backOff } = end as RequeueError;
  expect({ isClean, backOff }).to.deep.equal(expected);
}

function expectDeadLetter(end: unknown, reason: string): void {
  expect(end).to.be.instanceOf(DeadLetterError);
  expect((end as DeadLetterError).message).to.equal(reason);
}

const FRESH = {};
const UNRESOLVED = { earlierRunsAreClean: false };
const MARKED = { isMarkedForFallback: true };
const MARKED_AND_UNRESOLVED = { isMarkedForFallback: true, earlierRunsAreClean: false };
const STATES = { fresh: FRESH, unresolved: UNRESOLVED, marked: MARKED, 'marked and unresolved': MARKED_AND_UNRESOLVED };

describe('processPayment', () => {
  it('pays at the primary and records what was sent', async () => {
    const { run, events, sent, recorded } = stage({ primary: [PAID] });
    expect(await run()).to.equal('completed');
    expect(events).to.deep.equal(['look up', 'send to default', 'record']);
    expect(sent).to.deep.equal([{ correlationId: ID, amountCents: 1990 }]);
    expect(recorded).to.deep.equal([
      { correlationId: ID, amountCents: 1990, gateway: 'default', requestedAt: SENT_AT },
    ]);
  });

  it('sends the id in its normal form', async () => {
    const { run, sent } = stage({ primary: [PAID] });
    await run({ payload: { correlationId: ID.toUpperCase(), amount: 0.01 } });
    expect(sent).to.deep.equal([{ correlationId: ID, amountCents: 1 }]);
  });

  it('resolves only when the payment is recorded', async () => {
    const committed = Promise.withResolvers<void>();
    const { start, clock, events } = stage({ primary: [PAID], record: () => committed.promise });
    const running = start();
    await clock.tickAsync(60_000);
    expect(events).to.include('record');
    expect(running.end).to.equal(undefined);
    committed.resolve();
    await clock.tickAsync(0);
    expect(running.end).to.equal('completed');
  });

  it('says each recorded payment at debug and nothing above', async () => {
    const { run, entries } = stage({ primary: [PAID] });
    await run();
    expect(entries).to.deep.equal([
      { level: 'debug', message: 'payment recorded', correlationId: ID, gateway: 'default' },
    ]);
  });

  describe('given a payload that can never be paid', () => {
    for (const [title, state] of Object.entries(STATES)) {
      it(`makes a dead letter that names every fault and asks no gateway, ${title}`, async () => {
        const { run, events } = stage();
        const end = await run({ payload: { correlationId: 'x', amount: 0 }, ...state });
        expectDeadLetter(
          end,
          'invalid_payment: correlationId must be a UUID, not the string "x"; amount must be more than 0 (got 0)',
        );
        expect(events).to.deep.equal(['bury']);
      });
    }

    it('buries it with all that is known, its payload as it was posted', async () => {
      const { run, buried } = stage();
      await run({ payload: { correlationId: ID.toUpperCase(), amount: '19.90' }, attempts: 3 });
      expect(buried).to.deep.equal([
        {
          jobId: ID,
          correlationId: ID,
          amountText: '19.90',
          payload: PAYLOAD_TEXT,
          code: 'invalid_payment',
          reason: 'amount must be a positive number of at most 2 decimals, up to 45035996273704.96',
          gateway: undefined,
          attempts: 3,
          acceptedAt: ACCEPTED_AT,
        },
      ]);
    });

    it('ties its id where an earlier attempt of the id may be paid', async () => {
      const { run, buried } = stage();
      for (const state of [UNRESOLVED, MARKED, MARKED_AND_UNRESOLVED]) await run({ payload: {}, ...state });
      expect(buried.map(({ gateway }) => gateway)).to.deep.equal(['default', 'fallback', 'fallback']);
    });

    it('ties the id of a job that has lost its payload, and with it what was known of its attempts', async () => {
      const { run, buried } = stage();
      expectDeadLetter(
        await run({ payload: {}, payloadText: async () => undefined }),
        'payload_missing: the job has lost its payload',
      );
      expect(buried[0]).to.include({
        code: 'payload_missing',
        correlationId: ID,
        payload: undefined,
        gateway: 'default',
      });
    });

    it('does not end before its row is committed', async () => {
      const committed = Promise.withResolvers<void>();
      const { start, clock } = stage({ bury: () => committed.promise });
      const running = start({ payload: {} });
      await clock.tickAsync(600_000);
      expect(running.end).to.equal(undefined);
      committed.resolve();
      await clock.tickAsync(0);
      expect(running.end).to.be.instanceOf(DeadLetterError);
    });

    it('hands the payment back when its row could not be committed', async () => {
      const bury = () => Promise.reject(new LedgerUnavailableError('no answer'));
      const { run } = stage({ bury, primary: [INVALID] });
      expectRequeue(await run({ payload: {} }), { isClean: true, backOff: false });
      expectRequeue(await run(), { isClean: false, backOff: false });
    });

    it('makes a dead letter when the primary refuses it for good', async () => {
      const { run, events, buried } = stage({ primary: [INVALID] });
      expectDeadLetter(await run(), 'the default gateway refused it: HTTP 400');
      expect(events).to.deep.equal(['look up', 'send to default', 'bury']);
      expect(buried[0]).to.include({ code: 'rejected', gateway: 'default', correlationId: ID });
    });

    it('makes a dead letter when the fallback refuses it for good', async () => {
      const { run, events, buried } = stage({ primary: [POOL_TIMEOUT], fallback: [INVALID] });
      expectDeadLetter(await run(), 'the fallback gateway refused it: HTTP 400');
      expect(events).to.deep.equal(['look up', 'send to default', 'mark', 'send to fallback', 'bury']);
      expect(buried[0]).to.include({ code: 'rejected', gateway: 'fallback' });
    });

    it('makes a dead letter when the fallback refuses a marked one for good', async () => {
      const { run } = stage({ fallback: [INVALID] });
      expectDeadLetter(await run(MARKED), 'the fallback gateway refused it: HTTP 400');
    });
  });

  describe('before the first send', () => {
    for (const [title, state] of Object.entries(STATES)) {
      it(`asks the ledger, and is done with a recorded payment, ${title}`, async () => {
        const { run, events } = stage({ isRecorded: async () => true });
        expect(await run(state)).to.equal('completed');
        expect(events).to.deep.equal(['look up']);
      });

      it(`sends nothing while the ledger does not answer, ${title}`, async () => {
        const { start, clock, events } = stage({ isRecorded: () => new Promise(() => {}) });
        const running = start(state);
        await clock.tickAsync(600_000);
        expect(events).to.deep.equal(['look up']);
        expect(running.end).to.equal(undefined);
      });

      it(`hands the payment back at once when the ledger cannot be asked, ${title}`, async () => {
        const { run, events } = stage({ isRecorded: () => Promise.reject(new LedgerUnavailableError('no answer')) });
        expectRequeue(await run(state), { isClean: true, backOff: false });
        expect(events).to.deep.equal(['look up']);
      });
    }
  });

  describe('given an id that a dead letter ties to a gateway', () => {
    it('keeps it at the primary, also under the policy that sends most to the fallback', async () => {
      const { run, events } = stage({ tiedTo: 'default', primary: [UNREACHABLE], policy: EAGER.at(-1)! });
      expectRequeue(await run({ ageMs: 600_000 }), { isClean: true, backOff: true });
      expect(events).to.deep.equal(['look up', 'send to default']);
    });

    it('sends it to the fallback alone, and marks it first, for workers that do not look it up', async () => {
      const { run, events } = stage({ tiedTo: 'fallback', fallback: [PAID] });
      expect(await run()).to.equal('completed');
      expect(events).to.deep.equal(['look up', 'mark', 'send to fallback', 'record']);
    });

    it('sends nothing when the job was lost before the mark', async () => {
      const { run, events } = stage({ tiedTo: 'fallback' });
      expectRequeue(await run({ markAnswers: [false] }), { isClean: false, backOff: true });
      expect(events).to.deep.equal(['look up', 'mark']);
    });

    it('stays there after an attempt that certainly did not pay', async () => {
      const { run, events } = stage({ tiedTo: 'fallback', fallback: [REFUSED] });
      expectRequeue(await run(), { isClean: false, backOff: true });
      expect(events).to.deep.equal(['look up', 'mark', 'send to fallback']);
    });
  });

  describe('when the gateway has known the payment before', () => {
    const held: HeldPayment = { amountCents: 5, requestedAt: new Date('2025-07-15T11:00:00.000Z') };

    it('records what the primary holds, another amount too', async () => {
      const { run, events, recorded } = stage({ primary: [ALREADY_PAID], held });
      expect(await run()).to.equal('completed');
      expect(events).to.deep.equal(['look up', 'send to default', `ask default for ${ID}`, 'record']);
      expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'default', ...held }]);
    });

    it('records what the fallback holds after a change to it', async () => {
      const { run, events, recorded } = stage({ primary: [POOL_TIMEOUT], fallback: [ALREADY_PAID], held });
      expect(await run()).to.equal('completed');
      expect(events.slice(-2)).to.deep.equal([`ask fallback for ${ID}`, 'record']);
      expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'fallback', ...held }]);
    });

    it('records what the fallback holds of a marked payment', async () => {
      const { run, recorded } = stage({ fallback: [ALREADY_PAID], held });
      expect(await run(MARKED)).to.equal('completed');
      expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'fallback', ...held }]);
    });

    it('records nothing and requeues as not clean when the gateway does not say what it holds', async () => {
      const { run, events } = stage({ primary: [ALREADY_PAID], held: undefined });
      expectRequeue(await run(), { isClean: false, backOff: true });
      expect(events).to.not.include('record');
    });
  });

  describe('when the payment is made and cannot be recorded', () => {
    const record = () => Promise.reject(new LedgerUnavailableError('no answer'));
    const scenes: [title: string, scene: Scene, state: Partial<PaymentRun>][] = [
      ['paid at the primary', { primary: [PAID] }, FRESH],
      ['paid at the fallback', { primary: [POOL_TIMEOUT], fallback: [PAID] }, FRESH],
      ['paid at the fallback, marked before', { fallback: [PAID] }, MARKED],
      ['paid earlier', { primary: [ALREADY_PAID], held: { amountCents: 1990, requestedAt: SENT_AT } }, UNRESOLVED],
    ];
    for (const [title, scene, state] of scenes) {
      it(`requeues as not clean and keeps the mark, ${title}`, async () => {
        const { run, events } = stage({ ...scene, record });
        expectRequeue(await run(state), { isClean: false, backOff: true });
        expect(events.at(-1)).to.equal('record');
        expect(events).to.not.include('unmark');
      });
    }
  });

  describe('when the primary does not pay', () => {
    type Row = [outcome: AttemptOutcome, policy: FallbackConfig, ageMs: number, isClean: boolean];
    const requeued: Row[] = [
      [REFUSED, ON_POOL_TIMEOUT, 1e9, true],
      [UNREACHABLE, ON_POOL_TIMEOUT, 1e9, true],
      [UNKNOWN, ON_POOL_TIMEOUT, 1e9, false],
      [REFUSED, ON_NOT_SENT, 1e9, true],
      [UNKNOWN, ON_NOT_SENT, 1e9, false],
      [REFUSED, AFTER_5_S, 4_999, true],
      [UNREACHABLE, AFTER_5_S, 4_999, true],
      [UNKNOWN, AFTER_5_S, 1e9, false],
    ];
    for (const [outcome, policy, ageMs, isClean] of requeued) {
      const policyText = `FALLBACK_ON=${policy.on} and FALLBACK_AFTER_MS=${policy.afterMs}`;
      const clean = isClean ? 'clean' : 'not clean';
      it(`requeues as ${clean} after ${outcome.kind} at the age of ${ageMs} ms, ${policyText}`, async () => {
        const { run, events } = stage({ primary: [outcome], policy });
        expectRequeue(await run({ ageMs }), { isClean, backOff: true });
        expect(events).to.deep.equal(['look up', 'send to default']);
      });
    }

    it('gives the gateway, the outcome and its cause as the reason', async () => {
      const { run } = stage({ primary: [UNREACHABLE] });
      expect(await run()).to.have.property('message', 'default gateway: not_sent, ECONNREFUSED');
    });

    const fallenBack: [outcome: AttemptOutcome, policy: FallbackConfig, ageMs: number][] = [
      [POOL_TIMEOUT, ON_POOL_TIMEOUT, 0],
      [POOL_TIMEOUT, ON_NOT_SENT, 0],
      [UNREACHABLE, ON_NOT_SENT, 0],
      [UNREACHABLE, AFTER_5_S, 5_000],
      [REFUSED, AFTER_5_S, 5_000],
    ];
    for (const [outcome, policy, ageMs] of fallenBack) {
      const policyText = `FALLBACK_ON=${policy.on} and FALLBACK_AFTER_MS=${policy.afterMs}`;
      const kind = outcome.kind === 'not_sent' ? outcome.reason : outcome.kind;
      it(`marks the payment, then pays at the fallback after ${kind} at the age of ${ageMs} ms, ${policyText}`, async () => {
        const { run, events, recorded } = stage({ primary: [outcome], fallback: [PAID], policy });
        expect(await run({ ageMs })).to.equal('completed');
        expect(events).to.deep.equal(['look up', 'send to default', 'mark', 'send to fallback', 'record']);
        expect(recorded).to.deep.equal([
          { correlationId: ID, amountCents: 1990, gateway: 'fallback', requestedAt: SENT_AT },
        ]);
      });
    }

    it('sends nothing to the fallback before the mark is written', async () => {
      const { start, clock, events } = stage({ primary: [POOL_TIMEOUT], fallback: [PAID] });
      start({
        async markForFallback() {
          events.push('mark');
          return new Promise(() => {});
        },
      });
      await clock.tickAsync(60_000);
      expect(events).to.deep.equal(['look up', 'send to default', 'mark']);
    });

    it('does not call the fallback when another worker has taken the job over', async () => {
      const { run, events } = stage({ primary: [POOL_TIMEOUT] });
      expectRequeue(await run({ markAnswers: [false] }), { isClean: false, backOff: true });
      expect(events).to.deep.equal(['look up', 'send to default', 'mark']);
    });

    it('does not call the fallback when the mark cannot be written', async () => {
      const { run, events } = stage({ primary: [POOL_TIMEOUT] });
      const lost = new Error('Connection is closed.');
      expect(await run({ markAnswers: [lost] })).to.equal(lost);
      expect(events).to.deep.equal(['look up', 'send to default', 'mark']);
    });

    it('does not mark the payment while the circuit of the fallback is open', async () => {
      const { run, events, fallback } = stage({ primary: [POOL_TIMEOUT] });
      open(fallback, 'other');
      expectRequeue(await run(), { isClean: true, backOff: true });
      expect(events).to.deep.equal(['look up', 'send to default']);
    });
  });

  describe('after a change to the fallback', () => {
    for (const outcome of [REFUSED, UNREACHABLE, POOL_TIMEOUT]) {
      const kind = outcome.kind === 'not_sent' ? outcome.reason : outcome.kind;
      it(`takes the mark away and requeues as clean after ${kind}`, async () => {
        const { run, events } = stage({ primary: [POOL_TIMEOUT], fallback: [outcome] });
        expectRequeue(await run(), { isClean: true, backOff: true });
        expect(events).to.deep.equal(['look up', 'send to default', 'mark', 'send to fallback', 'unmark']);
      });
    }

    it('requeues as not clean when the mark cannot be taken away any more', async () => {
      const { run } = stage({ primary: [POOL_TIMEOUT], fallback: [REFUSED] });
      expectRequeue(await run({ markAnswers: [true, false] }), { isClean: false, backOff: true });
    });

    it('stays marked and requeues as not clean after unknown', async () => {
      const { run, events } = stage({ primary: [POOL_TIMEOUT], fallback: [UNKNOWN] });
      expectRequeue(await run(), { isClean: false, backOff: true });
      expect(events).to.deep.equal(['look up', 'send to default', 'mark', 'send to fallback']);
    });

    it('takes the mark away when another payment was quicker to get the only probe', async () => {
      const { run, events, fallback, clock } = stage({ primary: [POOL_TIMEOUT] });
      open(fallback, 'other');
      await clock.tickAsync(PROBE_INTERVAL_MS);
      const end = await run({ onMark: () => fallback.enter(0) });
      expectRequeue(end, { isClean: true, backOff: true });
      expect(events).to.deep.equal(['look up', 'send to default', 'mark', 'unmark']);
    });

    it('takes the mark away when the process ends before the send', async () => {
      const { run, events, fallback } = stage({ primary: [POOL_TIMEOUT] });
      const end = await run({ onMark: () => fallback.shutDown() });
      expect(end).to.be.instanceOf(RequeueError).and.have.property('isClean', true);
      expect(events).to.deep.equal(['look up', 'send to default', 'mark', 'unmark']);
    });

    it('closes the circuit of the fallback as its probe', async () => {
      const { run, fallback, clock } = stage({ primary: [POOL_TIMEOUT], fallback: [PAID] });
      open(fallback, 'other');
      await clock.tickAsync(PROBE_INTERVAL_MS);
      expect(await run()).to.equal('completed');
      expect(await fallback.enter(0)).to.equal('passed');
    });
  });

  describe('with an earlier attempt at the primary unresolved', () => {
    it('pays at the primary', async () => {
      const { run, recorded } = stage({ primary: [PAID] });
      expect(await run(UNRESOLVED)).to.equal('completed');
      expect(recorded).to.have.lengthOf(1);
    });

    for (const policy of [ON_POOL_TIMEOUT, ...EAGER]) {
      const policyText = `FALLBACK_ON=${policy.on} and FALLBACK_AFTER_MS=${policy.afterMs}`;

      for (const outcome of [POOL_TIMEOUT, UNREACHABLE, REFUSED]) {
        const kind = outcome.kind === 'not_sent' ? outcome.reason : outcome.kind;
        it(`does not call the fallback after ${kind}, ${policyText}`, async () => {
          const { run, events } = stage({ primary: [outcome], policy });
          expectRequeue(await run({ ...UNRESOLVED, ageMs: 1e9 }), { isClean: true, backOff: true });
          expect(events).to.deep.equal(['look up', 'send to default']);
        });
      }

      it(`waits for the primary however long it is down, ${policyText}`, async () => {
        const { start, clock, events, primary } = stage({ policy });
        open(primary, 'not_sent');
        blockProbes(primary);
        const running = start({ ...UNRESOLVED, ageMs: 1e9 });
        await clock.tickAsync(600_000);
        expect(running.end).to.equal(undefined);
        expect(events).to.deep.equal(['look up']);
      });
    }

    it('is not clean itself after an unknown outcome', async () => {
      const { run } = stage({ primary: [UNKNOWN] });
      expectRequeue(await run(UNRESOLVED), { isClean: false, backOff: true });
    });
  });

  describe('with the payment marked', () => {
    it('pays at the fallback without a look at the primary', async () => {
      const { run, events, recorded } = stage({ fallback: [PAID] });
      expect(await run(MARKED)).to.equal('completed');
      expect(events).to.deep.equal(['look up', 'send to fallback', 'record']);
      expect(recorded[0]).to.include({ gateway: 'fallback' });
    });

    for (const [title, state] of Object.entries({ MARKED, MARKED_AND_UNRESOLVED })) {
      for (const outcome of [REFUSED, UNREACHABLE, POOL_TIMEOUT, UNKNOWN]) {
        const kind = outcome.kind === 'not_sent' ? outcome.reason : outcome.kind;
        it(`keeps the mark and requeues as not clean after ${kind}, ${title.toLowerCase().replaceAll('_', ' ')}`, async () => {
          const { run, events } = stage({ fallback: [outcome], policy: ON_NOT_SENT });
          expectRequeue(await run(state), { isClean: false, backOff: true });
          expect(events).to.deep.equal(['look up', 'send to fallback']);
        });
      }
    }

    it('waits for the fallback while its circuit is open, and pays there on its recovery', async () => {
      const { start, clock, events, fallback } = stage({ fallback: [REFUSED, UNREACHABLE, UNKNOWN, PAID] });
      open(fallback, 'other');
      const running = start(MARKED);
      await clock.tickAsync(3 * PROBE_INTERVAL_MS);
      expect(events.filter((event) => event === 'send to fallback')).to.have.lengthOf(3);
      expect(running.end).to.equal(undefined);
      await clock.tickAsync(PROBE_INTERVAL_MS);
      expect(running.end).to.equal('completed');
      expect(fallback.isAccepting).to.equal(true);
    });
  });

  describe('while the circuit of the primary is open', () => {
    it('holds the payment and sends nothing', async () => {
      const { start, clock, events, primary } = stage();
      open(primary, 'not_sent');
      blockProbes(primary);
      const running = start();
      await clock.tickAsync(600_000);
      expect(events).to.deep.equal(['look up']);
      expect(running.end).to.equal(undefined);
    });

    it('pays as soon as another payment has found the primary recovered', async () => {
      const { start, clock, primary } = stage({ primary: [PAID] });
      open(primary, 'other');
      const running = start();
      primary.succeeded();
      await clock.tickAsync(0);
      expect(running.end).to.equal('completed');
    });

    it('keeps its job as the probe through an outage and pays on the recovery', async () => {
      const outage = [REFUSED, UNREACHABLE, POOL_TIMEOUT, REFUSED, UNREACHABLE];
      const { start, clock, events, primary, fallback } = stage({ primary: [...outage, PAID] });
      // Otherwise the pool time-out would lead there.
      open(fallback, 'other');
      blockProbes(fallback);
      open(primary, 'other');
      const running = start();
      for (let attempt = 1; attempt <= outage.length; attempt += 1) {
        await clock.tickAsync(PROBE_INTERVAL_MS);
        expect(events.filter((event) => event === 'send to default')).to.have.lengthOf(attempt);
        expect(running.end).to.equal(undefined);
      }
      await clock.tickAsync(PROBE_INTERVAL_MS);
      expect(running.end).to.equal('completed');
      expect(events.filter((event) => event === 'look up')).to.have.lengthOf(1);
    });

    it('records what the primary holds when a probe without an answer was paid', async () => {
      const held = { amountCents: 1990, requestedAt: new Date('2025-07-15T11:00:00.000Z') };
      const { start, clock, recorded, primary } = stage({ primary: [UNKNOWN, ALREADY_PAID], held });
      open(primary, 'other');
      const running = start();
      await clock.tickAsync(2 * PROBE_INTERVAL_MS);
      expect(running.end).to.equal('completed');
      expect(recorded).to.deep.equal([{ correlationId: ID, gateway: 'default', ...held }]);
    });

    for (const policy of EAGER) {
      it(`stays with the primary after a probe without an answer, FALLBACK_ON=${policy.on} and FALLBACK_AFTER_MS=${policy.afterMs}`, async () => {
        const script = [UNKNOWN, UNREACHABLE, POOL_TIMEOUT, REFUSED, UNREACHABLE, PAID];
        const { start, clock, events, primary, fallback } = stage({ primary: [...script], policy });
        open(primary, 'other');
        await clock.tickAsync(PROBE_INTERVAL_MS); // the payment is the probe at once, before any policy can apply
        const running = start();
        await clock.tickAsync(script.length * PROBE_INTERVAL_MS);
        expect(running.end).to.equal('completed');
        expect(events).to.deep.equal(['look up', ...script.map(() => 'send to default'), 'record']);
        expect(fallback.isAccepting).to.equal(true);
      });
    }

    it('goes to the fallback at once under FALLBACK_ON=not_sent when the primary is not to be reached', async () => {
      const { run, events, primary } = stage({ fallback: [PAID], policy: ON_NOT_SENT });
      open(primary, 'not_sent');
      expect(await run()).to.equal('completed');
      expect(events).to.deep.equal(['look up', 'mark', 'send to fallback', 'record']);
    });

    it('waits under FALLBACK_ON=not_sent for a primary that answers with errors', async () => {
      const { start, clock, events, primary } = stage({ policy: ON_NOT_SENT });
      open(primary, 'other');
      blockProbes(primary);
      const running = start();
      await clock.tickAsync(600_000);
      expect(events).to.deep.equal(['look up']);
      expect(running.end).to.equal(undefined);
    });

    it('goes to the fallback under FALLBACK_ON=not_sent once a probe finds the primary out of reach', async () => {
      const { start, clock, events, primary } = stage({ fallback: [PAID], policy: ON_NOT_SENT });
      open(primary, 'other');
      blockProbes(primary);
      const running = start();
      await clock.tickAsync(PROBE_INTERVAL_MS);
      expect(running.end).to.equal(undefined);
      primary.failed('probe', 'not_sent');
      await clock.tickAsync(0);
      expect(running.end).to.equal('completed');
      expect(events).to.deep.equal(['look up', 'mark', 'send to fallback', 'record']);
    });

    it('goes to the fallback at the age of FALLBACK_AFTER_MS, counting the time it is held', async () => {
      const { start, clock, events, primary } = stage({ fallback: [PAID], policy: AFTER_5_S });
      open(primary, 'other');
      blockProbes(primary);
      const running = start({ ageMs: 2_000 });
      await clock.tickAsync(2_999);
      expect(events).to.deep.equal(['look up']);
      await clock.tickAsync(1);
      expect(running.end).to.equal('completed');
      expect(events).to.deep.equal(['look up', 'mark', 'send to fallback', 'record']);
    });

    it('goes to the fallback at the age of FALLBACK_AFTER_MS as the probe, too', async () => {
      const { start, clock, events, primary } = stage({
        primary: [REFUSED, REFUSED],
        fallback: [PAID],
        policy: AFTER_5_S,
      });
      open(primary, 'other');
      const running = start({ ageMs: 5_000 - 2 * PROBE_INTERVAL_MS });
      await clock.tickAsync(2 * PROBE_INTERVAL_MS);
      expect(running.end).to.equal('completed');
      expect(events.slice(-3)).to.deep.equal(['mark', 'send to fallback', 'record']);
    });

    for (const policy of EAGER) {
      const policyText = `FALLBACK_ON=${policy.on} and FALLBACK_AFTER_MS=${policy.afterMs}`;

      it(`holds the payment while both gateways are down, unmarked, ${policyText}`, async () => {
        const { start, clock, events, primary, fallback } = stage({ policy });
        for (const circuit of [primary, fallback]) {
          open(circuit, 'not_sent');
          blockProbes(circuit);
        }
        const running = start();
        await clock.tickAsync(600_000);
        expect(events).to.deep.equal(['look up']);
        expect(running.end).to.equal(undefined);
      });

      it(`goes to the fallback soon after its recovery, ${policyText}`, async () => {
        const { start, clock, primary, fallback, recorded } = stage({ fallback: [PAID], policy });
        for (const circuit of [primary, fallback]) {
          open(circuit, 'not_sent');
          blockProbes(circuit);
        }
        const running = start();
        await clock.tickAsync(60_000);
        fallback.succeeded();
        await clock.tickAsync(250);
        expect(running.end).to.equal('completed');
        expect(recorded[0]).to.include({ gateway: 'fallback' });
      });
    }

    it('goes to the primary when that recovers first', async () => {
      const { start, clock, primary, fallback, recorded } = stage({ primary: [PAID], policy: ON_NOT_SENT });
      for (const circuit of [primary, fallback]) {
        open(circuit, 'not_sent');
        blockProbes(circuit);
      }
      const running = start();
      await clock.tickAsync(60_000);
      primary.succeeded();
      await clock.tickAsync(0);
      expect(running.end).to.equal('completed');
      expect(recorded[0]).to.include({ gateway: 'default' });
    });
  });

  describe('when the worker shuts down', () => {
    it('hands back at once a payment that waits for the primary, as clean', async () => {
      const { start, clock, primary } = stage();
      open(primary, 'other');
      const running = start();
      await clock.tickAsync(0);
      expect(running.end).to.equal(undefined);
      primary.shutDown();
      await clock.tickAsync(0);
      expectRequeue(running.end, { isClean: true, backOff: false });
    });

    it('hands back a probe whose attempt went unanswered as not clean', async () => {
      const { start, clock, primary } = stage({ primary: [UNKNOWN] });
      open(primary, 'other');
      const running = start();
      await clock.tickAsync(PROBE_INTERVAL_MS);
      primary.shutDown();
      await clock.tickAsync(0);
      expectRequeue(running.end, { isClean: false, backOff: false });
    });

    it('hands back a probe whose attempts were all refused as clean', async () => {
      const { start, clock, primary } = stage({ primary: [REFUSED, UNREACHABLE] });
      open(primary, 'other');
      const running = start();
      await clock.tickAsync(2 * PROBE_INTERVAL_MS);
      primary.shutDown();
      await clock.tickAsync(0);
      expectRequeue(running.end, { isClean: true, backOff: false });
    });

    it('hands back at once a marked payment that waits for the fallback, as not clean', async () => {
      const { start, clock, fallback } = stage();
      open(fallback, 'other');
      const running = start(MARKED);
      await clock.tickAsync(0);
      fallback.shutDown();
      await clock.tickAsync(0);
      expectRequeue(running.end, { isClean: false, backOff: false });
    });

    it('hands back without a send a payment that comes afterwards', async () => {
      const { run, events, primary } = stage();
      primary.shutDown();
      expectRequeue(await run(), { isClean: true, backOff: false });
      expect(events).to.deep.equal(['look up']);
    });

    it('still records a payment that is under way', async () => {
      const committed = Promise.withResolvers<void>();
      const { start, clock, primary, recorded } = stage({ primary: [PAID], record: () => committed.promise });
      const running = start();
      await clock.tickAsync(0);
      primary.shutDown();
      committed.resolve();
      await clock.tickAsync(0);
      expect(running.end).to.equal('completed');
      expect(recorded).to.have.lengthOf(1);
    });
  });

  describe('as the circuit sees it', () => {
    const effects: [outcome: AttemptOutcome, isOpened: boolean, reason: CircuitFailure | undefined][] = [
      [PAID, false, undefined],
      [ALREADY_PAID, false, undefined],
      [INVALID, false, undefined],
      [POOL_TIMEOUT, false, undefined],
      [UNREACHABLE, true, 'not_sent'],
      [REFUSED, true, 'other'],
      [UNKNOWN, true, 'other'],
    ];
    for (const [outcome, isOpened, reason] of effects) {
      const kind = outcome.kind === 'not_sent' ? outcome.reason : outcome.kind;
      it(`${isOpened ? 'opens' : 'does not open'} the circuit of the primary by three times ${kind}`, async () => {
        const { run, primary, fallback } = stage({ primary: [outcome, outcome, outcome] });
        open(fallback, 'other');
        for (let payment = 0; payment < 3; payment += 1) await run();
        expect(primary.isAccepting).to.equal(!isOpened);
        expect(primary.openBecause).to.equal(reason);
      });

      it(`${isOpened ? 'opens' : 'does not open'} the circuit of the fallback by three times ${kind}`, async () => {
        const { run, fallback } = stage({ fallback: [outcome, outcome, outcome] });
        for (let payment = 0; payment < 3; payment += 1) await run(MARKED);
        expect(fallback.isAccepting).to.equal(!isOpened);
        expect(fallback.openBecause).to.equal(reason);
      });
    }

    for (const outcome of [PAID, ALREADY_PAID, INVALID]) {
      it(`closes by a probe that ends with ${outcome.kind}`, async () => {
        const { run, primary, clock } = stage({ primary: [outcome] });
        open(primary, 'other');
        await clock.tickAsync(PROBE_INTERVAL_MS);
        await run();
        expect(await primary.enter(0)).to.equal('passed');
      });
    }

    it('leaves its next probe to others when the probe found no free connection and went to the fallback', async () => {
      const { run, primary, clock, recorded } = stage({ primary: [POOL_TIMEOUT], fallback: [PAID] });
      open(primary, 'other');
      await clock.tickAsync(PROBE_INTERVAL_MS);
      expect(await run()).to.equal('completed');
      expect(recorded[0]).to.include({ gateway: 'fallback' });
      expect(await primary.enter(0)).to.equal('gave_up');
      await clock.tickAsync(PROBE_INTERVAL_MS);
      expect(await primary.enter(0)).to.equal('probe');
    });
  });
});
