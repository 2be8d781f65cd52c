import { events } from '../telemetry/events.ts';
import { type Breaker, type BreakerOptions, createBreaker } from './breaker.ts';
import { createGate, type OperatorCause, type SteeredBy, type SteeringState } from './gate.ts';
import type { AttemptCause, AttemptOutcome, GatewayDown, LookUpOutcome } from './gateway.ts';
import { createInFlightLimit, type InFlightLimit } from './in-flight-limit.ts';
import type { Entry, NotTriedReason, Visitor } from './waiting-room.ts';

/**
 * Limits the requests to a failing gateway and the jobs that go back to the queue. Payments that the gateway dislikes do not
 * stop the others. A payment passes three things on its way:
 * - The operators' {@link createGate | gate}. Payments that it stops are no probes. What was under way when it closed ends as
 *   usual, and counts. When it opens again, the circuit is as the gateway's responses have left it.
 * - The {@link createBreaker | breaker}, which is open while the gateway fails.
 * - A {@link createInFlightLimit | place}: this worker's share of the requests that the gateway may have under way.
 */
export interface Circuit extends Pick<Breaker, 'told' | 'hear' | 'alone'> {
  /** Waits until the payment may be sent, at most its `maxWaitMs`, makes the attempt, and learns from its outcome. */
  run(visitor: Visitor, attempt: () => Promise<AttemptOutcome>): Promise<CircuitResult>;
  /** Asks the gateway for a payment, unless an operator has stopped that: then nothing is sent. Never rejects if `find` does not. */
  lookUp(payment: Pick<Visitor, 'isTied'>, find: () => Promise<LookUpOutcome>): Promise<LookUpOutcome>;
  /** Follows an operator's decision from now on. */
  steer(state: SteeringState, by?: SteeredBy): void;
  /** What it follows. */
  readonly steered: SteeringState;
  /** Whether a new payment would be sent at once. */
  readonly isAccepting: boolean;
  /** Why new payments are not sent: an operator's decision, or else why the circuit is open. Undefined: they are sent. */
  readonly cause: CircuitCause | undefined;
  /** The same for tied payments, which are sent while the gateway drains. */
  readonly causeForTied: CircuitCause | undefined;
  /** Payments waiting at this gateway. */
  readonly waiting: number;
  /** Attempts and look-ups under way, from the decision to send until their outcome. */
  readonly underWay: number;
  /** Whether this worker's share of the requests has room for another one. */
  readonly hasFreePlace: boolean;
  /** Rejects current and future visitors, because the process is shutting down. */
  close(): void;
}

export type CircuitResult = AttemptOutcome | { readonly kind: 'not_tried'; readonly why: NotTriedReason };

/** Why payments are not sent. The evidence `operator` proves nothing about any attempt. */
export type CircuitCause = GatewayDown | OperatorCause;

export interface CircuitOptions extends BreakerOptions {
  /** Undefined, or resolves when what operators have decided is known again. Until then nothing is sent. */
  readonly unread?: () => Promise<void> | undefined;
  /** Default: no limit. */
  readonly inFlightLimit?: InFlightLimit;
}

const SHUTTING_DOWN: AttemptCause = { code: 'shutting_down', detail: 'the worker is shutting down' };

