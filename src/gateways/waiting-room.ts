/**
 * The payments that wait at one open circuit, in the order in which they came: new ones, and *retries*, which failed before.
 *
 * A payment that only this gateway may get is *tied*. At most `tiedPlaces.limit` tied payments of a worker wait at open
 * circuits, so that they cannot fill the worker. Further ones go back to the queue. A tied payment that was sent in this run
 * gives its place to one that was not, and stays only while no other payment can be the probe.
 */
export interface WaitingRoom {
  readonly size: number;
  /** The new payment that has waited longest. */
  readonly oldestNew: Waiter | undefined;
  /** Of the retries whose own pause is over, the one that has waited longest. */
  oldestRetry(nowMs: number): Waiter | undefined;
  readonly hasRetries: boolean;
  /** When the first pause of a retry is over. Infinity: no retry waits. */
  readonly nextRetryAtMs: number;
  /** Whether this tied payment may wait. Sends one that was already sent back to the queue, to make a place. */
  makePlaceFor(tied: Visitor): boolean;
  /** Resolves when the circuit calls `proceed`, or with `gave_up` after the visitor's `maxWaitMs`. */
  wait(visitor: Visitor): Promise<Entry>;
  /** Ends every wait, the retries' first. */
  releaseAll(entryOf: (waiter: Waiter) => Entry): void;
}

/** A payment that comes to a circuit. */
export interface Visitor {
  readonly correlationId: string;
  /** It is not tied, and has not failed in this run. */
  readonly isNew: boolean;
  /** Only this gateway may get it. */
  readonly isTied: boolean;
  /** It was already sent in this run. A tied one then goes back to the queue when another payment can be the probe. */
  readonly hasHadItsTurn: boolean;
  /** When its run came to this gateway, in ms of `performance.now()`. */
  readonly arrivedAtMs: number;
  /** Infinity: it waits as long as it takes. */
  readonly maxWaitMs: number;
  /** The payment's own pause ends then, in ms of `performance.now()`: the gateway asked this one payment to wait. */
  readonly notBeforeMs: number;
}

export interface Waiter extends Visitor {
  /** Ends its wait. */
  proceed(entry: Entry): void;
}

/** How a visit goes on: the payment is sent, as a probe or not, or it is not tried. */
export type Entry = 'passed' | 'probe' | NotTriedReason;

export type NotTriedReason =
  /** Its wait was over first. */
  | 'gave_up'
  /**
   * The circuit has opened during the wait for a place, or is still open, now for a cause of another kind, or an operator has
   * steered the gateway. Its rule may now send the payment elsewhere.
   */
  | 'cause_changed'
  /**
   * It cannot wait in the worker: no place is free, another payment can be the probe, its own pause is not over, or an
   * operator has stopped the only gateway that may get it.
   */
  | 'no_place'
  /** The process is shutting down. */
  | 'closed';

/** The places of a worker that waiting tied payments may take. The circuits of both gateways share them. */
export interface TiedPlaces {
  readonly limit: number;
  taken: number;
}

export function createWaitingRoom(tiedPlaces: TiedPlaces): WaitingRoom {
  /** A Set keeps the order in which waiters came, and deletes one at constant cost. */
  const newOnes = new Set<Waiter>();
  const retries = new Set<Waiter>();

  return {
    get size() {
      return newOnes.size + retries.size;
    },
    get oldestNew() {
      const [oldest] = newOnes;
      return oldest;
    },
    oldestRetry(nowMs) {
      return [...retries].find(({ notBeforeMs }) => notBeforeMs <= nowMs);
    },
    get hasRetries() {
      return retries.size > 0;
    },
    get nextRetryAtMs() {
      return Math.min(...[...retries].map(({ notBeforeMs }) => notBeforeMs));
    },
    makePlaceFor({ hasHadItsTurn }) {
      if (tiedPlaces.limit === 0) return false;
      if (hasHadItsTurn && retries.size > 0) return false;
      const hadItsTurn = [...retries].find((other) => other.isTied && other.hasHadItsTurn);
      hadItsTurn?.proceed('no_place');
      return tiedPlaces.taken < tiedPlaces.limit;
    },
    wait(visitor) {
      return new Promise((resolve) => {
        const queue = visitor.isNew ? newOnes : retries;
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
        const givingUp = Number.isFinite(maxWaitMs)
          ? setTimeout(() => waiter.proceed('gave_up'), maxWaitMs)
          : undefined;
        if (visitor.isTied) tiedPlaces.taken += 1;
        queue.add(waiter);
      });
    },
    releaseAll(entryOf) {
      for (const waiter of [...retries, ...newOnes]) waiter.proceed(entryOf(waiter));
    },
  };
}
