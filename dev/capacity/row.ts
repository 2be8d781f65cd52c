import type { Limit, Part, Usage } from './usage.ts';

/** A measurement. */
export interface Row {
  readonly seconds: number;
  readonly payments: number;
  readonly perSecond: number;
  /** CPU of each part for one payment, in µs. Undefined where the operating system has no accounting. */
  readonly cpuMicros: Readonly<Partial<Record<Part, number>>> | undefined;
  /** Cores of this machine that were busy, and those of them that nothing measured has used. */
  readonly busyCores: number;
  readonly otherCores: number | undefined;
  readonly limit: Limit | undefined;
}

/** @throws an Error when nothing was paid or accepted: such a row has no costs */
export function rowOf(payments: number, { seconds, micros, busyCores, otherCores, limit }: Usage): Row {
  if (payments <= 0) throw new Error(`there was not one payment in ${seconds.toFixed(1)} s`);
  return {
    seconds,
    payments,
    perSecond: payments / seconds,
    cpuMicros: micros && Object.fromEntries(Object.entries(micros).map(([part, used]) => [part, used / payments])),
    busyCores,
    otherCores,
    limit,
  };
}
