/**
 * Upper bounds of durations of HTTP requests, in ms. A payment is accepted in 1 to 5 ms, and the budgets are ratios of such
 * times, so the first steps are small. A gateway may take up to its time-out, 1 s by default, and a client of ours 8 s.
 */
export const REQUEST_BOUNDS_MS = [0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000];

/** Of a hop. In an outage payments wait in the queue for minutes, and 10 minutes is where an alert expects a person. */
export const HOP_BOUNDS_MS = [...REQUEST_BOUNDS_MS, 30_000, 60_000, 300_000, 600_000, 1_800_000];

/** Of a batch's size. The largest batches have 200 payments (enqueue) and 500 (record). */
export const BATCH_BOUNDS = [1, 2, 5, 10, 20, 50, 100, 200, 500];

/** Counts values in fixed buckets. To observe a value allocates nothing and costs some 10 ns. */
export class Histogram {
  readonly bounds: readonly number[];
  /** How many values were at most each bound and above the one before it. The last: above all bounds. */
  readonly counts: Float64Array;
  sum = 0;

  constructor(bounds: readonly number[]) {
    this.bounds = bounds;
    this.counts = new Float64Array(bounds.length + 1);
  }

  observe(value: number): void {
    const { bounds, counts } = this;
    let bucket = 0;
    while (bucket < bounds.length && value > bounds[bucket]!) bucket += 1;
    counts[bucket]! += 1;
    this.sum += value;
  }
}

/** A value that has no series of its own. */
export const OTHER = '_OTHER';

/** Upper bound on the histograms of a family: a gateway that responds with any status must not fill memory and scrapes. */
const MAX_SERIES = 200;

/** One histogram for each combination of three labels that occurs. The first label has few values; the others may come from the network. */
export class HistogramFamily {
  readonly #bounds: readonly number[];
  readonly #byKey = new Map<string, Map<string, Map<number, Histogram>>>();
  #size = 0;

  constructor(bounds: readonly number[]) {
    this.#bounds = bounds;
  }

  /** Beyond {@link MAX_SERIES} a new combination counts as ({@link OTHER}, 0) of its first label. */
  at(first: string, second: string, third: number): Histogram {
    return this.#byKey.get(first)?.get(second)?.get(third) ?? this.#add(first, second, third);
  }

  #add(first: string, second: string, third: number): Histogram {
    if (this.#size >= MAX_SERIES && second !== OTHER) return this.at(first, OTHER, 0);
    const histogram = new Histogram(this.#bounds);
    this.#size += 1;
    const byFirst = this.#byKey.get(first) ?? new Map<string, Map<number, Histogram>>();
    const bySecond = byFirst.get(second) ?? new Map<number, Histogram>();
    this.#byKey.set(first, byFirst.set(second, bySecond.set(third, histogram)));
    return histogram;
  }

  *[Symbol.iterator](): Generator<readonly [string, string, number, Histogram]> {
    for (const [first, byFirst] of this.#byKey) {
      for (const [second, bySecond] of byFirst) {
        for (const [third, histogram] of bySecond) yield [first, second, third, histogram];
      }
    }
  }
}

/**
 * The value that a share `q` of all values is at most, in the unit of the bounds. It lies on a straight line inside its
 * bucket, as in Prometheus. Above all bounds it is the last bound; undefined without a value.
 * @param counts one more than there are bounds, as in {@link Histogram}
 */
export function quantile(q: number, counts: readonly number[], bounds: readonly number[]): number | undefined {
  const total = counts.reduce((sum, count) => sum + count, 0);
  if (total === 0) return undefined;
  let below = 0;
  for (const [bucket, bound] of bounds.entries()) {
    const count = counts[bucket] ?? 0;
    if (count > 0 && below + count >= q * total) {
      const from = bounds[bucket - 1] ?? 0;
      return from + (bound - from) * ((q * total - below) / count);
    }
    below += count;
  }
  return bounds.at(-1);
}
