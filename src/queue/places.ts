/**
 * The places of a process whose payments are in several shards: at most so many payments are in flight, whichever shards they
 * came from. Each shard has a BullMQ worker of its own, which would use all of them.
 *
 * A worker takes a place before it fetches a payment, never while it waits for one: an idle shard has no place. At the end of a
 * run the next payment of the same shard may have its place, because BullMQ fetches that in the same command. But when a shard
 * with fewer places waits, that shard gets it. So shards with a backlog soon have equally many places, and from then on nothing
 * changes hands. A payment in an idle shard gets the next place that becomes free.
 *
 * A place *rests* while its payment waits for Redis. When one server of a cluster does not respond, its shards would keep their
 * places for as long as it is down. So a place that has rested for {@link LATE_MS} is free for a shard that waits, and its payment
 * waits for another one.
 *
 * A place is known by the token of its fetch, which BullMQ gives to all payments that one place fetches one after the other.
 */
export interface Places {
  /** The places as one more shard takes them. */
  ofShard(): ShardPlaces;
}

export interface ShardPlaces {
  /** Whether a fetch waits for a place. Then the worker rightly asks for nothing. */
  readonly isWaiting: boolean;
  /**
   * Before a fetch. The place rests. @returns true when one is free. Otherwise it resolves with true when it has one, and with
   * false when {@link endWaits} came first: then nothing may be fetched
   */
  take(token: string): true | Promise<boolean>;
  /** The run needs Redis no longer. Resolves when it has a place, which is at once unless the place was taken away. */
  use(token: string): Promise<void>;
  /** The run waits for Redis. */
  rest(token: string): void;
  /** Whether the place of a run that has ended may fetch a payment of this shard. Otherwise it is given back. */
  mayFetchNext(token: string): boolean;
  /** Does nothing when it was taken away. */
  giveBack(token: string): void;
  /** Ends the waits of this shard's fetches: its worker closes. */
  endWaits(): void;
}

/** Far longer than a server in order takes for a reply, and short for a payment that waits. */
const LATE_MS = 500;

/** Of one shard: since when each of its places rests, in ms of `performance.now()`; Infinity for one that is in use. */
type Taken = Map<string, number>;

interface Waiter {
  readonly shard: Taken;
  readonly token: string;
  readonly isFetch: boolean;
  readonly resolve: (hasPlace: boolean) => void;
}

/** @param limit how many there are */
export function createPlaces(limit: number): Places {
  const shards: Taken[] = [];
  let free = limit;
  /** In the order in which they came. While one waits, no place is free. */
  let waiting: Waiter[] = [];
  let isTimed = false;

  function grant(shard: Taken, token: string): void {
    free -= 1;
    shard.set(token, performance.now());
  }

  function giveBack(shard: Taken, token: string): void {
    if (!shard.delete(token)) return;
    free += 1;
    if (waiting.length === 0) return;
    const next = waiting.reduce((first, other) => (other.shard.size < first.shard.size ? other : first));
    waiting = waiting.filter((waiter) => waiter !== next);
    grant(next.shard, next.token);
    next.resolve(true);
  }

  function wait(shard: Taken, token: string, isFetch: boolean): Promise<boolean> {
    lookForLateOnes();
    return new Promise((resolve) => {
      waiting.push({ shard, token, isFetch, resolve });
    });
  }

  /** Later, and again and again while a shard waits. */
  function lookForLateOnes(): void {
    if (isTimed) return;
    isTimed = true;
    setTimeout(() => {
      isTimed = false;
      takeLateOnesAway();
      if (waiting.length > 0) lookForLateOnes();
    }, LATE_MS).unref();
  }

  function takeLateOnesAway(): void {
    const lateSinceMs = performance.now() - LATE_MS;
    const late = shards.flatMap((shard) =>
      [...shard].filter(([, restsSinceMs]) => restsSinceMs < lateSinceMs).map(([token]) => ({ shard, token })),
    );
    for (const { shard, token } of late) if (waiting.length > 0) giveBack(shard, token);
  }

  return {
    ofShard() {
      const shard: Taken = new Map();
      shards.push(shard);
      const isOwnFetch = (waiter: Waiter) => waiter.shard === shard && waiter.isFetch;
      return {
        get isWaiting() {
          return waiting.some(isOwnFetch);
        },
        take(token) {
          if (!shard.has(token)) {
            if (free === 0) return wait(shard, token, true);
            grant(shard, token);
          }
          return true;
        },
        async use(token) {
          if (!shard.has(token)) {
            if (free > 0) grant(shard, token);
            else await wait(shard, token, false);
          }
          shard.set(token, Number.POSITIVE_INFINITY);
        },
        rest(token) {
          if (shard.has(token)) shard.set(token, performance.now());
        },
        mayFetchNext(token) {
          if (!shard.has(token)) return false;
          // A payment of its own that has lost its place goes before one that is not fetched yet.
          const isWanted = waiting.some((waiter) =>
            waiter.shard === shard ? !waiter.isFetch : waiter.shard.size < shard.size,
          );
          if (isWanted) giveBack(shard, token);
          return !isWanted;
        },
        giveBack: (token) => giveBack(shard, token),
        endWaits() {
          const own = waiting.filter(isOwnFetch);
          if (own.length === 0) return;
          waiting = waiting.filter((waiter) => !own.includes(waiter));
          for (const { resolve } of own) resolve(false);
        },
      };
    },
  };
}
