import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { startRedis } from '../../dev/local/redis.ts';
import { printError, runTool } from '../../src/process/run-tool.ts';
import { createEnqueuer } from '../../src/queue/enqueuer.ts';
import { createProducerConnection } from '../../src/queue/redis.ts';

/**
 * `node test/chaos/fsync-window.ts [rounds]`: kills Redis at the one moment in which `appendfsync everysec` loses what it has
 * answered, and compares what was answered with what is there afterwards.
 *
 * Under `everysec` a thread of Redis calls fsync once a second. While it does (`aof_pending_bio_fsync:1`), Redis keeps what it
 * would write to its file in memory, for up to 2 s, and answers all the same. Killed then, it takes that with it. A slow disk
 * makes the moment long, a fast one short: then more rounds are needed. `always` answers after its own fsync.
 *
 * Exits with 1 when `always` has lost a payment, or when no kill of `everysec` has hit the moment: then nothing is shown.
 */
const ROUNDS = Number(process.argv[2] ?? 30);

/** Posts at once. Each batch of the enqueuer holds up to 200 payments. */
const CLIENTS = 400;

/** The moment comes once a second; then there is a disk that is never late. */
const WAIT_MS = 5_000;

/** Bytes of every payload: what is written between two fsyncs is what makes the disk late. */
const PADDING = 'x'.repeat(4_096);

interface Result {
  answered: number;
  lost: number;
  /** Kills that were sent in the moment. Without one (`always` has none) the kill comes at a random time. */
  aimed: number;
}

async function round(appendfsync: 'everysec' | 'always'): Promise<Result> {
  const server = await startRedis({ args: ['--appendfsync', appendfsync] });
  const redis = createProducerConnection({ url: server.url, clusterNodes: [] }) as Redis;
  const watcher = new Redis(server.url, { retryStrategy: null });
  for (const connection of [redis, watcher]) connection.on('error', () => {});
  try {
    const queue = { name: 'payments', prefix: '{fsync}' };
    const enqueuer = createEnqueuer({ redis, queue, maxSize: 1e9, serverCheck: { fault: undefined } });
    while (redis.status !== 'ready') await sleep(5);
    const answered: string[] = [];
    let isOver = false;
    const client = async () => {
      while (!isOver) {
        const id = randomUUID();
        try {
          await enqueuer.enqueue({ id, data: JSON.stringify({ correlationId: id, amount: 1, padding: PADDING }) });
          answered.push(id);
        } catch {
          // Not answered, so not promised.
          return;
        }
      }
    };
    const clients = Array.from({ length: CLIENTS }, client);
    await sleep(300 + Math.random() * 1_000);
    let isAimed = false;
    const giveUpAt = performance.now() + (appendfsync === 'always' ? 500 : WAIT_MS);
    while (!isAimed && performance.now() < giveUpAt) {
      isAimed = (await watcher.info('persistence')).includes('aof_pending_bio_fsync:1');
    }
    await server.kill();
    isOver = true;
    await Promise.all(clients);
    await server.start();
    const after = new Redis(server.url);
    const stored = new Set(await after.lrange('{fsync}:payments:wait', 0, -1));
    after.disconnect();
    return {
      answered: answered.length,
      lost: answered.filter((id) => !stored.has(id)).length,
      aimed: isAimed ? 1 : 0,
    };
  } finally {
    redis.disconnect();
    watcher.disconnect();
    await server.dispose();
  }
}

async function main(): Promise<number> {
  const totals: Record<'everysec' | 'always', Result> = {
    everysec: { answered: 0, lost: 0, aimed: 0 },
    always: { answered: 0, lost: 0, aimed: 0 },
  };
  for (let number = 1; number <= ROUNDS; number += 1) {
    for (const appendfsync of ['everysec', 'always'] as const) {
      const result = await round(appendfsync);
      for (const key of ['answered', 'lost', 'aimed'] as const) totals[appendfsync][key] += result[key];
    }
    const { everysec, always } = totals;
    console.log(
      `round ${number}: everysec lost ${everysec.lost} of ${everysec.answered} (${everysec.aimed} kills in the window), always lost ${always.lost} of ${always.answered}`,
    );
  }
  return totals.always.lost > 0 || totals.everysec.aimed === 0 || totals.everysec.lost === 0 ? 1 : 0;
}

runTool(import.meta, main, { onError: printError });
