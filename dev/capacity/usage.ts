import { availableParallelism, cpus } from 'node:os';
import { hasCpuAccounting, treeCpuMicros } from '../local/cpu.ts';

/** What uses CPU. The first four are parts of a deployment; gateway and load stand for what is outside. */
export const PARTS = ['api', 'worker', 'redis', 'postgres', 'gateway', 'load'] as const;
export type Part = (typeof PARTS)[number];

/** The processes of each part that runs. */
export type Pids = Readonly<Partial<Record<Part, readonly number[]>>>;

/**
 * What kept a measurement from being faster: all cores of the machine were busy, or one process of a part had a core of its own
 * for itself, or neither: then everything waited, for the disk or because too few payments were in flight.
 */
export type Limit = 'cores' | Part | 'waiting';

/** From this share on, a core counts as busy: the rest is lost when the scheduler moves processes. */
const BUSY = 0.9;

/** What a span of time has cost. */
export interface Usage {
  readonly seconds: number;
  /** CPU of each part that ran, in µs. Undefined where the operating system has no accounting. */
  readonly micros: Readonly<Partial<Record<Part, number>>> | undefined;
  /** Cores that the whole machine had busy, on average. */
  readonly busyCores: number;
  /** The same without the measured parts: what else ran on this machine, this command included. */
  readonly otherCores: number | undefined;
  readonly limit: Limit | undefined;
}

/** Starts to measure. @returns a function that ends it */
export function startUsage(pids: Pids): () => Usage {
  const before = read(pids);
  return () => {
    const after = read(pids);
    const seconds = (after.atMs - before.atMs) / 1_000;
    const busyCores = (after.busyMs - before.busyMs) / 1_000 / seconds;
    if (!hasCpuAccounting) {
      return { seconds, micros: undefined, busyCores, otherCores: undefined, limit: undefined };
    }
    const micros: Partial<Record<Part, number>> = {};
    const busiest: Partial<Record<Part, number>> = {};
    for (const part of PARTS) {
      const used = after.micros[part]?.map((value, index) => value - before.micros[part]![index]!);
      if (!used) continue;
      micros[part] = used.reduce((total, each) => total + each, 0);
      // PostgreSQL is many processes, so its sum says nothing of a single core.
      if (part !== 'postgres') busiest[part] = Math.max(...used) / 1e6 / seconds;
    }
    const own = Object.values(micros).reduce((total, each) => total + each, 0) / 1e6 / seconds;
    const limit = limitOf({ cores: availableParallelism(), busyCores, busiest });
    return { seconds, micros, busyCores, otherCores: Math.max(0, busyCores - own), limit };
  };
}

/** @param busiest the share of a core that the busiest process of each part used */
export function limitOf({
  cores,
  busyCores,
  busiest,
}: {
  cores: number;
  busyCores: number;
  busiest: Readonly<Partial<Record<Part, number>>>;
}): Limit {
  if (busyCores >= BUSY * cores) return 'cores';
  const [part, share] = (Object.entries(busiest) as [Part, number][]).toSorted(([, a], [, b]) => b - a)[0] ?? [
    'api',
    0,
  ];
  return share >= BUSY ? part : 'waiting';
}

function read(pids: Pids) {
  const micros: Partial<Record<Part, number[]>> = {};
  if (hasCpuAccounting) {
    for (const [part, each] of Object.entries(pids) as [Part, readonly number[]][])
      micros[part] = each.map(treeCpuMicros);
  }
  const busyMs = cpus().reduce((total, { times }) => total + times.user + times.nice + times.sys + times.irq, 0);
  return { atMs: performance.now(), micros, busyMs };
}
