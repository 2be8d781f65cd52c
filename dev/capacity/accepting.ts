import { setTimeout as sleep } from 'node:timers/promises';
import { type Row, rowOf } from './row.ts';
import { createRelay, type Ledger, startQueue } from './stand.ts';
import { startUsage } from './usage.ts';

/** For the compilers of V8. */
const WARM_UP_MS = 1_000;

export interface AcceptingRow extends Row {
  readonly apiNodes: number;
  /** Redis' memory for each payment that waits. */
  readonly bytesPerQueued: number;
}

/** What so many API nodes accept at full speed, into an empty queue that no worker reads. */
export async function measureAccepting(
  ledger: Ledger,
  { apiNodes, seconds }: { apiNodes: number; seconds: number },
): Promise<AcceptingRow> {
  const queue = await startQueue(1);
  const relay = await createRelay(queue, ledger, 1);
  const apis = await relay.startApis(apiNodes);
  const emptyBytes = await queue.usedBytes();
  const load = await relay.startLoad(apis);
  const { row, accepted } = await relay.whileUp(async () => {
    await sleep(WARM_UP_MS);
    const endUsage = startUsage({
      api: apis.map(({ pid }) => pid),
      redis: queue.pids,
      load: load.pids,
    });
    const before = await load.countAccepted();
    await sleep(seconds * 1_000);
    return { row: rowOf((await load.countAccepted()) - before, endUsage()), accepted: await load.stop() };
  });
  const bytesPerQueued = ((await queue.usedBytes()) - emptyBytes) / accepted;
  await relay.close();
  await queue.close();
  return { ...row, apiNodes, bytesPerQueued };
}
