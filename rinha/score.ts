import { setTimeout as sleep } from 'node:timers/promises';
import { audit, type Book, readGateway, type readLedger } from '../dev/audit.ts';
import { K6_GOGC, type K6Result } from './k6.ts';
import type { Target, Usage } from './target.ts';

/** Part of the final's payments that may be unpaid at its end: those accepted a moment before, not a backlog. */
const UNPAID_AT_MOST = 0.01;

/** What benchmarks compare. */
export interface RunReport {
  readonly p99Ms: number;
  readonly medianMs: number;
  readonly score: number;
  readonly cpuMsPerPayment: number;
  /** Undefined where the memory has no limit. */
  readonly peakMb: number | undefined;
  readonly lag: number;
  /**
   * No payment lost, paid twice or not recorded, no inconsistent probe, no part started again, and in the final no backlog
   * at its end.
   */
  readonly isClean: boolean;
}

/** One run: what k6 saw, and what the parts of the stack had used before and after. */
export interface Run {
  readonly scenario: string;
  readonly result: K6Result;
  readonly before: ReadonlyMap<string, Usage>;
  readonly after: ReadonlyMap<string, Usage>;
}

/** Waits until the books are settled, audits them, prints all figures of the run and returns the compared ones. */
export async function judge(target: Target, { scenario, result, before, after }: Run): Promise<RunReport> {
  // The audit is about the settled books. The lag says what was still unpaid when the scenario ended.
  const [primary, fallback, ledger] = await settledBooks(target, result.accepted);
  const none = new Set<string>();
  // k6 keeps no ids, so lost payments are counted, not named.
  const { paidTwice, unrecorded, unpaid } = audit({
    accepted: none,
    unknown: none,
    deadLetters: none,
    gateways: { primary, fallback },
    ledger,
  });
  // A payment whose response was late may be paid, too, so there can be more paid than accepted.
  const lost = Math.max(0, result.accepted - new Set([...primary.keys(), ...fallback.keys()]).size);
  const payments = Math.max(1, result.accepted);
  const unpaidAtEnd = result.lag / payments;
  const cpu = [...after].map(([name, { cpuMs }]) => [name, cpuMs - before.get(name)!.cpuMs] as const);
  const cpuMsPerPayment = sum(cpu) / payments;
  const peaks = [...after].flatMap(([name, { peakMb }]) => (peakMb === undefined ? [] : [[name, peakMb] as const]));
  const peakMb = peaks.length === 0 ? undefined : sum(peaks);
  const restarted = [...after].filter(([name, { restarts }]) => restarts > before.get(name)!.restarts);
  const faults =
    paidTwice.length + lost + unrecorded.length + unpaid.length + result.inconsistentProbes + restarted.length;

  print({
    score: `${result.score.toFixed(2)}: profit ${result.profit.toFixed(2)}, bonus ${percent(result.p99Bonus)}, fine ${percent(result.fine)}`,
    p99: `${result.p99Ms.toFixed(2)} ms with k6's ${K6_GOGC ? `GOGC=${K6_GOGC}, the challenge has the default` : 'default GOGC, as in the challenge'}`,
    'median of payments': `${result.paymentMedianMs.toFixed(2)} ms`,
    accepted: `${result.accepted}, not accepted ${result.notAccepted}`,
    'paid at the primary': `${primary.size} (${percent(primary.size / payments)})`,
    'paid at the fallback': fallback.size,
    'unpaid at the end': `${result.lag} (${percent(unpaidAtEnd, 2)}), ${result.lag < 0 ? 'more paid than accepted: the challenge disqualifies this' : 'not fined'}`,
    'inconsistent probes': `${result.inconsistentProbes} (by ${result.inconsistency} payments in all)`,
    'paid twice': paidTwice.length,
    lost,
    unrecorded: unrecorded.length + unpaid.length,
    restarted: restarted.map(([name]) => name).join(', ') || 'none',
    CPU: `${cpuMsPerPayment.toFixed(3)} ms a payment: ${cpu.map(([name, ms]) => `${name} ${(ms / payments).toFixed(3)}`).join(', ')}`,
    'peak memory':
      peakMb === undefined
        ? 'not measured'
        : `${peakMb.toFixed(0)} MB: ${peaks.map(([name, mb]) => `${name} ${mb.toFixed(0)}`).join(', ')}`,
  });
  return {
    p99Ms: result.p99Ms,
    medianMs: result.paymentMedianMs,
    score: result.score,
    cpuMsPerPayment,
    peakMb,
    lag: result.lag,
    isClean: faults === 0 && (scenario !== 'final' || unpaidAtEnd < UNPAID_AT_MOST),
  };
}

type Books = readonly [primary: Book, fallback: Book, ledger: Awaited<ReturnType<typeof readLedger>>];

/** The books once the gateways have all accepted payments on record, or after the 60 s that the first guarantee allows. */
async function settledBooks(target: Target, accepted: number): Promise<Books> {
  const startedAt = performance.now();
  for (;;) {
    const books = await Promise.all([
      readGateway(target.primary),
      readGateway(target.fallback),
      target.readLedger(),
    ] as const);
    const [primary, fallback, ledger] = books;
    const isSettled =
      primary.size + fallback.size >= accepted &&
      ledger.primary.size === primary.size &&
      ledger.fallback.size === fallback.size;
    if (isSettled || performance.now() - startedAt > 60_000) return books;
    await sleep(500);
  }
}

function print(figures: Readonly<Record<string, string | number>>): void {
  for (const [name, value] of Object.entries(figures)) console.log(`  ${name.padEnd(21)} ${value}`);
}

const sum = (figures: readonly (readonly [string, number])[]) =>
  figures.reduce((total, [, figure]) => total + figure, 0);
const percent = (part: number, digits = 0) => `${(100 * part).toFixed(digits)} %`;
