import type { SummaryRange } from './summary-range.ts';

/** The widths of the kept totals, in seconds (migrations/20260102000000_create_payment_totals.ts). */
const WIDTHS = [1, 60, 3_600] as const;

/** A part of a range, to be read from the totals of one width, or from the payments themselves. */
export interface Segment {
  /** 0: the payments. */
  readonly widthSeconds: 0 | (typeof WIDTHS)[number];
  /** Included, in Unix ms; -Infinity: from the beginning. */
  readonly fromMs: number;
  /** Excluded, in Unix ms; Infinity: to the end. */
  readonly toMs: number;
}

/**
 * Cuts a range into the fewest segments: whole hours in the middle, whole minutes on both sides of them, then whole
 * seconds, and payments for what is left. They touch, do not overlap, and make up the range exactly.
 */
export function segmentsOf({ from, to }: SummaryRange): Segment[] {
  const outerFrom = from?.getTime() ?? Number.NEGATIVE_INFINITY;
  // The range has both its ends, and the ledger keeps milliseconds.
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
