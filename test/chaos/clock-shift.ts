/**
 * Loaded before a program (`node --import`): its wall clock is off by CLOCK_SHIFT_MS. What measures durations
 * (performance.now, timers) is not, as on a machine whose clock was set wrong.
 */
const shiftMs = Number(process.env['CLOCK_SHIFT_MS'] ?? 0);

if (shiftMs !== 0) {
  const RealDate = Date;
  globalThis.Date = class extends RealDate {
    constructor(...args: unknown[]) {
      if (args.length === 0) super(RealDate.now() + shiftMs);
      else super(...(args as [number]));
    }
    static override now(): number {
      return RealDate.now() + shiftMs;
    }
  } as DateConstructor;
}
