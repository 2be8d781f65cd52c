import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { type PostingOptions, startPosting } from '../../dev/posting.ts';

/**
 * CPU time that these processes have used so far, in µs, from the scheduler's accounting: exact where a round is short. Those that
 * have ended are left out.
 */
export function scheduledMicros(pids: readonly number[]): number {
  let nanos = 0;
  for (const pid of pids) {
    if (!existsSync(`/proc/${pid}`)) continue;
    for (const thread of readdirSync(`/proc/${pid}/task`)) {
      nanos += Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ')[0]);
    }
  }
  return nanos / 1_000;
}

/** A process and its children: PostgreSQL has one for each connection. */
export function familyOf(pid: number): number[] {
  const children = readdirSync(`/proc/${pid}/task`).flatMap((thread) =>
    readFileSync(`/proc/${pid}/task/${thread}/children`, 'utf8').split(' ').filter(Boolean).map(Number),
  );
  return [pid, ...children];
}

/** Resident memory of a process, in MB (10^6 bytes). */
export function memoryMegabytes(pid: number): number {
  const match = /^VmRSS:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  return (Number(match?.[1]) * 1024) / 1e6;
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length % 2 === 1 ? sorted[Math.floor(middle)]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
}

/** The responses to a round of requests. */
export interface Round {
  readonly latenciesMs: readonly number[];
  /** How many responses had another status than the expected one. */
  readonly unexpected: number;
  readonly seconds: number;
}

/** Posts `count` payments over keep-alive connections ({@link startPosting}). */
export async function postMany(
  options: Omit<PostingOptions, 'onResponse'> & { readonly count: number },
): Promise<Round> {
  const latenciesMs: number[] = [];
  let unexpected = 0;
  const startedAt = performance.now();
  const posting = startPosting({
    ...options,
    onResponse(isExpected, latencyMs) {
      latenciesMs.push(latencyMs);
      if (!isExpected) unexpected += 1;
    },
  });
  await posting.ended;
  return { latenciesMs, unexpected, seconds: (performance.now() - startedAt) / 1000 };
}

/** A row of the table: the measured value, its baseline and its budget. */
export interface Result {
  readonly what: string;
  readonly ours: string;
  readonly baseline: string;
  /** Our value divided by the baseline's. */
  readonly ratio: number;
  /** The bound of the ratio: an upper one, or a lower one when `atLeast` is set. */
  readonly budget: number | undefined;
  readonly atLeast?: boolean;
}

export function isWithinBudget({ ratio, budget, atLeast = false }: Result): boolean {
  return budget === undefined || (atLeast ? ratio >= budget : ratio <= budget);
}

export function showTable(results: readonly Result[]): string {
  const rows = results.map((result) => [
    result.what,
    result.ours,
    result.baseline,
    result.ratio.toFixed(2),
    result.budget === undefined ? '' : `${result.atLeast ? '≥' : '≤'} ${result.budget}`,
    result.budget === undefined ? '' : isWithinBudget(result) ? 'kept' : 'MISSED',
  ]);
  const header = ['measured', 'Payrelay', 'baseline', 'ratio', 'budget', ''];
  return [header, header.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}
