import type { AttemptCause, AttemptOutcome, FailedAttempt, GatewayEvidence } from './gateway.ts';

/**
 * Keeps a failing gateway from being hammered and the queue from being churned, without letting payments that the gateway
 * dislikes stop the others.
 *
 *   closed ── `failureThreshold` failures in a row, of different payments ──▶ open ── any success ──▶ closed
 *
 * closed: every payment passes. open: payments wait here, in the worker's hands, which costs Redis next to nothing, and one
 * after the other is sent as a probe. Which one decides how long an outage lasts, and what it costs:
 * - After a failed connection any payment will do: it certainly was not sent.
 * - Otherwise a *new* payment, one that has not failed before, tells most: one that has may be disliked for good. So the
 *   probes are new payments, until {@link NEW_PROBES} in a row were not taken.
 * - From then on a new payment is the probe only every {@link NEW_PROBE_EVERY_MS}; the others are payments that failed here
 *   before, in turn. A probe without a response may be paid all the same and is tied to the gateway from then on, so a
 *   circuit whose payments could go elsewhere (`sparesNew`) starts with this when nothing responds.
 *
 * A payment that only this gateway may get is *tied*. At most `tiedPlaces` of a worker's places hold tied payments that wait
 * at an open circuit; further ones go back to the queue. One stays in hand for probing, whatever its own pause, until
 * another one comes.
 */
export interface Circuit {
  /**
   * Waits until the payment may be sent, but no longer than `maxWaitMs` (Infinity: as long as it takes), makes the attempt,
   * and learns from its outcome.
   */
  run(visitor: Visitor, attempt: () => Promise<AttemptOutcome>): Promise<CircuitResult>;
  /** Whether a new payment would be let through at once. */
  readonly isAccepting: boolean;
  /** Why it is open; undefined while it is closed. */
  readonly cause: CircuitCause | undefined;
  /** Payments waiting here. */
  readonly waiting: number;
  /** Rejects current and future visitors, because the process is shutting down. */
  close(): void;
}

export interface Visitor {
  readonly correlationId: string;
  /** It is free, and has not failed in this run. */
  readonly isNew: boolean;
  /** Only this gateway may get it. */
  readonly isTied: boolean;
  /** It was sent in this run already. A tied one goes back to the queue when another one can be the probe. */
  readonly hasHadItsTurn: boolean;
  readonly maxWaitMs: number;
  /** Not sent before, as `performance.now()` counts: the gateway asked this one payment to wait. */
  readonly notBeforeMs: number;
}

export type CircuitResult =
  | AttemptOutcome
  | {
      readonly kind: 'not_tried';
      readonly why: /** The wait was over first. */
        | 'gave_up'
        /** It is still open, now for a cause of another kind: the payment may want to go elsewhere. */
        | 'cause_changed'
        /** It cannot stay in hand: no place is left for one more tied payment, another can be the probe, or it is to wait. */
        | 'no_place'
        /** The process is shutting down. */
        | 'closed';
    };

export interface CircuitCause extends AttemptCause {
  readonly evidence: Exclude<GatewayEvidence, 'none'>;
  readonly since: Date;
}

/** The places of a worker that tied payments may hold while they wait. Shared by the circuits of both gateways. */
export interface TiedPlaces {
  readonly limit: number;
  taken: number;
}

export interface CircuitOptions {
  /** Failures in a row that open it. 1 would let a single reset hold up everything for a probe's time. */
  readonly failureThreshold: number;
  /** From a probe's failure to the next probe, in ms: the longest delay this adds to a recovery. */
  readonly probeIntervalMs: number;
  /**
   * After so long without an outcome a probe no longer keeps the next one back, in ms. At a gateway that hangs each takes its
   * whole time-out, and payments on which it hangs must not stop the others.
   */
  readonly probeLimitMs: number;
  readonly tiedPlaces: TiedPlaces;
  /** Its payments could go elsewhere, so a new one is not sent into a silence without need. */
  readonly sparesNew: boolean;
  /** Called when it opens, at each further failure while it is open, and when it closes. */
  readonly onFailing?: (cause: CircuitCause) => void;
  readonly onClosed?: () => void;
}

