import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'chai';
import { type ClientContext, Redis, type Result } from 'ioredis';
import { atTestEnd } from '../support/cleanup.ts';
import { sharedRedis } from '../support/services.ts';

const COMMANDS = 2_000;
const TEXT_BYTES = 4_096;

declare module 'ioredis' {
  interface RedisCommander<Context extends ClientContext = { type: 'default' }> {
    answer(text: string): Result<string, Context>;
  }
}

/** What the old generation of V8's heap holds, garbage included, in bytes. */
function oldGeneration(): number {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc');
  // A quick collection leaves the old generation alone; what survives two is moved there.
  for (let n = 0; n < 2; n += 1) collect({ type: 'minor' });
  return getHeapSpaceStatistics().find(({ space_name }) => space_name === 'old_space')!.space_used_size;
}

describe('commands of ioredis', () => {
  // Without patches/ioredis+5.11.1.patch every one of them waits for a collection of the old generation.
  for (const kind of ['built in', 'by a script'] as const) {
    it(`are gone with a quick collection once they are answered: ${kind}`, async () => {
      const redis = new Redis((await sharedRedis()).url);
      atTestEnd(() => redis.disconnect());
      redis.defineCommand('answer', { numberOfKeys: 0, lua: 'return ARGV[1]' });
      const send = async (n: number) => {
        const text = String(n).padEnd(TEXT_BYTES);
        expect(await (kind === 'built in' ? redis.echo(text) : redis.answer(text))).to.equal(text);
      };
      await send(0);

      const before = oldGeneration();
      for (let n = 1; n <= COMMANDS; n += 1) await send(n);
      expect((oldGeneration() - before) / COMMANDS, 'bytes left of a command').to.be.below(TEXT_BYTES / 4);
    });
  }
});
