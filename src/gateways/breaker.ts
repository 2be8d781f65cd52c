import type { GatewayName } from '../payment.ts';
import { events } from '../telemetry/events.ts';
import { type AloneSince, createAloneWatch } from './alone.ts';
import { BELIEVES_ITSELF_MS, type Heard, LATER_BY_MS, type ToldOfGateway, tell } from './fleet.ts';
import type { FailedAttempt, GatewayDown } from './gateway.ts';
import { createProbes, NEW_PROBE_EVERY_MS, type ProbeOptions } from './probes.ts';
import { createWaitingRoom, type Entry, type TiedPlaces, type Visitor, type Waiter } from './waiting-room.ts';

/**
 * What a circuit has learned of its gateway, from its own attempts and from other workers, and which payments wait for it.
 *
 *   closed ── `failureThreshold` failures in a row, of different payments ──▶ open ── any success ──▶ closed
 *     └────── another worker's circuit has opened, and this one has not paid lately ──▶ open ── another one pays ──▶ closed
 *
 * Closed: every payment passes. Open: payments wait in the worker, which costs Redis almost nothing, and one at a time is
 * sent as a probe.
 *
 * Which payments may wait: waiting-room.ts. When a probe may be sent: probes.ts. What is believed of other workers: fleet.ts.
 */
export interface Breaker {
  /** How a visit goes on. Undefined: look again. */
  enter(visitor: Visitor): Entry | Promise<Entry | undefined>;
  /** The number of the last probe. */
  readonly probe: number;
  succeeded(): void;
  failed(visitor: Visitor, attempt: AttemptAt, outcome: FailedAttempt): void;
  /** An attempt has shown nothing, or was not made. */
  learnedNothing(ownProbe: number | undefined): void;
  /** What this worker's own attempts have shown. */
  told(): ToldOfGateway;
  /** Takes in what the other workers have told. */
  hear(heard: Heard): void;
  readonly isOpen: boolean;
  /** Whether a new payment would be sent at once. */
  readonly isAccepting: boolean;
  readonly cause: GatewayDown | undefined;
  /** Since when its probes fail while others pay. Then it probes every {@link NEW_PROBE_EVERY_MS}, and no payment waits here. */
  readonly alone: AloneSince | undefined;
  /** Payments that wait. */
  readonly waiting: number;
  /** Ends every wait, so that each payment's own rule decides again. */
  release(): void;
  /** Rejects current and future visitors, because the process is shutting down. */
  close(): void;
}

/** When an attempt began, in ms of `performance.now()`, and the number of the probe that it was, if it was one. */
type AttemptAt = { readonly startedAtMs: number; readonly ownProbe: number | undefined };

export interface BreakerOptions extends ProbeOptions {
  readonly gateway: GatewayName;
  /** Failures in a row that open it. With 1, a single reset would stop every payment until a probe. */
  readonly failureThreshold: number;
  readonly tiedPlaces: TiedPlaces;
  /** Called when this worker's own attempts open it: the others should know soon. */
  readonly onOpened?: () => void;
  /** Called when it opens and at each further failure while it is open. */
  readonly onFailing?: (cause: GatewayDown) => void;
  readonly onClosed?: () => void;
  /** Called when this worker begins or ceases to fail alone. */
  readonly onAlone?: (alone: AloneSince | undefined) => void;
}

/** A `Retry-After` means only its own payment when the gateway paid another one this recently. */
const RECENTLY_PAID_MS = 2_000;

