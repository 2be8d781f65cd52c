import { type Row, rowOf } from './row.ts';
import { createRelay, type Ledger, type Queue, startQueue, untilReached } from './stand.ts';
import { startUsage } from './usage.ts';

/** For the start of all workers and the compilers of V8. */
const WARM_UP_MS = 2_000;

/** At most this share of the payments is paid in that time, so that a short measurement has something left. */
const WARM_UP_SHARE = 0.2;

/** How long filling the queue may take. A slow machine, which queues less in this time, also pays less. */
const FILL_MS = 20_000;

export interface PayingRow extends Row {
  readonly workers: number;
  readonly shards: number;
  /** PostgreSQL's disk for each payment, with its indexes. */
  readonly bytesPerRecorded: number;
  /** Whether the queue was empty before the time was over. */
  readonly endedEarly: boolean;
}

export interface PayingOptions {
  readonly workers: number;
  readonly shards: number;
  readonly concurrency: number;
  readonly payments: number;
  readonly seconds: number;
}

/** What so many workers pay and record at full speed, from a queue that was filled before. */
export async function measurePaying(ledger: Ledger, options: PayingOptions): Promise<PayingRow> {
  const { workers: workerCount, shards, concurrency, seconds } = options;
  await ledger.empty();
  const emptyBytes = await ledger.tableBytes();
  const queue = await startQueue(shards);
  const queued = await fill(queue, ledger, options.payments);
  const relay = await createRelay(queue, ledger, concurrency);
  const { workers, gateways } = await relay.startWorkers(workerCount);
  // Near its end the queue cannot keep every place busy.
  const nearEnd = Math.max(queued * WARM_UP_SHARE, queued - workerCount * concurrency);
  const { row, after } = await relay.whileUp(async () => {
    await untilReached(queued * WARM_UP_SHARE, ledger.countRecorded, WARM_UP_MS);
    const endUsage = startUsage({
      worker: workers.map(({ pid }) => pid),
      redis: queue.pids,
      postgres: [ledger.pid],
      gateway: gateways.map(({ pid }) => pid),
    });
    const before = await ledger.countRecorded();
    const after = await untilReached(nearEnd, ledger.countRecorded, seconds * 1_000);
    return { row: rowOf(after - before, endUsage()), after };
  });
  await relay.close();
  const bytesPerRecorded = ((await ledger.tableBytes()) - emptyBytes) / (await ledger.countRecorded());
  await queue.close();
  return { ...row, workers: workerCount, shards, bytesPerRecorded, endedEarly: after >= nearEnd };
}

/** Queues payments by way of an API node, as clients do. @returns their number */
async function fill(queue: Queue, ledger: Ledger, payments: number): Promise<number> {
  const relay = await createRelay(queue, ledger, 1);
  const load = await relay.startLoad(await relay.startApis(1));
  const accepted = await relay.whileUp(async () => {
    await untilReached(payments, load.countAccepted, FILL_MS);
    return load.stop();
  });
  await relay.close();
  return accepted;
}
