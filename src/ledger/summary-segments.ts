import type { SummaryRange } from './summary-range.ts';

/** The widths of the stored totals, in seconds (migrations/20260102000000_create_payment_totals.ts). */
const WIDTHS = [1, 60, 3_600] as const;

/** A part of a range. A summary reads it from the totals of one width, or from the payments themselves. */
export interface Segment {
  /** 0 means the payments. */
  readonly widthSeconds: 0 | (typeof WIDTHS)[number];
  /** Included, in Unix ms. -Infinity means from the beginning. */
  readonly fromMs: number;
  /** Excluded, in Unix ms. Infinity means to the end. */
  readonly toMs: number;
}

/**
 * Cuts a range into the fewest segments: whole hours in the middle, then whole minutes and whole seconds on both sides, and
 * payments for the rest. The segments cover the range exactly and do not overlap.
 */
export function segmentsOf({ from, to }: SummaryRange): Segment[] {
  const outerFrom = from?.getTime() ?? Number.NEGATIVE_INFINITY;
  // The range includes its end, and the ledger stores milliseconds.
  const outerTo = (to?.getTime() ?? Number.POSITIVE_INFINITY) + 1;
  const segments: Segment[] = [];
  let [fromMs, toMs] = [outerFrom, outerTo];
  let widthSeconds: Segment['widthSeconds'] = 0;
  for (const wider of WIDTHS) {
    const widthMs = wider * 1_000;
    const innerFrom = Math.ceil(fromMs / widthMs) * widthMs;
    const innerTo = Math.floor(toMs / widthMs) * widthMs;
    if (innerFrom >= innerTo) break;
    segments.push({ widthSeconds, fromMs, toMs: innerFrom }, { widthSeconds, fromMs: innerTo, toMs });
    [fromMs, toMs, widthSeconds] = [innerFrom, innerTo, wider];
  }
  segments.push({ widthSeconds, fromMs, toMs });
  return segments.filter((segment) => segment.fromMs < segment.toMs);
}
