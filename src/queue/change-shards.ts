import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster, Redis } from 'ioredis';
import type { Config } from '../config.ts';
import { ConflictError } from '../errors.ts';
import { type PaymentQueueName, shardsKey } from './bullmq-layout.ts';
import { dropBuried } from './failed-jobs.ts';
import { readShard, type Shard } from './read-shard.ts';
import { defineWrite, writerFor } from './replicated-writer.ts';
import { closerOf, closingMark, countOf, isClosed, noReply } from './shard-count.ts';
import { paymentQueues } from './shards.ts';

/** The shards of a relay, whatever QUEUE_SHARDS says. */
export interface Shards {
  /** @throws QueueUnavailableError */
  read(): Promise<readonly Shard[]>;
  /**
   * Changes their number while processes run. What may go wrong leaves every payment where its workers find it:
   *
   * | step                                              | clients get | after a failure here                                            |
   * |---------------------------------------------------|-------------|-----------------------------------------------------------------|
   * | the home and every old shard get this call's mark | 503         | its marks become the old number, now or by another call         |
   * | the workers drain them until all are empty        | 503         | the same                                                        |
   * | the home gets a mark with the new number          | 503         | old processes are not ready; a call with the new number goes on |
   * | the home and the new shards get the number        | 204         | another call opens those that lack it                           |
   *
   * The call whose mark is at the home decides. So one with the number of now, which opens the shards, ends the call whose mark
   * it replaces: that one fails.
   * @throws QueueUnavailableError; ConflictError when another call is under way or was faster, or the queue is paused
   */
  change(to: number, call: ShardsCall): Promise<void>;
}

export interface ShardsCall {
  /** For the messages that others get meanwhile. */
  readonly who: string;
  /** Called again and again while payments are left. */
  readonly onLeft: (left: LeftInShards) => void;
  /** Ends the wait. */
  readonly signal: AbortSignal;
}

/** `failed`: failed jobs whose row the ledger does not have yet. */
export type LeftInShards = Pick<Shard, 'size' | 'inFlight' | 'failed'>;

const LOOK_EVERY_MS = 500;

/** A write that fails may succeed at once on another connection, after a failover for one. */
const TRIES = 5;
const RETRY_MS = 300;

