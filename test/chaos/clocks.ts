import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ServiceProcess } from '../../dev/local/service.ts';

/** The wall clocks of programs that run with `clock-shift.ts` and this `env`. */
export interface Clocks {
  readonly env: Readonly<Record<string, string>>;
  /** Steps the clock of a running program to `shiftMs` off the true time. Takes effect in the program's next turn. */
  step(service: ServiceProcess, shiftMs: number): void;
  close(): void;
}

export function createClocks(): Clocks {
  const directory = mkdtempSync(join(tmpdir(), 'payrelay-clocks-'));
  return {
    env: { CLOCK_SHIFT_DIR: directory },
    step(service, shiftMs) {
      writeFileSync(join(directory, String(service.pid)), String(shiftMs));
      service.signal('SIGUSR2');
    },
    close: () => rmSync(directory, { recursive: true, force: true }),
  };
}
