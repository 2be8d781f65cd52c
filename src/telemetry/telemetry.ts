import { randomUUID } from 'node:crypto';
import { hostname } from 'node:os';
import type { Heartbeat, WorkerVitals } from './heartbeat.ts';
import { createMeasures } from './measures.ts';
import { createMetrics, type Metrics, type RelayGauges } from './metrics.ts';
import { createRecent } from './recent.ts';

/** What a process knows about itself. One for each process, whatever its roles: the events of its parts meet here. */
export interface Telemetry {
  readonly metrics: Metrics;
  /** For the others, see queue/heartbeats.ts. Call it once a second. */
  heartbeat(): Heartbeat;
  /** Adds what only a part can tell when it is asked. A part calls it once, when it starts. */
  describe(part: TelemetryPart): void;
  /** Ends its subscriptions. */
  close(): void;
}

export interface TelemetryPart {
  readonly worker?: () => WorkerVitals;
  readonly problems?: () => Readonly<Record<string, string>>;
  /** Never rejects. */
  readonly gauges?: () => Promise<RelayGauges>;
}

/** Counts the events of this process from now on. */
export function createTelemetry({ role, version }: Pick<Heartbeat, 'role' | 'version'>): Telemetry {
  let described: TelemetryPart = {};
  const self = {
    id: randomUUID(),
    role,
    host: hostname(),
    pid: process.pid,
    version,
    startedAt: new Date().toISOString(),
  };
  const measures = createMeasures();
  const recent = createRecent(measures);
  return {
    metrics: createMetrics({
      measures,
      self,
      gaugesOf: () => described.gauges,
      vitalsOf: () => described.worker,
    }),
    heartbeat: () => ({
      ...self,
      ...recent(),
      ...(described.worker && { worker: described.worker() }),
      ...(described.problems && { problems: described.problems() }),
    }),
    describe(part) {
      described = { ...described, ...part };
    },
    close: () => measures.close(),
  };
}
