import { createRequire } from 'node:module';
import { getHeapSpaceStatistics } from 'node:v8';
import type { ClientContext, Redis, Result } from 'ioredis';

declare module 'ioredis' {
  interface RedisCommander<Context extends ClientContext = { type: 'default' }> {
    sameText(text: string): Result<string, Context>;
  }
}

/** Few enough that V8 does not collect the old generation by itself meanwhile. */
const COMMANDS = 500;
const TEXT_BYTES = 4_096;

/**
 * Prints the bytes that each command of ioredis leaves in V8's old generation after it has its reply. A process of its own, started
 * with `--expose-gc`, because a heap in which other tests have run decides otherwise.
 * Arguments: a package.json beside whose ioredis to use, the URL of a Redis, `echo` or `sameText`.
 */
async function main([manifest, url, command]: readonly string[]): Promise<void> {
  const client = createRequire(manifest!)('ioredis') as { Redis: new (url: string) => Redis };
  const redis = new client.Redis(url!);
  redis.defineCommand('sameText', { numberOfKeys: 0, lua: 'return ARGV[1]' });
  const sendAll = async () => {
    for (let n = 0; n < COMMANDS; n += 1) {
      const text = String(n).padEnd(TEXT_BYTES);
      const reply = await redis[command as 'echo' | 'sameText'](text);
      if (reply !== text) throw new Error(`the reply is ${reply}`);
    }
  };
  const collect = globalThis.gc!;
  // The first commands compile code, which stays in the old generation.
  await sendAll();
  collect();
  const before = oldGeneration();
  await sendAll();
  // A quick collection leaves the old generation alone. What survives two of them is moved there.
  for (let n = 0; n < 2; n += 1) collect({ type: 'minor' });
  console.log((oldGeneration() - before) / COMMANDS);
  redis.disconnect();
}

/** Garbage included, in bytes. */
function oldGeneration(): number {
  return getHeapSpaceStatistics().find(({ space_name }) => space_name === 'old_space')!.space_used_size;
}

await main(process.argv.slice(2));
