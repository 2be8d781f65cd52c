import { randomUUID } from 'node:crypto';
import { Agent, request } from 'node:http';

/** What became of the payments that a load generator posted. */
export interface LoadReport {
  /** Ids with a 2xx response. */
  readonly accepted: Set<string>;
  /** When the first 2xx response to each of them came, as performance.now() counts. */
  readonly acceptedAtMs: Map<string, number>;
  /** Ids whose response never came or was 503 `queue_unavailable`. */
  readonly unknown: Set<string>;
  /** Ids with 503 `queue_full`: this post certainly stored nothing. */
  readonly notAccepted: Set<string>;
  /** Responses by status. */
  readonly statuses: Map<number, number>;
  /** Of every response, in ms. */
  readonly latenciesMs: number[];
}

export interface LoadOptions {
  readonly urls: readonly string[];
  readonly amount: number;
  /** Default 5000, longer than the API takes for any response. A post that takes longer counts as unknown. */
  readonly timeoutMs?: number;
}

export interface Load {
  readonly report: LoadReport;
  /** Posts one payment. The same id may be posted again. @returns the status, undefined without a response. Never rejects */
  post(correlationId?: string): Promise<number | undefined>;
  close(): void;
}

/** A client with keep-alive connections that notes what became of every id. */
export function createLoad({ urls, amount, timeoutMs = 5_000 }: LoadOptions): Load {
  const agent = new Agent({ keepAlive: true, maxSockets: 1_000 });
  const targets = urls.map((url) => new URL('/payments', url));
  const report: LoadReport = {
    accepted: new Set(),
    acceptedAtMs: new Map(),
    unknown: new Set(),
    notAccepted: new Set(),
    statuses: new Map(),
    latenciesMs: [],
  };
  let posted = 0;

  function send(correlationId: string): Promise<{ status: number; body: string } | undefined> {
    const body = JSON.stringify({ correlationId, amount });
    const { hostname, port, pathname } = targets[posted++ % targets.length]!;
    return new Promise((resolve) => {
      const headers = { 'content-type': 'application/json', 'content-length': Buffer.byteLength(body) };
      const outgoing = request(
        { hostname, port, path: pathname, method: 'POST', agent, headers, timeout: timeoutMs },
        (response) => {
          let text = '';
          response.setEncoding('utf8');
          response.on('data', (chunk: string) => {
            text += chunk;
          });
          response.on('end', () => resolve({ status: response.statusCode!, body: text }));
          response.on('error', () => resolve(undefined));
        },
      );
      outgoing.on('timeout', () => outgoing.destroy());
      outgoing.on('error', () => resolve(undefined));
      outgoing.end(body);
    });
  }

  return {
    report,
    async post(correlationId = randomUUID()) {
      const startedAt = performance.now();
      const response = await send(correlationId);
      if (response) {
        report.latenciesMs.push(performance.now() - startedAt);
        report.statuses.set(response.status, (report.statuses.get(response.status) ?? 0) + 1);
      }
      if (response && response.status >= 200 && response.status < 300) {
        if (!report.accepted.has(correlationId)) report.acceptedAtMs.set(correlationId, performance.now());
        report.accepted.add(correlationId);
      } else if (!response || response.body.includes('queue_unavailable') || response.status >= 500) {
        (response?.body.includes('queue_full') ? report.notAccepted : report.unknown).add(correlationId);
      }
      return response?.status;
    },
    close: () => agent.destroy(),
  };
}

/** The value below which the given share (0 to 1) of the values lies. NaN without values. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] ?? Number.NaN;
}
