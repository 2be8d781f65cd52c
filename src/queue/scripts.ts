import { readFileSync } from 'node:fs';
import type { Cluster, Redis } from 'ioredis';

/** The text of a script in `scripts/`. Call it at the start, so that a missing file is noticed there. */
export function readScript(name: string): string {
  return readFileSync(new URL(`./scripts/${name}.lua`, import.meta.url), 'utf8');
}

/** A script as a function of its keys and arguments. */
export type Command<Reply> = (...keysAndArguments: (string | number)[]) => Promise<Reply>;

/**
 * A script as a function of its keys and arguments. Redis gets the text once on each connection, then only its hash.
 * @param keyCount how many of the arguments are keys
 */
export function defineScript<Reply>(
  redis: Redis | Cluster,
  name: string,
  keyCount: number,
  lua = readScript(name),
): Command<Reply> {
  redis.defineCommand(name, { numberOfKeys: keyCount, lua });
  // ioredis adds the command to the connection under its name, which its types do not know.
  const command = (redis as unknown as Record<string, Command<Reply>>)[name]!;
  return command.bind(redis);
}
