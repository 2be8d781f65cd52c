import type { GatewayName } from '../payment.ts';
import { events } from '../telemetry/events.ts';
import { createGate, type SteeredBy, type SteeringState } from './gate.ts';
import type { AttemptCause, AttemptOutcome, FailedAttempt, GatewayEvidence, LookUpOutcome } from './gateway.ts';
import { createWaitingRoom, type Entry, type NotTriedReason, type TiedPlaces, type Visitor } from './waiting-room.ts';

/**
 * Limits the requests to a failing gateway and the jobs that go back to the queue. Payments that the gateway dislikes do not
 * stop the others.
 *
 *   closed ── `failureThreshold` failures in a row, of different payments ──▶ open ── any success ──▶ closed
 *
 * Closed: every payment passes. Open: payments wait in the worker, which costs Redis almost nothing, and one at a time is
 * sent as a probe. The choice of the probe decides how long an outage lasts and what it costs:
 * - After a failed connection any payment is the probe, because it certainly was not sent.
 * - Otherwise the probes are *new* payments, which have not failed before: one that has failed may be disliked for good.
 *   This ends after {@link NEW_PROBES} new payments in a row that were not taken.
 * - From then on a new payment is the probe only every {@link NEW_PROBE_EVERY_MS}. In between, payments that failed here
 *   before take turns. A probe without a response may be paid and is tied to this gateway from then on. So a circuit whose
 *   payments could go elsewhere (`sparesNew`) begins at this step while nothing responds.
 *
 * Which payments may wait: {@link createWaitingRoom}.
 *
 * Before it stands the operators' {@link createGate | gate}. Payments that it stops are no probes. What was under way when it
 * closed ends as usual, and counts. When it opens again, the circuit is as the gateway's responses have left it.
 */
export interface Circuit {
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
  /** Rejects current and future visitors, because the process is shutting down. */
  close(): void;
}

export type CircuitResult = AttemptOutcome | { readonly kind: 'not_tried'; readonly why: NotTriedReason };

export interface CircuitCause extends AttemptCause {
  /** `operator`: the gateway is steered, which proves nothing about any attempt. */
  readonly evidence: Exclude<GatewayEvidence, 'none'> | 'operator';
  readonly since: Date;
}

export interface CircuitOptions {
  /** The gateway that it guards. */
  readonly gateway: GatewayName;
  /** Failures in a row that open it. With 1, a single reset would stop every payment until a probe. */
  readonly failureThreshold: number;
  /** From a failed probe to the next one, in ms: the longest delay that the circuit adds to a recovery. */
  readonly probeIntervalMs: number;
  /**
   * The next probe is sent at the latest so long after the last one, in ms, whether that has an outcome or not. At a gateway
   * that hangs each probe takes its whole time-out, and payments on which it hangs must not stop the others.
   */
  readonly probeLimitMs: number;
  readonly tiedPlaces: TiedPlaces;
  /** Its payments could go elsewhere, so a new one is a probe only when necessary while nothing responds. */
  readonly sparesNew: boolean;
  /** Undefined, or resolves when what operators have decided is known again. Until then nothing is sent. */
  readonly unread?: () => Promise<void> | undefined;
  /** Called when it opens and at each further failure while it is open. */
  readonly onFailing?: (cause: CircuitCause) => void;
  readonly onClosed?: () => void;
}

/** New payments that may fail as probes in a row. After so many, the payments themselves are hardly the cause. */
export const NEW_PROBES = 20;

export const NEW_PROBE_EVERY_MS = 5_000;

/** A `Retry-After` means only its own payment when the gateway paid another one this recently. */
const RECENTLY_PAID_MS = 2_000;

