import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Loaded before a program (`node --import`): its wall clock is off by CLOCK_SHIFT_MS. What measures durations
 * (performance.now, timers) is not, as on a machine whose clock was set wrong. With CLOCK_SHIFT_DIR the clock can step while
 * the program runs: on SIGUSR2 it reads the new shift from the file in there that is named after its pid.
 */
const directory = process.env['CLOCK_SHIFT_DIR'];
let shiftMs = Number(process.env['CLOCK_SHIFT_MS'] ?? 0);

if (directory !== undefined) {
  process.on('SIGUSR2', () => {
    shiftMs = Number(readFileSync(join(directory, String(process.pid)), 'utf8'));
  });
}

if (shiftMs !== 0 || directory !== undefined) {
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
