import type { GatewayTotals } from '../src/ledger/ledger.ts';
import type { GatewayName } from '../src/payment.ts';

/** What the line of `make run` shows. */
export interface Status extends Readonly<Record<GatewayName, GatewayTotals>> {
  readonly queued: number;
  readonly inFlight: number;
  /** Dead letters that Redis still has: all but the oldest of more than ten thousand. */
  readonly dead: number;
}

const INTERVAL_MS = 1_000;
const CLEAR = '\r\x1b[K';

export interface StatusLine {
  /** Prints above the line. */
  print(text: string): void;
  /** Reads from a service's log whether a gateway's circuit is open. */
  note(logLine: string): void;
  /** Shows the line once a second from now on, on a terminal only. */
  start(read: () => Promise<Status>): void;
  close(): void;
}

/**
 * One live line at the bottom of a terminal. On a pipe it is off, and `print` only prints.
 * @param knowsCircuits whether the services log at `info`, where a circuit that closes has its line
 */
export function createStatusLine(
  out: Pick<NodeJS.WriteStream, 'write' | 'isTTY' | 'columns'>,
  { knowsCircuits }: { knowsCircuits: boolean },
): StatusLine {
  const openCircuits = new Set<string>();
  let line = '';
  let timer: NodeJS.Timeout | undefined;
  let isReading = false;

  async function show(read: () => Promise<Status>): Promise<void> {
    if (isReading) return;
    isReading = true;
    const text = await read().then(
      (status) => statusText(status, knowsCircuits ? openCircuits : undefined),
      () => 'Redis or PostgreSQL does not respond',
    );
    isReading = false;
    if (timer === undefined) return;
    // A longer line would wrap, and only its last row would be replaced.
    line = text.slice(0, (out.columns ?? 120) - 1);
    out.write(`${CLEAR}${line}`);
  }

  return {
    print(text) {
      out.write(line === '' ? `${text}\n` : `${CLEAR}${text}\n${line}`);
    },
    note(logLine) {
      const { gateway, state } = fieldsOf(logLine);
      if (state === 'open') openCircuits.add(String(gateway));
      if (state === 'closed') openCircuits.delete(String(gateway));
    },
    start(read) {
      if (!out.isTTY) return;
      timer = setInterval(() => void show(read), INTERVAL_MS);
    },
    close() {
      clearInterval(timer);
      timer = undefined;
      if (line !== '') out.write('\n');
      line = '';
    },
  };
}

/** For example `accepted 12  primary 10 (199.00)  fallback 1 (19.90)  queued 0  circuits closed  in flight 1`. */
export function statusText(status: Status, openCircuits: ReadonlySet<string> | undefined): string {
  const { primary, fallback, queued, inFlight, dead } = status;
  const paid = primary.totalRequests + fallback.totalRequests;
  const at = ({ totalRequests, totalAmountCents }: GatewayTotals) =>
    `${totalRequests} (${(totalAmountCents / 100).toFixed(2)})`;
  return [
    // In the moment between a payment's row and the end of its job it is counted twice.
    `accepted ${paid + queued + inFlight + dead}`,
    `primary ${at(primary)}`,
    `fallback ${at(fallback)}`,
    `queued ${queued}`,
    ...(openCircuits === undefined ? [] : [circuitText(openCircuits)]),
    // A narrow terminal cuts the end off.
    ...(dead > 0 ? [`dead ${dead}`] : []),
    `in flight ${inFlight}`,
  ].join('  ');
}

function circuitText(open: ReadonlySet<string>): string {
  return open.size === 0 ? 'circuits closed' : `circuit open: ${[...open].sort().join(', ')}`;
}

function fieldsOf(logLine: string): Readonly<Record<string, unknown>> {
  if (!logLine.startsWith('{') || !logLine.includes('"state"')) return {};
  try {
    return JSON.parse(logLine) as Record<string, unknown>;
  } catch {
    return {};
  }
}
