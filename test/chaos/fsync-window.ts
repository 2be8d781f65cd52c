import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';
import { startRedis } from '../../dev/local/redis.ts';
import { printError, runTool } from '../../src/process/run-tool.ts';
import { createEnqueuer } from '../../src/queue/enqueuer.ts';
import { createProducerConnection } from '../../src/queue/redis.ts';

/**
 * `node test/chaos/fsync-window.ts [rounds]`: kills Redis in the one window in which `appendfsync everysec` loses writes that
 * it has confirmed, and compares the confirmed payments with the stored ones.
 *
 * Under `everysec` a thread of Redis calls fsync once a second. Meanwhile (`aof_pending_bio_fsync:1`) Redis keeps new writes in
 * memory, for up to 2 s, and confirms them all the same. A kill in that window loses them. A slow disk makes the window long,
 * a fast one short: then it takes more rounds. `always` confirms after its own fsync.
 *
 * Exits with 1 when `always` has lost a payment, or when no kill of `everysec` has lost one: then the run shows nothing.
 */
const ROUNDS = Number(process.argv[2] ?? 30);

/** Posts at once. Each batch of the enqueuer holds up to 200 payments. */
const CLIENTS = 400;

/** The window comes once a second. When none comes within this time, the disk is too fast for this test. */
const WAIT_MS = 5_000;

/** Makes every payload large: many bytes between two fsyncs make the disk slow. */
const PADDING = 'x'.repeat(4_096);

interface Result {
  confirmed: number;
  lost: number;
  /** Kills within the window. `always` has no window, so its kills come at random times. */
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
    const confirmed: string[] = [];
    let isOver = false;
    const client = async () => {
      while (!isOver) {
        const id = randomUUID();
        try {
          await enqueuer.enqueue({ id, data: JSON.stringify({ correlationId: id, amount: 1, padding: PADDING }) });
          confirmed.push(id);
        } catch {
          // Not confirmed, so it may be lost.
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
      confirmed: confirmed.length,
      lost: confirmed.filter((id) => !stored.has(id)).length,
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
    everysec: { confirmed: 0, lost: 0, aimed: 0 },
    always: { confirmed: 0, lost: 0, aimed: 0 },
  };
  for (let number = 1; number <= ROUNDS; number += 1) {
    for (const appendfsync of ['everysec', 'always'] as const) {
      const result = await round(appendfsync);
      for (const key of ['confirmed', 'lost', 'aimed'] as const) totals[appendfsync][key] += result[key];
    }
    const { everysec, always } = totals;
    console.log(
      `round ${number}: everysec lost ${everysec.lost} of ${everysec.confirmed} (${everysec.aimed} kills in the window), always lost ${always.lost} of ${always.confirmed}`,
    );
  }
  return totals.always.lost > 0 || totals.everysec.aimed === 0 || totals.everysec.lost === 0 ? 1 : 0;
}

runTool(import.meta, main, { onError: printError });
