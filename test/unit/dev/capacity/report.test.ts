import { expect } from 'chai';
import type { AcceptingRow } from '../../../../dev/capacity/accepting.ts';
import type { PayingRow } from '../../../../dev/capacity/paying.ts';
import { type CapacityReport, showReport, unitCosts } from '../../../../dev/capacity/report.ts';
import { sizeFor } from '../../../../dev/capacity/sizes.ts';

const SPAN = { seconds: 8, payments: 8_000, perSecond: 1_000, busyCores: 1, otherCores: 0, limit: 'waiting' } as const;

function accepting(apiNodes: number, cpuMicros: AcceptingRow['cpuMicros']): AcceptingRow {
  return { ...SPAN, apiNodes, cpuMicros, bytesPerQueued: 400 - apiNodes };
}

function paying(workers: number, cpuMicros: PayingRow['cpuMicros']): PayingRow {
  return { ...SPAN, workers, shards: 1, cpuMicros, bytesPerRecorded: 170 + workers, endedEarly: false };
}

const ACCEPTING = [accepting(1, { api: 25, redis: 14, load: 9 }), accepting(2, { api: 28, redis: 12, load: 9 })];
const PAYING = [
  paying(1, { worker: 240, redis: 40, postgres: 24, gateway: 30 }),
  paying(2, { worker: 220, redis: 46, postgres: 30, gateway: 30 }),
];

function reportOf(changes: Partial<CapacityReport> = {}): CapacityReport {
  const costs = unitCosts(ACCEPTING, PAYING)!;
  const assumptions = { usedShare: 0.6, latencyMs: 50, outageMinutes: 10, coreHourUsd: 0.04 };
  return {
    machine: { cores: 2, model: 'A CPU', node: 'v24.0.0', redis: '7.0.15', postgres: '18.4' },
    date: '2026-11-26',
    command: 'npm run capacity',
    concurrency: 256,
    accepting: ACCEPTING,
    paying: PAYING,
    costs,
    assumptions,
    deployments: [1_000, 100_000].map((rate) => sizeFor(rate, costs, assumptions)),
    ...changes,
  };
}

describe('the costs of one payment', () => {
  it('are the largest that any row showed, and Redis has those of accepting and of paying', () => {
    expect(unitCosts(ACCEPTING, PAYING)).to.deep.equal({
      cpuMicros: { api: 28, redis: 14 + 46, worker: 240, postgres: 30 },
      bytesPerQueued: 399,
      bytesPerRecorded: 172,
    });
  });

  it('are unknown where the system does not tell what CPU a process uses', () => {
    expect(unitCosts([accepting(1, undefined)], [paying(1, undefined)])).to.equal(undefined);
  });
});

describe('the Markdown of npm run capacity', () => {
  it('has tables whose rows are all as wide as their header', () => {
    const tables = showReport(reportOf())
      .split('\n\n')
      .filter((block) => block.startsWith('|'));
    expect(tables).to.have.length(4);
    for (const table of tables) {
      const widths = table.split('\n').map((line) => line.split(' | ').length);
      expect(new Set(widths), table).to.have.property('size', 1);
    }
  });

  it('has the sizes of each rate side by side', () => {
    const text = showReport(reportOf());
    expect(text).to.include('| workers | 1 | 40 |');
    expect(text).to.include('| shards, a Redis core each | 1 | 10 |');
    expect(text).to.include("| Redis' memory after 10 min without a gateway | 239 MB | 24 GB |");
  });

  it('says so when the cores of the machine were the limit, when others used them, and when the queue was too short', () => {
    const quiet = showReport(reportOf());
    for (const [changes, note] of [
      [{ limit: 'cores' as const }, 'Where the limit is `cores`'],
      [{ otherCores: 0.7 }, 'Up to 0.7 cores were busy with something else'],
      [{ endedEarly: true }, 'The queue was empty before the time was over, first after 8.0 s'],
    ] as const) {
      expect(quiet).to.not.include(note);
      expect(showReport(reportOf({ paying: [PAYING[0]!, { ...PAYING[1]!, ...changes }] }))).to.include(note);
    }
  });

  it('has no sizes where CPU is unknown', () => {
    const rows = { accepting: [accepting(1, undefined)], paying: [paying(1, undefined)] };
    const text = showReport(reportOf({ ...rows, costs: undefined, deployments: [] }));
    expect(text).to.include('there are no sizes');
    expect(text).to.include('| 1 | 1,000 | ? | ? | ? |');
  });
});
