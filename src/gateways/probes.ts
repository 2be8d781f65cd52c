import type { GatewayEvidence } from './gateway.ts';

/**
 * When the next probe of an open circuit may be sent, and whether a new payment may be it. The choice of the probe decides how
 * long an outage lasts and what it costs:
 * - After a failed connection any payment is the probe, because it certainly was not sent.
 * - Otherwise the probes are *new* payments, which have not failed before: one that has failed may be disliked for good.
 *   This ends after {@link NEW_PROBES} new payments in a row that were not taken.
 * - From then on a new payment is the probe only every {@link NEW_PROBE_EVERY_MS}. In between, payments that failed here
 *   before take turns. A probe without a response may be paid and is tied to this gateway from then on. So a circuit whose
 *   payments could go elsewhere (`sparesNew`) begins at this step while nothing responds.
 *
 * Of all workers one at a time sends a probe. The right to do so is a key in Redis with a time to live (queue/fleet-watch.ts).
 * It lives as long as a probe may take, and then until the next probe is due. With it go the two numbers that limit the price of
 * an outage: new payments that were not taken in a row, and the time of the last new one. A worker that is alone asks nobody.
 *
 * The right goes round without a list: {@link stagger | who has probed longest ago asks first}. When Redis gives no reply, each
 * worker probes by itself, every {@link UNASKED_EVERY_MS}, so that no gateway stays closed for ever.
 */
export interface Probes {
  /** In ms of `performance.now()`. */
  readonly nextAtMs: number;
  /** Counts the probes, so that the outcome of an older one does not move the time of the next. */
  readonly number: number;
  /** The last probe has no outcome yet. */
  readonly isUnderWay: boolean;
  /** When a new payment may be a probe again, in ms of `performance.now()`, once it may not at any time. */
  readonly newDueAtMs: number;
  /** Whether a new payment may be the probe now. */
  mayBeNew(nowMs: number, evidence: GatewayEvidence | undefined): boolean;
  /** Asks the other workers. Undefined: a probe may be sent now. Otherwise look again when it resolves. */
  ask(nowMs: number): Promise<void> | undefined;
  /** A payment is sent as the probe. */
  sent(visitor: { readonly isNew: boolean }, nowMs: number): void;
  /** The probe of this number has an outcome, or will have none. */
  ended(probe: number): void;
  /** Nothing could be sent with the right: another worker may have it. */
  giveBack(): void;
  /** A new payment was not taken as the probe. */
  notTaken(): void;
  /** No probe before `ms` have passed, in any worker. */
  pause(ms: number): void;
  /** The same in this worker alone. */
  pauseHere(ms: number): void;
  /** The circuit has opened: by what this worker saw, or by what it heard. */
  opened(by: 'own_failures' | 'others'): void;
  /** The circuit has closed because this worker paid. */
  paid(): void;
  /**
   * Other workers pay: the next probe needs no right, and need not wait longer than until `atMs`. But it waits for the outcome
   * of the one under way, as long as that may take: each that hangs is one more payment that may be unresolved.
   */
  hurry(atMs: number): void;
}

/** What the workers share about the probes at one gateway. */
export interface ProbeRight {
  /** Whether other workers live. */
  readonly hasOthers: boolean;
  /** Asks for the right. Undefined: there is no other worker. Never rejects, and takes less than half a second. */
  ask(limitMs: number): Promise<ProbeAnswer> | undefined;
  /** Tells what became of it. Never rejects: what does not arrive costs at most the right's time to live. */
  tell(change: { readonly pauseMs?: number; readonly sentNew?: boolean; readonly notTaken?: boolean }): void;
  /** The gateway pays: nobody needs the right any more. */
  end(): void;
}

export type ProbeAnswer =
  | ({ readonly kind: 'granted' } & NewProbes)
  | ({ readonly kind: 'held'; readonly forMs: number } & NewProbes)
  | { readonly kind: 'unknown' };

/** Of all workers. */
interface NewProbes {
  readonly newNotTaken: number;
  /** Infinity: none was sent. */
  readonly newSentAgoMs: number;
}

/** New payments that may fail as probes in a row. After so many, the payments themselves are hardly the cause. */
export const NEW_PROBES = 20;

export const NEW_PROBE_EVERY_MS = 5_000;

/** Without Redis each worker probes by itself this often: work must resume within a second of a recovery. */
export const UNASKED_EVERY_MS = 800;

