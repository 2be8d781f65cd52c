import { openSync, writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { runTool } from '../../src/process/run-tool.ts';
import { stopOnSignal } from '../local/processes.ts';
import { type AcceptingRow, measureAccepting } from './accepting.ts';
import { type CapacityOptions, OptionError, readOptions, USAGE } from './options.ts';
import { measurePaying, type PayingRow } from './paying.ts';
import { type CapacityReport, showReport, unitCosts } from './report.ts';
import { type Assumptions, sizeFor } from './sizes.ts';
import { type Ledger, startLedger, startQueue } from './stand.ts';

/** The sizes that are computed, in payments a second. */
const RATES = [1_000, 10_000, 100_000];

/** A core that is busier than this makes payments wait when they come unevenly, and cannot take the load of one that failed. */
const USED_SHARE = 0.6;

/** `npm run capacity`: see {@link USAGE}. Exits with 2 when an option is wrong, with 1 when a measurement fails. */
async function main(): Promise<number> {
  const options = readOptions(process.argv.slice(2), process.env);
  if (!options) {
    console.log(USAGE);
    return 0;
  }
  const json = openJson(options.json);
  // Whatever runs ends with this process (local/processes.ts), after an error as well.
  stopOnSignal(async () => {});
  const report = await measure(options);
  const text = JSON.stringify(report, undefined, 2);
  if (json !== undefined) writeFileSync(json, `${text}\n`);
  console.log(options.json === '-' ? text : showReport(report));
  return 0;
}

async function measure(options: CapacityOptions): Promise<CapacityReport> {
  const ledger = await startLedger();
  const accepting: AcceptingRow[] = [];
  for (const apiNodes of options.apiNodes) {
    say(`accepting; API nodes: ${apiNodes}`);
    accepting.push(await measureAccepting(ledger, { apiNodes, seconds: options.seconds }));
  }
  const paying: PayingRow[] = [];
  for (const { shards, workers } of combinationsOf(options)) {
    say(`paying; shards: ${shards}, workers: ${workers}`);
    paying.push(await measurePaying(ledger, { ...options, shards, workers }));
  }
  const machine = await machineOf(ledger);
  await ledger.close();

  const costs = unitCosts(accepting, paying);
  const { latencyMs, outageMinutes, coreHourUsd } = options;
  const assumptions: Assumptions = { usedShare: USED_SHARE, latencyMs, outageMinutes, coreHourUsd };
  return {
    machine,
    date: new Date().toISOString().slice(0, 10),
    command: ['npm run capacity', ...(process.argv.length > 2 ? ['--', ...process.argv.slice(2)] : [])].join(' '),
    concurrency: options.concurrency,
    accepting,
    paying,
    costs,
    assumptions,
    deployments: costs ? RATES.map((rate) => sizeFor(rate, costs, assumptions)) : [],
  };
}

/** Every number of workers with the first number of shards, then the largest number of workers with every other. */
function combinationsOf({ workers, shards }: CapacityOptions): { workers: number; shards: number }[] {
  const [first, ...others] = shards;
  return [
    ...workers.map((each) => ({ workers: each, shards: first! })),
    ...others.map((each) => ({ workers: Math.max(...workers), shards: each })),
  ];
}

async function machineOf(ledger: Ledger): Promise<CapacityReport['machine']> {
  const queue = await startQueue(1);
  await queue.close();
  const [first] = cpus();
  return {
    cores: availableParallelism(),
    model: first!.model,
    node: process.version,
    redis: queue.version,
    postgres: ledger.version,
  };
}

/** Opens the file before the measurements, so that a wrong name costs no time. @throws OptionError */
function openJson(file: string | undefined): number | undefined {
  if (file === undefined || file === '-') return undefined;
  try {
    return openSync(file, 'w');
  } catch (error) {
    throw new OptionError(`--json must be a file that can be written: ${(error as Error).message}`);
  }
}

function say(line: string): void {
  console.error(line);
}

function explain(error: unknown): number {
  const { message, code } = error as Error & { code?: string };
  console.error(message);
  if (!(error instanceof OptionError) && !code?.startsWith('ERR_PARSE_ARGS')) return 1;
  console.error(USAGE);
  return 2;
}

runTool(import.meta, main, { onError: explain });
