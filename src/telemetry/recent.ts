import { type Heartbeat, RATE_SECONDS } from './heartbeat.ts';
import type { Measures } from './measures.ts';

interface Snapshot {
  readonly atMs: number;
  readonly accepted: number;
  readonly notAccepted: number;
  readonly paid: Heartbeat['rates']['paid'];
  readonly hops: Heartbeat['hops'];
}

/**
 * What was counted in the last RATE_SECONDS: the difference between the counts now and those of an earlier call. The caller
 * calls it once a second, so ten snapshots are kept. Calls that come late make the time longer, and the rates stay right.
 */
export function createRecent(measures: Measures): () => Pick<Heartbeat, 'accepted' | 'rates' | 'hops'> {
  const snapshots = [snapshotOf(measures)];

  return () => {
    const now = snapshotOf(measures);
    while (snapshots.length > 1 && now.atMs - snapshots[1]!.atMs >= RATE_SECONDS * 1_000) snapshots.shift();
    snapshots.push(now);
    const from = snapshots[0]!;
    // Two calls in the same moment: no time for a rate.
    const seconds = Math.max(now.atMs - from.atMs, 1) / 1_000;
    const rate = (later: number, earlier: number) => Math.round(((later - earlier) / seconds) * 100) / 100;
    const since = (hop: keyof Heartbeat['hops']) => now.hops[hop].map((count, index) => count - from.hops[hop][index]!);
    return {
      accepted: now.accepted,
      rates: {
        accepted: rate(now.accepted, from.accepted),
        notAccepted: rate(now.notAccepted, from.notAccepted),
        paid: {
          primary: rate(now.paid.primary, from.paid.primary),
          fallback: rate(now.paid.fallback, from.paid.fallback),
        },
      },
      hops: { accept: since('accept'), wait: since('wait'), send: since('send'), record: since('record') },
    };
  };
}

function snapshotOf({ accepted, notAccepted, paid, hops }: Measures): Snapshot {
  return {
    atMs: performance.now(),
    accepted,
    notAccepted: Object.values(notAccepted).reduce((sum, count) => sum + count, 0),
    paid: { ...paid },
    hops: {
      accept: [...hops.accept.counts],
      wait: [...hops.wait.counts],
      send: [...hops.send.counts],
      record: [...hops.record.counts],
    },
  };
}
