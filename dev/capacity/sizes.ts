/** The parts of a deployment that need cores, in the order in which a payment meets them. */
export const SIZED_PARTS = ['api', 'redis', 'worker', 'postgres'] as const;
export type SizedPart = (typeof SIZED_PARTS)[number];

/** What one payment costs, from accepting to its row. */
export interface UnitCosts {
  readonly cpuMicros: Readonly<Record<SizedPart, number>>;
  readonly bytesPerQueued: number;
  readonly bytesPerRecorded: number;
}

export interface Assumptions {
  /** The share of each core that is used at the rate. The rest is for peaks, and for what comes after a failure. */
  readonly usedShare: number;
  readonly latencyMs: number;
  readonly outageMinutes: number;
  readonly coreHourUsd: number;
}

/** What a number of payments a second needs. */
export interface Deployment {
  readonly rate: number;
  /**
   * Cores of each part. An API node, a worker and a Redis use one each, so for these parts it is also the number of processes, and
   * for Redis the number of shards.
   */
  readonly cores: Readonly<Record<SizedPart, number>>;
  readonly coresInAll: number;
  /** Payments in flight, so the least sum of PAYMENT_QUEUE_MAX_CONCURRENCY over all workers. */
  readonly places: number;
  readonly placesPerWorker: number;
  readonly backlogPayments: number;
  /** Memory of all Redis together for the backlog. */
  readonly backlogBytes: number;
  readonly ledgerBytesPerDay: number;
  readonly usdPerHour: number;
  /** The part whose cores are full first when the rate rises, and the rate at which they are. */
  readonly bottleneck: { readonly part: SizedPart; readonly rate: number };
}

const SECONDS_PER_DAY = 86_400;

/** The payments a second at which a core of this part is full. */
export function ratePerCore(costs: UnitCosts, part: SizedPart): number {
  return 1e6 / costs.cpuMicros[part];
}

/**
 * Sizes each part by its CPU per payment alone. Every core counts as quick as the measured one, and a payment costs the same at
 * every rate: so this is an estimate far from the measured rates, and says nothing of disks and networks.
 */
export function sizeFor(rate: number, costs: UnitCosts, assumptions: Assumptions): Deployment {
  const { usedShare, latencyMs, outageMinutes, coreHourUsd } = assumptions;
  const coresOf = (part: SizedPart) => {
    const needed = (rate * costs.cpuMicros[part]) / 1e6 / usedShare;
    // What is a whole number on paper may be a little more as a float.
    return Math.max(1, Math.ceil(needed - 1e-9));
  };
  const cores = {
    api: coresOf('api'),
    redis: coresOf('redis'),
    worker: coresOf('worker'),
    postgres: coresOf('postgres'),
  };
  const coresInAll = SIZED_PARTS.reduce((total, part) => total + cores[part], 0);
  const fullAt = SIZED_PARTS.map((part) => ({ part, rate: cores[part] * ratePerCore(costs, part) }));
  // By the law of Little: those in flight are the rate times the time that each is in flight.
  const places = Math.ceil((rate * latencyMs) / 1_000);
  const backlogPayments = rate * outageMinutes * 60;
  return {
    rate,
    cores,
    coresInAll,
    places,
    placesPerWorker: Math.ceil(places / cores.worker),
    backlogPayments,
    backlogBytes: backlogPayments * costs.bytesPerQueued,
    ledgerBytesPerDay: rate * SECONDS_PER_DAY * costs.bytesPerRecorded,
    usdPerHour: coresInAll * coreHourUsd,
    bottleneck: fullAt.reduce((first, each) => (each.rate < first.rate ? each : first)),
  };
}