export function createShards(config: Pick<Config, 'redis' | 'queue'>, redis: Redis | Cluster): Shards {
  const { name, prefix } = config.queue;
  const shardsOf = (count: number) => paymentQueues({ name, prefix, shards: count }).shards;
  const { home } = paymentQueues({ name, prefix, shards: 1 });
  const isHome = (queue: PaymentQueueName) => queue.prefix === home.prefix;

  const written = async (queue: PaymentQueueName) => (await redis.get(shardsKey(queue))) ?? '';
  const look = (queues: readonly PaymentQueueName[]) => Promise.all(queues.map((queue) => readShard(redis, queue)));

  /** Writes `after` over `before`. @returns false when something else is there */
  async function swap(queue: PaymentQueueName, before: string, after: string): Promise<boolean> {
    const writer = writerFor(config, redis, queue);
    const setShards = defineWrite<0 | 1>({ redis, writer }, 'set-shards', 1);
    try {
      for (let tries = 1; ; tries += 1) {
        try {
          return (await setShards(shardsKey(queue), after, before)) === 1;
        } catch (error) {
          if (tries === TRIES) throw error;
          await sleep(RETRY_MS);
        }
      }
    } finally {
      writer?.close();
    }
  }

  async function mustSwap(queue: PaymentQueueName, before: string, after: string): Promise<void> {
    if (!(await swap(queue, before, after))) throw overtaken();
  }

  /**
   * Writes this to the shards, over what they had while `atHome` was at the home. So it replaces no mark of a call that came later.
   * The home itself has its value.
   */
  async function markAll(shards: readonly PaymentQueueName[], mark: string, atHome = mark): Promise<void> {
    const others = shards.filter((shard) => !isHome(shard));
    const before = await Promise.all(others.map(written));
    if ((await written(home)) !== atHome) throw overtaken();
    await each(others, (shard, index) => mustSwap(shard, before[index]!, mark));
  }

  /** @returns whether that changed anything */
  async function dropAll(queues: readonly PaymentQueueName[]): Promise<boolean> {
    const dropped = await Promise.all(queues.map((queue) => dropBuried(redis, queue)));
    return dropped.some((count) => count > 0);
  }

  /** Resolves when every shard has the mark and is empty, each at one moment. */
  async function untilEmpty(queues: readonly PaymentQueueName[], mark: string, { onLeft, signal }: ShardsCall) {
    for (;;) {
      signal.throwIfAborted();
      const shards = await look(queues);
      mustBeTaken(shards);
      if (shards.some((shard) => shard.mark !== mark)) throw overtaken();
      const left = leftIn(shards);
      if (isNothing(left)) return;
      // A post of such an id would inherit what is known of its job, long after that is out of date.
      if (left.size + left.inFlight === 0 && (await dropAll(queues))) continue;
      onLeft(left);
      await sleep(LOOK_EVERY_MS, undefined, { signal }).catch(() => undefined);
    }
  }

  /** A failover may have lost a mark while the home was written, or an operator has paused the queue. */
  async function mustBeEmptyStill(queues: readonly PaymentQueueName[], mark: string): Promise<void> {
    const shards = await look(queues);
    mustBeTaken(shards);
    const isOpen = shards.some((shard) => !isHome(shard.queue) && shard.mark !== mark);
    if (isOpen || !isNothing(leftIn(shards))) throw overtaken();
  }

  /** Replaces the marks of this call, and none of another one. */
  async function undo(mark: string, from: number): Promise<void> {
    await swap(home, mark, String(from));
    // With another number the old shards are not used. While one has our mark, no other call comes to an end.
    if (countOf(await written(home)) !== from) return;
    await each(
      shardsOf(from).filter((shard) => !isHome(shard)),
      (shard) => swap(shard, mark, String(from)),
    );
  }

  async function reopen(before: string, count: number): Promise<void> {
    await mustSwap(home, before, String(count));
    await markAll(shardsOf(count), String(count));
  }

  async function change(before: string, to: number, call: ShardsCall): Promise<void> {
    const from = countOf(before);
    const old = shardsOf(from);
    mustBeTaken(await look(old));
    const command = { id: randomUUID(), sinceMs: Date.now(), who: call.who };
    const mark = closingMark({ count: from, ...command });
    // Not the number itself: what another call has written must not be taken for ours.
    const next = closingMark({ count: to, ...command });
    try {
      await mustSwap(home, before, mark);
      await markAll(old, mark);
      await untilEmpty(old, mark, call);
      await mustSwap(home, mark, next);
      try {
        await mustBeEmptyStill(old, mark);
      } catch (error) {
        if (error instanceof ConflictError) await swap(home, next, mark);
        throw error;
      }
    } catch (error) {
      await undo(mark, from);
      throw error;
    }
    await reopen(next, to);
  }

  async function ask<T>(command: () => Promise<T>, signal?: AbortSignal): Promise<T> {
    try {
      return await command();
    } catch (cause) {
      if (cause instanceof ConflictError || (signal?.aborted && cause === signal.reason)) throw cause;
      throw noReply(cause);
    }
  }

  return {
    read: () => ask(async () => look(shardsOf(countOf(await written(home))))),
    change: (to, call) =>
      ask(async () => {
        const before = await written(home);
        const from = countOf(before);
        if (from === to) return await reopen(before, to);
        if (isClosed(before)) throw underWay(before, from);
        await change(before, to, call);
      }, call.signal),
  };
}

/** A shard that fails does not end the writes of the others: a late one would be after what comes next. @throws the first failure */
async function each<T>(items: readonly T[], act: (item: T, index: number) => Promise<unknown>): Promise<void> {
  const results = await Promise.allSettled(items.map(act));
  const failed = results.find((result) => result.status === 'rejected');
  if (failed) throw failed.reason;
}

function leftIn(shards: readonly Shard[]): LeftInShards {
  const sum = (of: keyof LeftInShards) => shards.reduce((total, shard) => total + shard[of], 0);
  return { size: sum('size'), inFlight: sum('inFlight'), failed: sum('failed') };
}

function isNothing({ size, inFlight, failed }: LeftInShards): boolean {
  return size + inFlight + failed === 0;
}

function mustBeTaken(shards: readonly Shard[]): void {
  if (shards.some(({ isPaused }) => isPaused))
    throw new ConflictError(
      'the queue is paused: nothing would drain it, and the new shards would not be paused. Resume it first',
    );
}

function overtaken(): ConflictError {
  return new ConflictError(
    'the number of shards was not changed: another command or a failover has opened or changed the shards',
  );
}

function underWay(mark: string, count: number): ConflictError {
  return new ConflictError(
    `the number of shards is being changed ${closerOf(mark)}. If that command was killed, npm run shards -- --to ${count} opens the shards`,
  );
}