export function createCircuit({
  unread = () => undefined,
  inFlightLimit = createInFlightLimit(),
  ...options
}: CircuitOptions): Circuit {
  const { gateway, tiedPlaces } = options;
  const gate = createGate(tiedPlaces);
  const breaker = createBreaker(options);
  let isClosing = false;

  function enter(visitor: Visitor): Entry | Promise<Entry | undefined> {
    if (isClosing) return 'closed';
    return gate.causeFor(visitor) === undefined ? breaker.enter(visitor) : gate.wait(visitor);
  }

  /**
   * Waits until the payment may be sent, and takes a place for it. Whatever it has waited for, it looks at everything again.
   * Resolves with the number of the probe that it is, with `passed`, or with why it may not be sent.
   */
  async function admit(visitor: Visitor): Promise<number | 'passed' | NotTriedReason> {
    const beganAtMs = performance.now();
    const leftMs = () => Math.max(0, visitor.maxWaitMs - (performance.now() - beganAtMs));
    for (;;) {
      const entry = await enter({ ...visitor, maxWaitMs: leftMs() });
      if (entry === undefined) continue;
      if (entry !== 'passed' && entry !== 'probe') return entry;
      const ownProbe = entry === 'probe' ? breaker.probe : undefined;
      const reading = unread();
      if (reading) {
        breaker.learnedNothing(ownProbe);
        await reading;
        continue;
      }
      const taking = inFlightLimit.take(entry === 'probe' ? Number.POSITIVE_INFINITY : leftMs());
      if (taking === true) return ownProbe ?? 'passed';
      const hasPlace = await taking;
      if (!hasPlace) return isClosing ? 'closed' : 'gave_up';
      const mayGo = !isClosing && gate.causeFor(visitor) === undefined && !unread();
      // A probe waits for a request from before the circuit opened to end, and is still the probe.
      if (mayGo && (entry === 'probe' || !breaker.isOpen)) return ownProbe ?? 'passed';
      breaker.learnedNothing(ownProbe);
      inFlightLimit.release();
      // Its patience was for a primary that takes payments, only none at once.
      if (breaker.isOpen) return 'cause_changed';
    }
  }

  /** Makes a request for which a place was taken. */
  async function inPlace<T>(request: () => Promise<T>): Promise<T> {
    try {
      return await request();
    } finally {
      inFlightLimit.release();
    }
  }

  return {
    async run(visitor, attempt) {
      const entry = await admit(visitor);
      if (typeof entry === 'string' && entry !== 'passed') return { kind: 'not_tried', why: entry };
      const ownProbe = entry === 'passed' ? undefined : entry;
      return inPlace(async () => {
        const startedAtMs = performance.now();
        let outcome: AttemptOutcome;
        try {
          outcome = await attempt();
        } catch (error) {
          // Its run has lost the job, for example: other payments can be the probe.
          breaker.learnedNothing(ownProbe);
          throw error;
        }
        if (events.attemptEnded.hasSubscribers) {
          events.attemptEnded.publish({
            correlationId: visitor.correlationId,
            gateway,
            outcome: outcome.kind,
            cause: 'cause' in outcome ? outcome.cause.code : undefined,
            durationMs: performance.now() - startedAtMs,
          });
        }
        // Before its place is free: the next payment must know of it.
        if (outcome.kind === 'paid' || outcome.kind === 'already_paid') breaker.succeeded();
        else breaker.failed(visitor, { startedAtMs, ownProbe }, outcome);
        return outcome;
      });
    },
    async lookUp(payment, find) {
      await unread();
      // Never without the gate's word: an operator may have stopped the gateway while this waited for a place.
      const isPlaced = await inFlightLimit.take(Number.POSITIVE_INFINITY);
      if (!isPlaced) return { kind: 'no_response', cause: SHUTTING_DOWN };
      return inPlace(async () => {
        const stopped = gate.causeFor(payment);
        return stopped === undefined ? find() : { kind: 'no_response', cause: stopped };
      });
    },
    steer(state, by) {
      gate.steer(state, by);
      breaker.release();
    },
    told: breaker.told,
    hear: breaker.hear,
    get alone() {
      return breaker.alone;
    },
    get steered() {
      return gate.state;
    },
    get isAccepting() {
      return gate.state === 'open' && inFlightLimit.hasFree && breaker.isAccepting;
    },
    get cause() {
      return gate.cause ?? breaker.cause;
    },
    get causeForTied() {
      return gate.causeFor({ isTied: true }) ?? breaker.cause;
    },
    get waiting() {
      return breaker.waiting + gate.waiting;
    },
    get underWay() {
      return inFlightLimit.taken;
    },
    get hasFreePlace() {
      return inFlightLimit.hasFree;
    },
    close() {
      isClosing = true;
      gate.close();
      inFlightLimit.close();
      breaker.close();
    },
  };
}
