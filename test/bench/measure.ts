import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { connect, type Socket } from 'node:net';

/** Clock ticks a second in /proc; 100 on every Linux that Node runs on (man 5 proc, USER_HZ). */
const TICKS_PER_SECOND = 100;

/** CPU time that a process has used so far, user and system, in µs, from the operating system's accounting. */
export function cpuMicros(pid: number): number {
  // The name in brackets may contain spaces; the fields after the last bracket do not.
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)!.split(' ');
  return ((Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND) * 1e6;
}

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

/**
 * Posts `count` payments over keep-alive connections. Each connection sends its next request after the response to the
 * last one. This client speaks just enough HTTP to do so, because it shares the cores with the server that it measures.
 */
export async function postMany({
  port,
  count,
  connections,
  body,
  status = 204,
}: {
  port: number;
  count: number;
  connections: number;
  body: (index: number) => string;
  status?: number;
}): Promise<Round> {
  const latenciesMs: number[] = [];
  let sent = 0;
  let unexpected = 0;
  const expected = `HTTP/1.1 ${status}`;
  const startedAt = performance.now();
  await Promise.all(
    Array.from({ length: connections }, async () => {
      const socket: Socket = connect(port, '127.0.0.1');
      socket.setNoDelay(true);
      socket.setEncoding('latin1');
      await new Promise<void>((resolve, reject) => {
        let sentAt = 0;
        let received = '';
        const next = () => {
          if (sent >= count) {
            socket.end();
            resolve();
            return;
          }
          const text = body(sent);
          sent += 1;
          sentAt = performance.now();
          socket.write(
            `POST /payments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
          );
        };
        socket.on('connect', next);
        socket.on('error', reject);
        socket.on('data', (chunk: string) => {
          received += chunk;
          const end = received.indexOf('\r\n\r\n');
          if (end === -1) return;
          const length = Number(/content-length: (\d+)/i.exec(received)?.[1] ?? 0);
          if (received.length < end + 4 + length) return;
          latenciesMs.push(performance.now() - sentAt);
          if (!received.startsWith(expected)) unexpected += 1;
          received = '';
          next();
        });
      });
    }),
  );
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
