import type { AcceptingRow } from './accepting.ts';
import type { PayingRow } from './paying.ts';
import {
  type Assumptions,
  type Deployment,
  ratePerCore,
  SIZED_PARTS,
  type SizedPart,
  type UnitCosts,
} from './sizes.ts';
import type { Part } from './usage.ts';

/** All that a run has found. */
export interface CapacityReport {
  readonly machine: {
    readonly cores: number;
    readonly model: string;
    readonly node: string;
    readonly redis: string;
    readonly postgres: string;
  };
  readonly date: string;
  readonly command: string;
  readonly concurrency: number;
  readonly accepting: readonly AcceptingRow[];
  readonly paying: readonly PayingRow[];
  /** Undefined where CPU cannot be measured, and so are the sizes. */
  readonly costs: UnitCosts | undefined;
  readonly assumptions: Assumptions;
  readonly deployments: readonly Deployment[];
}

/**
 * What one payment costs: of each figure the largest that any row showed, so that the sizes err to the safe side. Redis works for
 * a payment twice, when it is accepted and when it is paid.
 */
export function unitCosts(accepting: readonly AcceptingRow[], paying: readonly PayingRow[]): UnitCosts | undefined {
  if ([...accepting, ...paying].some(({ cpuMicros }) => cpuMicros === undefined)) return undefined;
  const most = (rows: readonly { cpuMicros: AcceptingRow['cpuMicros'] }[], part: Part) =>
    Math.max(...rows.map(({ cpuMicros }) => cpuMicros![part]!));
  return {
    cpuMicros: {
      api: most(accepting, 'api'),
      redis: most(accepting, 'redis') + most(paying, 'redis'),
      worker: most(paying, 'worker'),
      postgres: most(paying, 'postgres'),
    },
    bytesPerQueued: Math.max(...accepting.map(({ bytesPerQueued }) => bytesPerQueued)),
    bytesPerRecorded: Math.max(...paying.map(({ bytesPerRecorded }) => bytesPerRecorded)),
  };
}

const TITLES: Readonly<Record<SizedPart, string>> = {
  api: 'API node',
  redis: 'Redis',
  worker: 'worker',
  postgres: 'PostgreSQL',
};

/** What an operator does when the cores of a part are full. */
const REMEDIES: Readonly<Record<SizedPart, string>> = {
  api: 'add an API node',
  redis: 'add a shard',
  worker: 'add a worker',
  postgres: 'a larger server',
};

/** The report as Markdown, for docs/capacity.md. */
export function showReport(report: CapacityReport): string {
  const { machine, date, command, concurrency, accepting, paying, costs, assumptions } = report;
  const blocks = [
    `Machine: ${machine.cores} × ${machine.model}; Node ${machine.node}, Redis ${machine.redis}, PostgreSQL ${machine.postgres}; ${date}, \`${command}\`.`,
    showAccepting(accepting),
    `Each worker has ${count(concurrency)} payments in flight.`,
    showPaying(paying),
    ...notesOf(report),
  ];
  if (!costs)
    return [...blocks, 'This system does not tell what CPU each process uses, so there are no sizes.'].join('\n\n');
  return [...blocks, showCosts(costs, assumptions), showDeployments(report.deployments, assumptions)].join('\n\n');
}

function showAccepting(rows: readonly AcceptingRow[]): string {
  return table(
    ['API nodes', 'accepted/s', 'µs each: API', 'Redis', 'load', 'cores busy', 'limit', 'bytes in Redis'],
    rows.map((row) => [
      `${row.apiNodes}`,
      count(row.perSecond),
      ...micros(row, ['api', 'redis', 'load']),
      row.busyCores.toFixed(1),
      row.limit ?? '?',
      count(row.bytesPerQueued),
    ]),
  );
}

function showPaying(rows: readonly PayingRow[]): string {
  return table(
    [
      ...['shards', 'workers', 'paid and recorded/s', 'µs each: worker', 'Redis', 'PostgreSQL', 'gateway'],
      ...['cores busy', 'limit', 'bytes in PostgreSQL'],
    ],
    rows.map((row) => [
      `${row.shards}`,
      `${row.workers}`,
      count(row.perSecond),
      ...micros(row, ['worker', 'redis', 'postgres', 'gateway']),
      row.busyCores.toFixed(1),
      row.limit ?? '?',
      count(row.bytesPerRecorded),
    ]),
  );
}

function micros({ cpuMicros }: AcceptingRow | PayingRow, parts: readonly Part[]): string[] {
  return parts.map((part) => cpuMicros?.[part]?.toFixed(0) ?? '?');
}

/** From this many cores on, other work on the machine spoils the figures. */
const OTHERS_MATTER_CORES = 0.2;

