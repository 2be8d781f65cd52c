import type { Metric, MetricValue, Registry } from 'prom-client';
import type { GatewayName } from '../payment.ts';
import { within } from '../process/deadline.ts';
import type { Heartbeat, WorkerVitals } from './heartbeat.ts';
import type { Histogram } from './histogram.ts';
import type { QueueStateName } from './labels.ts';
import type { Measures } from './measures.ts';
import { countedSeries, type Labels, ownCircuitSeries, relaySeries, type Series, workerSeries } from './series.ts';

/** What an API node reads from Redis and PostgreSQL for a scrape. The same on every node, so rules take `max`. */
export interface RelayGauges {
  /** By state: waiting, delayed, in_flight. Undefined: Redis gave no usable reply. */
  readonly queue: Readonly<Record<QueueStateName, number>> | undefined;
  /** PAYMENT_QUEUE_MAX_SIZE; may be infinity. */
  readonly capacity: number;
  readonly oldestWaitingSeconds: number | undefined;
  readonly unresolved:
    | Readonly<Record<GatewayName, { readonly count: number; readonly oldestSeconds: number }>>
    | undefined;
  /** Number of workers in which the gateway's circuit is open. */
  readonly circuitsOpen: Readonly<Record<GatewayName, number>> | undefined;
  readonly workers: number | undefined;
  /** Open dead letters, by reason code. Undefined: PostgreSQL did not respond. */
  readonly deadLetters: Readonly<Record<string, number>> | undefined;
  /** The last run of reconcile; undefined: there was none, or PostgreSQL did not respond. */
  readonly reconciliation:
    | { readonly at: Date; readonly differences: Readonly<Record<GatewayName, number>> }
    | undefined;
  /** Codes of the problems of `GET /health` that there are now. */
  readonly problems: readonly string[];
}

/** The metrics of a process as Prometheus reads them. */
export interface Metrics {
  /** The Content-Type of {@link text}. */
  readonly contentType: string;
  /**
   * All series now, within 2 s: what cannot be read is NaN. Scrapes at the same time share one result.
   * @throws only when prom-client cannot be loaded
   */
  text(): Promise<string>;
}

/** How long a scrape waits for the gauges. Prometheus gives up a scrape after 10 s, and a process counts as down then. */
const GAUGES_LIMIT_MS = 2_000;

/**
 * The event loop is measured by a timer, which wakes an idle process. Every 10 ms, the default, takes 0.3 % of a core; this
 * takes half. The lags of the runtime's metrics include it.
 */
const LAG_PRECISION_MS = 20;

/** Gauges of prom-client with the name of a counter, so `promtool check metrics` complains. Others have the same numbers by type. */
const MISNAMED = ['nodejs_active_handles_total', 'nodejs_active_requests_total', 'nodejs_active_resources_total'];

/**
 * prom-client is loaded at the first scrape, which takes some 30 ms. A process without a scrape pays nothing for it. It
 * counts nothing: it writes the text, and adds the metrics of process and runtime, which begin with that scrape.
 */
export function createMetrics({
  measures,
  self,
  gaugesOf,
  vitalsOf,
}: {
  measures: Measures;
  self: Pick<Heartbeat, 'role' | 'version'>;
  /** The provider of the gauges, once an API part has named it. */
  gaugesOf: () => (() => Promise<RelayGauges>) | undefined;
  /** The provider of a worker's vitals, once a worker part has named it. */
  vitalsOf: () => (() => WorkerVitals) | undefined;
}): Metrics {
  let registry: Promise<Registry> | undefined;
  let scrape: Promise<string> | undefined;
  let reading: Promise<RelayGauges | undefined> | undefined;
  let gauges: RelayGauges | undefined;

  /** Undefined also after an error: the scrape goes on without them. */
  function vitals(): WorkerVitals | undefined {
    try {
      return vitalsOf()?.();
    } catch {
      return undefined;
    }
  }

  const buildInfo: Series = {
    name: 'payrelay_build_info',
    help: 'Always 1. The labels say what runs.',
    type: 'gauge',
    samples: () => [[{ version: self.version, role: self.role, node_version: process.version }, 1]],
  };

  async function load(): Promise<Registry> {
    const { Registry, collectDefaultMetrics } = await import('prom-client');
    const made = new Registry();
    const { role } = self;
    const series = [
      ...countedSeries(measures),
      buildInfo,
      ...(role === 'worker' ? ownCircuitSeries(vitals) : relaySeries(() => gauges)),
      ...(role === 'api' ? [] : workerSeries(vitals)),
    ];
    for (const each of series) made.registerMetric(metricOf(each));
    collectDefaultMetrics({ register: made, eventLoopMonitoringPrecision: LAG_PRECISION_MS });
    for (const name of MISNAMED) made.removeSingleMetric(name);
    return made;
  }

  /** One read at a time: when one hangs, the next scrape waits for the same one. */
  async function readGauges(): Promise<RelayGauges | undefined> {
    const read = gaugesOf();
    if (read === undefined) return undefined;
    reading ??= (async () => read())()
      .catch(() => undefined)
      .finally(() => {
        reading = undefined;
      });
    let result: RelayGauges | undefined;
    const done = reading.then((it) => {
      result = it;
    });
    await within(performance.now() + GAUGES_LIMIT_MS, done);
    return result;
  }

  return {
    contentType: 'text/plain; version=0.0.4; charset=utf-8',
    text() {
      scrape ??= (async () => {
        registry ??= load();
        // Together, so that a rejection of the first is never unhandled: it would end the process.
        const [loaded, read] = await Promise.all([registry, readGauges()]);
        gauges = read;
        return loaded.metrics();
      })().finally(() => {
        scrape = undefined;
      });
      return scrape;
    },
  };
}

/** A metric as a registry reads it (prom-client's lib/registry.js): it calls `get` and looks at nothing else but the name. */
function metricOf({ name, help, type, divisor = 1, samples }: Series): Metric {
  const get = () => {
    const values = [...samples()].flatMap(([labels, value]): Value[] =>
      typeof value === 'number' ? [{ labels, value }] : bucketsOf(name, labels, value, divisor),
    );
    return Promise.resolve({ name, help, type, values });
  };
  return { name, help, type, get } as unknown as Metric;
}

type Value = MetricValue<string> & { readonly metricName?: string };

function bucketsOf(name: string, labels: Labels, histogram: Histogram, divisor: number): Value[] {
  const { bounds, counts, sum } = histogram;
  let count = 0;
  const buckets = [...bounds, Number.POSITIVE_INFINITY].map((bound, index) => {
    count += counts[index]!;
    const le = bound === Number.POSITIVE_INFINITY ? '+Inf' : `${bound / divisor}`;
    return { metricName: `${name}_bucket`, labels: { ...labels, le }, value: count };
  });
  return [
    ...buckets,
    { metricName: `${name}_sum`, labels, value: sum / divisor },
    { metricName: `${name}_count`, labels, value: count },
  ];
}
