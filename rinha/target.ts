import type { readLedger } from '../dev/audit.ts';

/** What one part of a stack has used since its start. */
export interface Usage {
  readonly cpuMs: number;
  /** Undefined where the memory has no limit. */
  readonly peakMb: number | undefined;
  /** How often it ended and was started again. Running out of memory does that. */
  readonly restarts: number;
}

/** A running stack, with two simulated gateways, that the scenario can be played against. */
export interface Target {
  readonly backend: string;
  readonly primary: string;
  readonly fallback: string;
  readLedger(): ReturnType<typeof readLedger>;
  /** By the name of the part. @throws when a part is no longer running. */
  usage(): Map<string, Usage>;
  close(): Promise<void>;
}