export function createCircuit({
  gateway,
  failureThreshold,
  probeIntervalMs,
  probeLimitMs,
  tiedPlaces,
  sparesNew,
  unread = () => undefined,
  onFailing,
  onClosed,
}: CircuitOptions): Circuit {
  const gate = createGate(tiedPlaces);
  const room = createWaitingRoom(tiedPlaces);
  let underWay = 0;
  let isOpen = false;
  let isClosing = false;
  let failures = 0;
  let lastFailedId: string | undefined;
  let lastPaidAtMs = Number.NEGATIVE_INFINITY;
  let cause: CircuitCause | undefined;
  /** While open: when the next probe may be sent. */
  let nextProbeAtMs = 0;
  /** Counts the probes, so that the outcome of an older one does not move the time of the next. */
  let probe = 0;
  let newNotTaken = 0;
  let lastNewProbeAtMs = Number.NEGATIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;

  /** May a new payment be the probe now? */
  function mayProbeWithNew(nowMs: number): boolean {
    if (cause?.evidence === 'not_sent') return true;
    const hasLeft = newNotTaken < NEW_PROBES && !(sparesNew && cause?.evidence === 'no_response');
    return hasLeft || nowMs - lastNewProbeAtMs >= NEW_PROBE_EVERY_MS;
  }

  /** Sends the next probe if it is due and a payment waits, and sets the timer for the one after. */
  function probeWhenDue(): void {
    clearTimeout(timer);
    if (!isOpen) return;
    const nowMs = performance.now();
    let dueInMs = nextProbeAtMs - nowMs;
    if (dueInMs <= 0) {
      const next = (mayProbeWithNew(nowMs) ? room.oldestNew : undefined) ?? room.oldestRetry(nowMs);
      if (next) {
        noteProbe(next, nowMs);
        next.proceed('probe');
        dueInMs = nextProbeAtMs - nowMs;
      } else {
        const newDueAtMs = room.oldestNew ? lastNewProbeAtMs + NEW_PROBE_EVERY_MS : Number.POSITIVE_INFINITY;
        dueInMs = Math.min(newDueAtMs, room.nextRetryAtMs) - nowMs;
        if (dueInMs === Number.POSITIVE_INFINITY) return;
      }
    }
    probeIn(dueInMs);
  }

  function probeIn(ms: number): void {
    clearTimeout(timer);
    timer = setTimeout(probeWhenDue, Math.max(1, Math.ceil(ms))).unref();
  }

  function noteProbe({ isNew }: Visitor, nowMs: number): void {
    if (isNew) lastNewProbeAtMs = nowMs;
    probe += 1;
    nextProbeAtMs = nowMs + probeLimitMs;
  }

  function enter(visitor: Visitor): Entry | Promise<Entry> {
    if (isClosing) return 'closed';
    if (gate.causeFor(visitor) !== undefined) return gate.wait(visitor);
    // A payment that had its own pause may have waited at the gate.
    if (!isOpen) return visitor.notBeforeMs > performance.now() ? 'no_place' : 'passed';
    const nowMs = performance.now();
    const mayProbe = visitor.isNew ? mayProbeWithNew(nowMs) : visitor.notBeforeMs <= nowMs;
    if (nowMs >= nextProbeAtMs && mayProbe && !(visitor.hasHadItsTurn && room.hasRetries)) {
      noteProbe(visitor, nowMs);
      probeIn(probeLimitMs);
      return 'probe';
    }
    if (visitor.maxWaitMs <= 0) return 'gave_up';
    if (visitor.isTied && !room.makePlaceFor(visitor)) return 'no_place';
    const waiting = room.wait(visitor);
    probeWhenDue();
    return waiting;
  }

  function succeeded(): void {
    failures = 0;
    lastFailedId = undefined;
    lastPaidAtMs = performance.now();
    if (!isOpen) return;
    isOpen = false;
    cause = undefined;
    clearTimeout(timer);
    if (events.circuitChanged.hasSubscribers) events.circuitChanged.publish({ gateway, state: 'closed' });
    onClosed?.();
    room.releaseAll(({ notBeforeMs }) => (notBeforeMs <= lastPaidAtMs ? 'passed' : 'no_place'));
  }

  function failed(
    visitor: Visitor,
    ownProbe: number | undefined,
    { kind, cause: own, evidence, retryAfterMs }: FailedAttempt,
  ): void {
    if (evidence === 'none') {
      if (isOpen && ownProbe === probe) nextProbeAfter(probeIntervalMs);
      return;
    }
    const isRepeat = visitor.correlationId === lastFailedId;
    if (!isRepeat) failures += 1;
    lastFailedId = visitor.correlationId;
    const nowMs = performance.now();
    const asksForPause = retryAfterMs !== undefined && !isRepeat && nowMs - lastPaidAtMs > RECENTLY_PAID_MS;
    const previous = cause;
    if (!isOpen) {
      if (failures < failureThreshold && !asksForPause) return;
      isOpen = true;
      newNotTaken = 0;
      // The payments that failed just now were new. Where a new probe has a price, the next one need not follow at once.
      lastNewProbeAtMs = nowMs;
    } else if (ownProbe !== undefined && visitor.isNew && kind !== 'refused') {
      // A refused probe costs nothing: its payment may still go to any gateway.
      newNotTaken += 1;
    }
    cause = { ...own, evidence, since: previous?.code === own.code ? previous.since : new Date() };
    if (previous === undefined && events.circuitChanged.hasSubscribers) {
      events.circuitChanged.publish({ gateway, state: 'open', cause: own });
    }
    if (previous === undefined || ownProbe === probe) nextProbeAfter(probeIntervalMs);
    if (asksForPause) nextProbeAfter(Math.max(retryAfterMs, nextProbeAtMs - nowMs));
    onFailing?.(cause);
    if (previous !== undefined && previous.evidence !== evidence) room.releaseAll(() => 'cause_changed');
  }

  function nextProbeAfter(ms: number): void {
    nextProbeAtMs = performance.now() + ms;
    probeIn(ms);
  }

  async function counted<T>(request: () => Promise<T>): Promise<T> {
    underWay += 1;
    try {
      return await request();
    } finally {
      underWay -= 1;
    }
  }

  return {
    async run(visitor, attempt) {
      let entry = await enter(visitor);
      for (let reading = unread(); reading && (entry === 'passed' || entry === 'probe'); reading = unread()) {
        await reading;
        entry = await enter(visitor);
      }
      if (entry !== 'passed' && entry !== 'probe') return { kind: 'not_tried', why: entry };
      const ownProbe = entry === 'probe' ? probe : undefined;
      const startedAtMs = performance.now();
      const outcome = await counted(attempt);
      if (events.attemptEnded.hasSubscribers) {
        events.attemptEnded.publish({
          correlationId: visitor.correlationId,
          gateway,
          outcome: outcome.kind,
          cause: 'cause' in outcome ? outcome.cause.code : undefined,
          durationMs: performance.now() - startedAtMs,
        });
      }
      if (outcome.kind === 'paid' || outcome.kind === 'already_paid') succeeded();
      else failed(visitor, ownProbe, outcome);
      return outcome;
    },
    async lookUp(payment, find) {
      await unread();
      const stopped = gate.causeFor(payment);
      return stopped === undefined ? counted(find) : { kind: 'no_response', cause: stopped };
    },
    steer(state, by) {
      gate.steer(state, by);
      room.releaseAll(() => 'cause_changed');
    },
    get steered() {
      return gate.state;
    },
    get isAccepting() {
      if (gate.state !== 'open') return false;
      const nowMs = performance.now();
      return !isOpen || (nowMs >= nextProbeAtMs && mayProbeWithNew(nowMs));
    },
    get cause() {
      return gate.cause ?? cause;
    },
    get causeForTied() {
      return gate.causeFor({ isTied: true }) ?? cause;
    },
    get waiting() {
      return room.size + gate.waiting;
    },
    get underWay() {
      return underWay;
    },
    close() {
      isClosing = true;
      clearTimeout(timer);
      gate.close();
      room.releaseAll(() => 'closed');
    },
  };
}
