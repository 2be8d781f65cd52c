import { availableParallelism } from 'node:os';
import { parseArgs } from 'node:util';

export const USAGE = `usage: npm run capacity -- [options]

Measures what one payment costs each part on this machine, with servers of its own, and computes what a deployment for 1,000,
10,000 and 100,000 payments/s needs and costs. It prints Markdown; docs/capacity.md explains the figures. Nothing else should run
meanwhile. CPU is measured on Linux only.

  --api-nodes 1,2,4    numbers of API nodes to measure
  --workers 1,2,4      numbers of workers to measure, with the first number of shards
  --shards 1,2,4       numbers of shards to measure, with the largest number of workers; above 1 each has a Redis of its own
  --concurrency 256    payments that each worker has in flight (PAYMENT_QUEUE_MAX_CONCURRENCY), at most 800
  --seconds 8          length of each measurement
  --payments N         payments that are queued before the workers start (default: enough for the time, by the cores)
  --latency 50         ms that a gateway takes for a response, for the sizes
  --outage 10          minutes in which nothing is paid, for the memory of Redis
  --json FILE          all figures as JSON, too; - prints them in place of the Markdown

REDIS_SERVER is the path of a Redis server, PG_BIN the directory of PostgreSQL's programs, CAPACITY_CORE_HOUR_USD (0.04) what a
core costs an hour.`;

/**
 * US$ for an hour of one virtual core with 4 GB of memory: Amazon's m7g.large, two such cores, cost 0.0816 on demand in us-east-1 in
 * June 2026.
 */
const CORE_HOUR_USD = 0.04;

/** Enough for two cores, which pay some 2,000 a second each. A queue that is empty too soon ends the measurement sooner. */
const PAYMENTS_PER_CORE_SECOND = 2_500;

/** The simulated gateway handles 800 payments at once. More would wait there. */
const MAX_CONCURRENCY = 800;

/** Some 25 GB in Redis. */
const MAX_PAYMENTS = 50_000_000;

export interface CapacityOptions {
  readonly apiNodes: readonly number[];
  readonly workers: readonly number[];
  readonly shards: readonly number[];
  readonly concurrency: number;
  readonly seconds: number;
  readonly payments: number;
  readonly latencyMs: number;
  readonly outageMinutes: number;
  readonly coreHourUsd: number;
  /** A file, or `-` for the standard output. */
  readonly json: string | undefined;
}

/** An option that cannot be used. Its message is for the person who typed it. */
export class OptionError extends Error {}

/**
 * @returns undefined when help was asked for
 * @throws OptionError, or the error of `parseArgs` for an unknown option
 */
export function readOptions(args: readonly string[], env: NodeJS.ProcessEnv): CapacityOptions | undefined {
  const { values } = parseArgs({
    args: [...args],
    options: {
      'api-nodes': { type: 'string', default: '1,2,4' },
      workers: { type: 'string', default: '1,2,4' },
      shards: { type: 'string', default: '1,2,4' },
      concurrency: { type: 'string', default: '256' },
      seconds: { type: 'string', default: '8' },
      payments: { type: 'string' },
      latency: { type: 'string', default: '50' },
      outage: { type: 'string', default: '10' },
      json: { type: 'string' },
      help: { type: 'boolean', short: 'h', default: false },
    },
  });
  if (values.help) return undefined;
  const seconds = integerOf('--seconds', values.seconds, 600);
  const workers = listOf('--workers', values.workers, 64);
  const concurrency = integerOf('--concurrency', values.concurrency, MAX_CONCURRENCY);
  // Below that the queue would be empty while the last worker starts.
  const least = 4 * Math.max(...workers) * concurrency;
  const enough = Math.max(least, Math.ceil(seconds * PAYMENTS_PER_CORE_SECOND * availableParallelism()));
  const payments = values.payments === undefined ? enough : integerOf('--payments', values.payments, MAX_PAYMENTS);
  if (payments < least) {
    throw new OptionError(`--payments must be at least ${least}, four times what the workers have in flight`);
  }
  return {
    apiNodes: listOf('--api-nodes', values['api-nodes'], 64),
    workers,
    shards: listOf('--shards', values.shards, 64),
    concurrency,
    seconds,
    payments,
    latencyMs: integerOf('--latency', values.latency, 3_600_000),
    outageMinutes: integerOf('--outage', values.outage, 10_080),
    coreHourUsd: usdOf('CAPACITY_CORE_HOUR_USD', env['CAPACITY_CORE_HOUR_USD'] || String(CORE_HOUR_USD)),
    json: values.json,
  };
}

function integerOf(name: string, text: string, max: number): number {
  if (!/^\d{1,9}$/.test(text) || Number(text) < 1 || Number(text) > max) {
    throw new OptionError(`${name} must be an integer from 1 to ${max} (got "${text}")`);
  }
  return Number(text);
}

function listOf(name: string, text: string, max: number): number[] {
  return [...new Set(text.split(',').map((part) => integerOf(`each number of ${name}`, part.trim(), max)))];
}

function usdOf(name: string, text: string): number {
  if (!/^(\d+(\.\d+)?|\.\d+)$/.test(text)) {
    throw new OptionError(`${name} must be a number such as 0.04 (got "${text}")`);
  }
  return Number(text);
}