export function createBreaker(options: BreakerOptions): Breaker {
  const { gateway, failureThreshold, probeIntervalMs, onOpened, onFailing, onClosed } = options;
  const room = createWaitingRoom(options.tiedPlaces);
  const probes = createProbes(options);
  const aloneWatch = createAloneWatch(options.onAlone);
  let isOpen = false;
  let isClosing = false;
  let failures = 0;
  /** It closed because others pay and nothing waited, not by a payment of its own: the next failure opens it again. */
  let isOnTrust = false;
  let lastFailedId: string | undefined;
  /** While open: when its own attempts opened it. Undefined: it has only heard of the failure. */
  let openedAtMs: number | undefined;
  /** When the last attempt that failed began. */
  let lastFailedAtMs = Number.NEGATIVE_INFINITY;
  let lastFailureAtMs = Number.NEGATIVE_INFINITY;
  let lastPaidAtMs = Number.NEGATIVE_INFINITY;
  let paidElsewhereAtMs = Number.NEGATIVE_INFINITY;
  let cause: GatewayDown | undefined;
  let timer: NodeJS.Timeout | undefined;

  /** While open: other workers have paid since the last failure here. So a payment may be tried without the right to probe. */
  const paysElsewhere = () => paidElsewhereAtMs > lastFailedAtMs + LATER_BY_MS;

  function mayProbeWithNew(nowMs: number): boolean {
    return paysElsewhere() || aloneWatch.alone !== undefined || probes.mayBeNew(nowMs, cause?.evidence);
  }

  /** The payment that would be the next probe. */
  function nextProbe(nowMs: number): Waiter | undefined {
    return (mayProbeWithNew(nowMs) ? room.oldestNew : undefined) ?? room.oldestRetry(nowMs);
  }

  /** Undefined: a probe may be sent now. Otherwise look again when it resolves. */
  function askToProbe(nowMs: number): Promise<undefined> | undefined {
    if (paysElsewhere() || aloneWatch.alone) return undefined;
    return probes.ask(nowMs)?.then(() => void probeIn(probes.nextAtMs - performance.now()));
  }

  /** Sends the next probe if it is due and a payment waits, and sets the timer for the one after. */
  function probeWhenDue(): void {
    clearTimeout(timer);
    if (!isOpen) return;
    const nowMs = performance.now();
    if (nowMs >= probes.nextAtMs) {
      const next = nextProbe(nowMs);
      if (next === undefined) {
        probes.giveBack();
        const newDueAtMs = room.oldestNew ? probes.newDueAtMs : Number.POSITIVE_INFINITY;
        probeIn(Math.min(newDueAtMs, room.nextRetryAtMs) - nowMs);
        return;
      }
      if (askToProbe(nowMs)) return;
      probes.sent(next, nowMs);
      next.proceed('probe');
    }
    probeIn(probes.nextAtMs - nowMs);
  }

  function probeIn(ms: number): void {
    clearTimeout(timer);
    if (ms < Number.POSITIVE_INFINITY) timer = setTimeout(probeWhenDue, Math.max(1, Math.ceil(ms))).unref();
  }

  function enter(visitor: Visitor): Entry | Promise<Entry | undefined> {
    if (isClosing) return 'closed';
    // A payment that had its own pause may have waited at the gate.
    if (!isOpen) return visitor.notBeforeMs > performance.now() ? 'no_place' : 'passed';
    const nowMs = performance.now();
    const mayProbe = visitor.isNew ? mayProbeWithNew(nowMs) : visitor.notBeforeMs <= nowMs;
    if (nowMs >= probes.nextAtMs && mayProbe && !(visitor.hasHadItsTurn && room.hasRetries)) {
      const asking = askToProbe(nowMs);
      if (asking) return asking;
      probes.sent(visitor, nowMs);
      probeIn(probes.nextAtMs - nowMs);
      return 'probe';
    }
    if (visitor.maxWaitMs <= 0) {
      probeWhenDue();
      return 'gave_up';
    }
    if (aloneWatch.alone || (visitor.isTied && !room.makePlaceFor(visitor))) return 'no_place';
    const waiting = room.wait(visitor);
    probeWhenDue();
    return waiting;
  }

  function succeeded(): void {
    failures = 0;
    isOnTrust = false;
    lastFailedId = undefined;
    lastPaidAtMs = performance.now();
    aloneWatch.paid();
    if (!isOpen) return;
    probes.paid();
    closeUp();
  }

  function closeUp(): void {
    isOpen = false;
    openedAtMs = undefined;
    failures = 0;
    cause = undefined;
    clearTimeout(timer);
    if (events.circuitChanged.hasSubscribers) events.circuitChanged.publish({ gateway, state: 'closed' });
    onClosed?.();
    const nowMs = performance.now();
    room.releaseAll(({ notBeforeMs }) => (notBeforeMs <= nowMs ? 'passed' : 'no_place'));
  }

  function open(by: 'own_failures' | 'others', because: GatewayDown): void {
    isOpen = true;
    isOnTrust = false;
    probes.opened(by);
    cause = because;
    if (events.circuitChanged.hasSubscribers) {
      events.circuitChanged.publish({ gateway, state: 'open', cause: { code: because.code, detail: because.detail } });
    }
  }

  function failed(visitor: Visitor, { startedAtMs, ownProbe }: AttemptAt, outcome: FailedAttempt): void {
    const { kind, cause: own, evidence, retryAfterMs } = outcome;
    if (evidence === 'none') {
      learnedNothing(ownProbe);
      return;
    }
    if (ownProbe !== undefined) probes.ended(ownProbe);
    const isRepeat = visitor.correlationId === lastFailedId;
    if (!isRepeat) failures += 1;
    lastFailedId = visitor.correlationId;
    const nowMs = performance.now();
    const paidAtMs = Math.max(lastPaidAtMs, paidElsewhereAtMs);
    const asksForPause = retryAfterMs !== undefined && !isRepeat && nowMs - paidAtMs > RECENTLY_PAID_MS;
    const previous = cause;
    const because = { ...own, evidence, since: previous?.code === own.code ? previous.since : new Date() };
    if (!isOpen && failures < (isOnTrust ? 1 : failureThreshold) && !asksForPause) return;
    if ((ownProbe !== undefined || isOnTrust) && paysElsewhere()) aloneWatch.failed(visitor.correlationId, because);
    if (!isOpen) open('own_failures', because);
    else if (ownProbe !== undefined && visitor.isNew && kind !== 'refused') {
      // A refused probe costs nothing: its payment may still go to any gateway.
      probes.notTaken();
    }
    openedAtMs ??= nowMs;
    // What was paid elsewhere while this attempt got no response is news.
    lastFailedAtMs = Math.max(lastFailedAtMs, startedAtMs);
    lastFailureAtMs = nowMs;
    cause = because;
    if (previous === undefined || ownProbe === probes.number) nextProbeAfter(probeIntervalMs);
    if (asksForPause) nextProbeAfter(Math.max(retryAfterMs, probes.nextAtMs - nowMs));
    onFailing?.(cause);
    if (previous === undefined) onOpened?.();
    if (aloneWatch.alone) room.releaseAll(() => 'no_place');
    else if (previous !== undefined && previous.evidence !== evidence) room.releaseAll(() => 'cause_changed');
  }

  function learnedNothing(ownProbe: number | undefined): void {
    if (ownProbe === undefined) return;
    probes.ended(ownProbe);
    if (isOpen && ownProbe === probes.number) nextProbeAfter(probeIntervalMs);
  }

  function nextProbeAfter(ms: number): void {
    // Each payment that a worker sends at a closed door of its own is one that the others could have paid.
    if (aloneWatch.alone) probes.pauseHere(Math.max(ms, NEW_PROBE_EVERY_MS));
    else probes.pause(ms);
    probeIn(probes.nextAtMs - performance.now());
  }

  function hear(heard: Heard): void {
    paidElsewhereAtMs = heard.paidAtMs;
    if (!heard.hasWitness) aloneWatch.lacksWitness();
    if (isClosing || aloneWatch.alone) return;
    const nowMs = performance.now();
    if (!isOpen) {
      if (heard.down !== undefined && nowMs - lastPaidAtMs > BELIEVES_ITSELF_MS) believe(heard.down, nowMs);
      return;
    }
    if (openedAtMs === undefined) {
      // What was only heard ends when somebody pays, or when nobody says it any more and no payment waits to show it.
      if (paysElsewhere() || (heard.down === undefined && room.size === 0)) closeUp();
    } else if (paysElsewhere()) {
      // What was seen ends with a payment of its own.
      isOnTrust = room.size === 0 && !probes.isUnderWay && nowMs - lastFailureAtMs > BELIEVES_ITSELF_MS;
      if (isOnTrust) closeUp();
      else probes.hurry(lastFailureAtMs + probeIntervalMs);
      probeWhenDue();
    }
  }

  function believe(down: GatewayDown, nowMs: number): void {
    lastFailedAtMs = nowMs;
    open('others', down);
    probes.pauseHere(probeIntervalMs);
    onFailing?.(down);
  }

  return {
    enter,
    succeeded,
    failed,
    learnedNothing,
    told: () => tell({ cause, openedAtMs, lastPaidAtMs, alone: aloneWatch.alone }),
    hear,
    get probe() {
      return probes.number;
    },
    get isOpen() {
      return isOpen;
    },
    get isAccepting() {
      const nowMs = performance.now();
      return !isOpen || (nowMs >= probes.nextAtMs && mayProbeWithNew(nowMs));
    },
    get cause() {
      return cause;
    },
    get alone() {
      return aloneWatch.alone;
    },
    get waiting() {
      return room.size;
    },
    release() {
      room.releaseAll(() => 'cause_changed');
    },
    close() {
      isClosing = true;
      clearTimeout(timer);
      room.releaseAll(() => 'closed');
    },
  };
}