function notesOf({ accepting, paying }: CapacityReport): string[] {
  const rows = [...accepting, ...paying];
  const notes: string[] = [];
  if (rows.some(({ limit }) => limit === 'cores')) {
    notes.push(
      'Where the limit is `cores`, all cores of this machine were busy, load and gateways included: the rate says how quick the machine is, not where the part ends. The CPU for each payment means something all the same; it is rather too high than too low.',
    );
  }
  if (rows.some(({ limit }) => limit === 'waiting')) {
    notes.push(
      'Where the limit is `waiting`, neither the machine nor a process was full: the part waited for the disk, or had too few payments in flight.',
    );
  }
  const others = Math.max(...rows.map(({ otherCores }) => otherCores ?? 0));
  if (others > OTHERS_MATTER_CORES) {
    notes.push(
      `**Up to ${others.toFixed(1)} cores were busy with something else**, so run it again when the machine is idle.`,
    );
  }
  const early = paying.filter(({ endedEarly }) => endedEarly);
  if (early.length > 0) {
    const seconds = Math.min(...early.map((row) => row.seconds)).toFixed(1);
    notes.push(`The queue was empty before the time was over, first after ${seconds} s: \`--payments\` queues more.`);
  }
  return notes;
}

function showCosts(costs: UnitCosts, { usedShare }: Assumptions): string {
  const percent = `${Math.round(usedShare * 100)} %`;
  return [
    'What one payment costs, the most that any row showed:',
    table(
      ['part', 'CPU', `one core at ${percent}`, 'one core, full'],
      SIZED_PARTS.map((part) => [
        part === 'redis' ? 'Redis (accept and pay)' : TITLES[part],
        `${costs.cpuMicros[part].toFixed(0)} µs`,
        `${count(ratePerCore(costs, part) * usedShare)}/s`,
        `${count(ratePerCore(costs, part))}/s`,
      ]),
    ),
    `However many API nodes and workers there are, one queue ends where the core of its Redis is full, here at ${count(ratePerCore(costs, 'redis'))}/s. \`QUEUE_SHARDS\` divides it.`,
    `A payment takes ${count(costs.bytesPerQueued)} bytes in Redis while it waits, and ${count(costs.bytesPerRecorded)} in PostgreSQL, indexes included, for ever.`,
  ].join('\n\n');
}

function showDeployments(deployments: readonly Deployment[], assumptions: Assumptions): string {
  const { usedShare, latencyMs, outageMinutes, coreHourUsd } = assumptions;
  const row = (name: string, value: (deployment: Deployment) => string) => [name, ...deployments.map(value)];
  return [
    `A deployment that uses ${Math.round(usedShare * 100)} % of each core at the rate, with gateways that respond within ${count(latencyMs)} ms:`,
    table(
      ['', ...deployments.map(({ rate }) => `${count(rate)}/s`)],
      [
        row('API nodes', ({ cores }) => count(cores.api)),
        row('workers', ({ cores }) => count(cores.worker)),
        row('shards, a Redis core each', ({ cores }) => count(cores.redis)),
        row('cores of PostgreSQL', ({ cores }) => count(cores.postgres)),
        row('cores in all', ({ coresInAll }) => count(coresInAll)),
        row(`US$ an hour, at ${coreHourUsd} a core`, ({ usdPerHour }) => usdPerHour.toFixed(2)),
        row('payments in flight, all workers', ({ places }) => count(places)),
        row('`PAYMENT_QUEUE_MAX_CONCURRENCY`, each', ({ placesPerWorker }) => count(placesPerWorker)),
        row(`Redis' memory after ${count(outageMinutes)} min without a gateway`, ({ backlogBytes }) =>
          bytes(backlogBytes),
        ),
        row('the ledger grows a day', ({ ledgerBytesPerDay }) => bytes(ledgerBytesPerDay)),
        row(
          'full first',
          ({ bottleneck: { part, rate } }) => `${TITLES[part]}, at ${count(rate)}/s: ${REMEDIES[part]}`,
        ),
      ],
    ),
  ].join('\n\n');
}

function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  return [header, header.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n');
}

function count(value: number): string {
  return Math.round(value).toLocaleString('en-US');
}

/** Decimal units, as disks and clouds have them. */
function bytes(value: number): string {
  const unit =
    value < 1e9 ? { of: 1e6, name: 'MB' } : value < 1e12 ? { of: 1e9, name: 'GB' } : { of: 1e12, name: 'TB' };
  const inUnits = value / unit.of;
  return `${inUnits < 10 ? inUnits.toFixed(1) : count(inUnits)} ${unit.name}`;
}
