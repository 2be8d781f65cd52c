import { setTimeout as sleep } from 'node:timers/promises';
import { Redis } from 'ioredis';

/** How long a server may take for a reply. After that the command fails. */
const COMMAND_TIMEOUT_MS = 1_000;

/** How long a change may take on a busy machine. */
const PATIENCE_MS = 60_000;

/** One command over a connection of its own: the server may be killed or hang at any time. @throws when it does not respond */
export async function redisCommand(
  { port, password }: { port: number; password?: string },
  command: string,
  ...args: readonly (string | number)[]
): Promise<unknown> {
  const redis = new Redis({
    port,
    host: '127.0.0.1',
    ...(password !== undefined && { password }),
    lazyConnect: true,
    retryStrategy: null,
    commandTimeout: COMMAND_TIMEOUT_MS,
    connectTimeout: COMMAND_TIMEOUT_MS,
    // A replica is not `ready` before it has the data of its primary.
    enableReadyCheck: false,
  });
  redis.on('error', () => {});
  try {
    return await redis.call(command, ...args);
  } finally {
    redis.disconnect();
  }
}

/** Resolves when it is true. @throws an Error when that takes too long, with the last error of the look if there was one */
export async function until(what: string, look: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + PATIENCE_MS;
  let cause: unknown;
  while (performance.now() < deadline) {
    try {
      if (await look()) return;
      cause = undefined;
    } catch (error) {
      cause = error;
    }
    await sleep(50);
  }
  throw new Error(`waited ${PATIENCE_MS} ms in vain: ${what}`, { cause });
}