export interface ProbeOptions {
  /** From a failed probe to the next one, in ms: the longest delay that the circuit adds to a recovery. */
  readonly probeIntervalMs: number;
  /** The same while the last probe has no outcome: payments on which the gateway hangs must not stop the others. */
  readonly probeLimitMs: number;
  /** Its payments could go elsewhere, so a new one is a probe only when necessary while nothing responds. */
  readonly sparesNew: boolean;
  /** Undefined: this worker has no others beside it. */
  readonly right?: ProbeRight;
}

export function createProbes({ probeIntervalMs, probeLimitMs, sparesNew, right }: ProbeOptions): Probes {
  let nextAtMs = 0;
  let number = 0;
  let lastEnded = 0;
  let newNotTaken = 0;
  let lastNewAtMs = Number.NEGATIVE_INFINITY;
  /** -Infinity: none was sent. */
  let lastSentAtMs = Number.NEGATIVE_INFINITY;
  /** Until then this worker may send a probe without asking. */
  let grantedUntilMs = 0;
  let hasRight = false;

  /** The later, the more recently this worker has probed. */
  function stagger(nowMs: number): number {
    if (!right?.hasOthers) return 0;
    return probeIntervalMs / 2 / (1 + Math.max(0, nowMs - lastSentAtMs) / probeIntervalMs);
  }

  function pauseHere(ms: number): void {
    const nowMs = performance.now();
    nextAtMs = nowMs + ms + stagger(nowMs);
  }

  function follow(answer: ProbeAnswer): void {
    const nowMs = performance.now();
    if (answer.kind === 'unknown') {
      nextAtMs = Math.max(nowMs, lastSentAtMs + UNASKED_EVERY_MS);
      if (nextAtMs <= nowMs) grantedUntilMs = nowMs + probeLimitMs;
      return;
    }
    newNotTaken = answer.newNotTaken;
    lastNewAtMs = Math.max(lastNewAtMs, nowMs - answer.newSentAgoMs);
    if (answer.kind === 'granted') {
      hasRight = true;
      grantedUntilMs = nowMs + probeLimitMs;
      nextAtMs = nowMs;
    } else {
      // A probe under way may end long before its right does.
      nextAtMs = nowMs + Math.min(answer.forMs, probeIntervalMs) + stagger(nowMs);
    }
  }

  return {
    get nextAtMs() {
      return nextAtMs;
    },
    get number() {
      return number;
    },
    get isUnderWay() {
      return lastEnded < number;
    },
    get newDueAtMs() {
      return lastNewAtMs + NEW_PROBE_EVERY_MS;
    },
    mayBeNew(nowMs, evidence) {
      if (evidence === 'not_sent') return true;
      const hasLeft = newNotTaken < NEW_PROBES && !(sparesNew && evidence === 'no_response');
      return hasLeft || nowMs - lastNewAtMs >= NEW_PROBE_EVERY_MS;
    },
    ask(nowMs) {
      if (nowMs < grantedUntilMs) return undefined;
      const answer = right?.ask(probeLimitMs);
      // Nobody else asks meanwhile.
      if (answer !== undefined) nextAtMs = Number.POSITIVE_INFINITY;
      return answer?.then(follow);
    },
    sent({ isNew }, nowMs) {
      number += 1;
      lastSentAtMs = nowMs;
      // Its right ends then, and another worker has waited longer.
      nextAtMs = nowMs + probeLimitMs + stagger(nowMs);
      if (isNew) lastNewAtMs = nowMs;
      if (isNew && hasRight) right?.tell({ sentNew: true });
      grantedUntilMs = 0;
      hasRight = false;
    },
    ended(probe) {
      lastEnded = Math.max(lastEnded, probe);
    },
    giveBack() {
      if (hasRight) right?.tell({ pauseMs: 0 });
      grantedUntilMs = 0;
      hasRight = false;
    },
    notTaken() {
      newNotTaken += 1;
      right?.tell({ notTaken: true });
    },
    pause(ms) {
      right?.tell({ pauseMs: ms });
      pauseHere(ms);
    },
    pauseHere,
    opened(by) {
      newNotTaken = 0;
      // The payments that failed just now were new. Where a new probe has a price, the next one need not follow at once.
      lastNewAtMs = by === 'own_failures' ? performance.now() : Number.NEGATIVE_INFINITY;
      if (by === 'own_failures') right?.tell({ sentNew: true });
    },
    paid() {
      lastEnded = number;
      right?.end();
    },
    hurry(atMs) {
      if (lastEnded === number) nextAtMs = Math.min(nextAtMs, atMs);
    },
  };
}
