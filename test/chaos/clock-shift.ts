import { readFileSync } from 'node:fs';
import { join } from 'node:path';

/**
 * Loaded before a program (`node --import`): shifts its wall clock by CLOCK_SHIFT_MS, as on a machine with a wrong clock.
 * performance.now and timers stay right. With CLOCK_SHIFT_DIR the clock can step while the program runs: on SIGUSR2 the
 * program reads the new shift from the file in that directory that is named after its pid.
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