/** New payments probed in a row before the circuit believes that it is not the payments. */
export const NEW_PROBES = 20;

export const NEW_PROBE_EVERY_MS = 5_000;

/** A `Retry-After` means only its own payment while the gateway was paying others so recently. */
const RECENTLY_PAID_MS = 2_000;

interface Waiter extends Visitor {
  proceed(entry: Entry): void;
}

type Entry = 'passed' | 'probe' | Extract<CircuitResult, { kind: 'not_tried' }>['why'];

export function createCircuit({
  failureThreshold,
  probeIntervalMs,
  probeLimitMs,
  tiedPlaces,
  sparesNew,
  onFailing,
  onClosed,
}: CircuitOptions): Circuit {
  let isOpen = false;
  let isClosing = false;
  let failures = 0;
  let lastFailedId: string | undefined;
  let lastPaidAtMs = Number.NEGATIVE_INFINITY;
  let cause: CircuitCause | undefined;
  /** While open: when the next probe may be sent. */
  let nextProbeAtMs = 0;
  /** Raised by every probe sent, so that the outcome of an older one does not move the time of the next. */
  let probe = 0;
  let newNotTaken = 0;
  let lastNewProbeAtMs = Number.NEGATIVE_INFINITY;
  let timer: NodeJS.Timeout | undefined;
  /** Sets keep the order of coming and forget who has given up, both at constant cost. */
  const newOnes = new Set<Waiter>();
  const failedBefore = new Set<Waiter>();

  /** May a new payment be the probe now? */
  function mayProbeWithNew(nowMs: number): boolean {
    if (cause?.evidence === 'not_sent') return true;
    const hasLeft = newNotTaken < NEW_PROBES && !(sparesNew && cause?.evidence === 'no_response');
    return hasLeft || nowMs - lastNewProbeAtMs >= NEW_PROBE_EVERY_MS;
  }

  /** Sends the next probe when it is due and somebody is there, and sets the timer for the one after. */
  function probeWhenDue(): void {
    clearTimeout(timer);
    if (!isOpen) return;
    const nowMs = performance.now();
    let dueInMs = nextProbeAtMs - nowMs;
    if (dueInMs <= 0) {
      const next = nextProbe(nowMs);
      if (next) {
        next.proceed('probe');
        dueInMs = nextProbeAtMs - nowMs;
      } else {
        const newDueAtMs = newOnes.size > 0 ? lastNewProbeAtMs + NEW_PROBE_EVERY_MS : Number.POSITIVE_INFINITY;
        dueInMs = Math.min(newDueAtMs, ...[...failedBefore].map(({ notBeforeMs }) => notBeforeMs)) - nowMs;
        if (dueInMs === Number.POSITIVE_INFINITY) return;
      }
    }
    probeIn(dueInMs);
  }

  function probeIn(ms: number): void {
    clearTimeout(timer);
    timer = setTimeout(probeWhenDue, Math.max(1, Math.ceil(ms))).unref();
  }

  function nextProbe(nowMs: number): Waiter | undefined {
    const [oldestNew] = newOnes;
    if (oldestNew && mayProbeWithNew(nowMs)) return noteProbe(oldestNew, nowMs);
    const oldestFailed = [...failedBefore].find(({ notBeforeMs }) => notBeforeMs <= nowMs);
    return oldestFailed && noteProbe(oldestFailed, nowMs);
  }

  function noteProbe<V extends Visitor>(visitor: V, nowMs: number): V {
    if (visitor.isNew) lastNewProbeAtMs = nowMs;
    probe += 1;
    nextProbeAtMs = nowMs + probeLimitMs;
    return visitor;
  }

  function enter(visitor: Visitor): Entry | Promise<Entry> {
    if (isClosing) return 'closed';
    if (!isOpen) return 'passed';
    const nowMs = performance.now();
    const mayProbe = visitor.isNew ? mayProbeWithNew(nowMs) : visitor.notBeforeMs <= nowMs;
    if (nowMs >= nextProbeAtMs && mayProbe && !(visitor.hasHadItsTurn && failedBefore.size > 0)) {
      noteProbe(visitor, nowMs);
      probeIn(probeLimitMs);
      return 'probe';
    }
    if (visitor.maxWaitMs <= 0) return 'gave_up';
    if (visitor.isTied && !makePlaceFor(visitor)) return 'no_place';
    return wait(visitor);
  }

  /** Whether the tied payment may stay. One that has had its turn makes room for one that has not. */
  function makePlaceFor({ hasHadItsTurn }: Visitor): boolean {
    if (tiedPlaces.limit === 0) return false;
    if (hasHadItsTurn && failedBefore.size > 0) return false;
    const hadItsTurn = [...failedBefore].find((other) => other.isTied && other.hasHadItsTurn);
    hadItsTurn?.proceed('no_place');
    return tiedPlaces.taken < tiedPlaces.limit;
  }

  function wait(visitor: Visitor): Promise<Entry> {
    return new Promise((resolve) => {
      const queue = visitor.isNew ? newOnes : failedBefore;
      const { maxWaitMs } = visitor;
      const waiter: Waiter = {
        ...visitor,
        proceed(entry) {
          queue.delete(waiter);
          clearTimeout(givingUp);
          if (visitor.isTied) tiedPlaces.taken -= 1;
          resolve(entry);
        },
      };
      const givingUp = Number.isFinite(maxWaitMs) ? setTimeout(() => waiter.proceed('gave_up'), maxWaitMs) : undefined;
      if (visitor.isTied) tiedPlaces.taken += 1;
      queue.add(waiter);
      probeWhenDue();
    });
  }

  function releaseAll(entry: Entry): void {
    for (const waiter of [...failedBefore, ...newOnes]) waiter.proceed(entry);
  }

  function succeeded(): void {
    failures = 0;
    lastFailedId = undefined;
    lastPaidAtMs = performance.now();
    if (!isOpen) return;
    isOpen = false;
    cause = undefined;
    clearTimeout(timer);
    onClosed?.();
    const nowMs = lastPaidAtMs;
    for (const waiter of [...failedBefore, ...newOnes]) {
      waiter.proceed(waiter.notBeforeMs <= nowMs ? 'passed' : 'no_place');
    }
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
      // What has just failed was new as well: another one need not follow at once, where it would cost something.
      lastNewProbeAtMs = nowMs;
    } else if (ownProbe !== undefined && visitor.isNew && kind !== 'refused') {
      // One that was refused costs nothing: it is free to go where it can be paid.
      newNotTaken += 1;
    }
    cause = { ...own, evidence, since: previous?.code === own.code ? previous.since : new Date() };
    if (previous === undefined || ownProbe === probe) nextProbeAfter(probeIntervalMs);
    if (asksForPause) nextProbeAfter(Math.max(retryAfterMs, nextProbeAtMs - nowMs));
    onFailing?.(cause);
    if (previous !== undefined && previous.evidence !== evidence) releaseAll('cause_changed');
  }

  function nextProbeAfter(ms: number): void {
    nextProbeAtMs = performance.now() + ms;
    probeIn(ms);
  }

  return {
    async run(visitor, attempt) {
      const entry = await enter(visitor);
      if (entry !== 'passed' && entry !== 'probe') return { kind: 'not_tried', why: entry };
      const ownProbe = entry === 'probe' ? probe : undefined;
      const outcome = await attempt();
      if (outcome.kind === 'paid' || outcome.kind === 'already_paid') succeeded();
      else failed(visitor, ownProbe, outcome);
      return outcome;
    },
    get isAccepting() {
      const nowMs = performance.now();
      return !isOpen || (nowMs >= nextProbeAtMs && mayProbeWithNew(nowMs));
    },
    get cause() {
      return cause;
    },
    get waiting() {
      return newOnes.size + failedBefore.size;
    },
    close() {
      isClosing = true;
      clearTimeout(timer);
      releaseAll('closed');
    },
  };
}
