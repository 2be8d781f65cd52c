/**
 * How many replicas must confirm a write: all that follow the primary, and one at least.
 *
 * One would be enough if the replica that confirmed were always the one that is promoted. But an operator's `SENTINEL FAILOVER`,
 * and a primary that hung for a second and goes on, lead to this:
 * 1. A replica is promoted, while the old primary still accepts writes.
 * 2. The other replica still follows the old primary, and confirms them.
 * 3. The sentinels make it a replica of the new primary. It drops what it has confirmed, and later the old primary does, too.
 *
 * So a replica that stops to confirm may have been promoted, and nothing counts as confirmed. When that lasts, the replica is down
 * and the others are enough: by then a failover would have reached them, and this primary would have no replica at all.
 */
export interface ReplicaQuorum {
  /** Whether it knows no server yet. */
  readonly isUnused: boolean;
  /** For how many replicas the next write waits. */
  readonly wanted: number;
  /**
   * A new connection is there.
   * @param replication the reply to `INFO replication`
   * @param promotable how many replicas the sentinels or the cluster know of. Counts for the first connection: one that does not
   *   follow may have been promoted a moment ago
   */
  connected(replication: string, promotable?: number): void;
  /**
   * After each write: a replica that has come back may be promoted a second later, so the next write must wait for it already.
   * @param replication the reply to `INFO replication` on the same connection
   */
  looked(replication: string): void;
  /**
   * @param wanted for how many replicas the write has waited
   * @param replication the reply to `INFO replication` after that
   * @returns whether so many are enough
   */
  isEnough(confirmed: number, wanted: number, replication?: string): boolean;
}

/**
 * So long nothing is confirmed after a replica has stopped to confirm. A sentinel sees after 1 s at most that its replica was
 * promoted, and then tells the others whom to follow.
 */
export const MISSING_MS = 5_000;

export function createReplicaQuorum(nowMs: () => number = () => performance.now()): ReplicaQuorum {
  /** Its history of writes. The next one has another id, also on the same machine. */
  let server: string | undefined;
  let needed = 1;
  let wanted = 1;
  /** The addresses of those that were connected when a write was confirmed last. */
  let known: ReadonlySet<string> = new Set();
  let missingSinceMs: number | undefined;

  return {
    get isUnused() {
      return server === undefined;
    },
    get wanted() {
      return wanted;
    },
    connected(replication, promotable = 0) {
      const id = historyOf(replication);
      // A connection made anew to the same server must not forget that a replica is missing.
      if (id === server) return;
      server = id;
      needed = Math.max(1, countFollowing(replication), promotable);
      wanted = needed;
      known = connectedIn(replication);
      missingSinceMs = undefined;
    },
    looked(replication) {
      // A primary that was restarted gets another id when its first replica comes, and the connection stays.
      server = historyOf(replication);
      // The next write shows whether they confirm.
      wanted = Math.max(needed, countFollowing(replication));
    },
    isEnough(confirmed, asked, replication) {
      const now = replication === undefined ? known : connectedIn(replication);
      // One that comes does not make up for one that goes: that one may have been promoted.
      const isOneGone = [...known].some((replica) => !now.has(replica));
      // One that has waited for fewer was under way when another replica was found.
      if (!isOneGone && confirmed >= Math.min(needed, asked)) {
        needed = Math.max(needed, Math.min(confirmed, asked));
        wanted = needed;
        known = now;
        missingSinceMs = undefined;
        return true;
      }
      missingSinceMs ??= nowMs();
      if (confirmed < 1 || nowMs() - missingSinceMs < MISSING_MS) return false;
      needed = confirmed;
      wanted = confirmed;
      known = now;
      missingSinceMs = undefined;
      return true;
    },
  };
}

function historyOf(replication: string): string | undefined {
  return /master_replid:(\w+)/.exec(replication)?.[1];
}

function connectedIn(replication: string): ReadonlySet<string> {
  return new Set([...replication.matchAll(/^slave\d+:(ip=[^,]+,port=\d+)/gm)].map(([, address]) => address!));
}

/** Replicas that have told the primary within the last second how far they are. */
function countFollowing(replication: string): number {
  return [...replication.matchAll(/^slave\d+:.*state=online.*lag=[01]\r?$/gm)].length;
}
