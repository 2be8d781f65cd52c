import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { expect } from 'chai';
import { type ClientContext, Redis, type Result } from 'ioredis';
import { temporaryDirectory } from '../../dev/local/processes.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { sharedRedis } from '../support/services.ts';

/** Few enough that V8 does not collect the old generation by itself meanwhile. */
const COMMANDS = 500;
const TEXT_BYTES = 4_096;
/** A command that was left in the old generation keeps its text, and its reply. */
const KEPT = TEXT_BYTES / 4;

declare module 'ioredis' {
  interface RedisCommander<Context extends ClientContext = { type: 'default' }> {
    sameText(text: string): Result<string, Context>;
  }
}

type Send = (redis: Redis, text: string) => Promise<string>;
const builtIn: Send = (redis, text) => redis.echo(text);
const byScript: Send = (redis, text) => redis.sameText(text);

/** Size of V8's old generation, garbage included, in bytes. */
function oldGeneration(): number {
  return getHeapSpaceStatistics().find(({ space_name }) => space_name === 'old_space')!.space_used_size;
}

/** Bytes that each command leaves in the old generation after it has its reply. */
async function bytesLeft(Client: typeof Redis, send: Send): Promise<number> {
  const redis = new Client((await sharedRedis()).url);
  atTestEnd(() => redis.disconnect());
  redis.defineCommand('sameText', { numberOfKeys: 0, lua: 'return ARGV[1]' });
  const sendAll = async () => {
    for (let n = 0; n < COMMANDS; n += 1) {
      const text = String(n).padEnd(TEXT_BYTES);
      expect(await send(redis, text)).to.equal(text);
    }
  };
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc');
  // The first commands compile code, which stays in the old generation.
  await sendAll();
  collect();
  const before = oldGeneration();
  await sendAll();
  // A quick collection leaves the old generation alone. What survives two of them is moved there.
  for (let n = 0; n < 2; n += 1) collect({ type: 'minor' });
  return (oldGeneration() - before) / COMMANDS;
}

/** A copy of the installed ioredis with the patch of the Rinha image, which is put in place there by the same program. */
async function patchedRedis(): Promise<typeof Redis> {
  const project = process.cwd();
  const dir = temporaryDirectory('ioredis');
  const modules = join(dir, 'node_modules');
  cpSync('node_modules/ioredis', join(modules, 'ioredis'), { recursive: true });
  const { dependencies } = JSON.parse(readFileSync('node_modules/ioredis/package.json', 'utf8'));
  for (const name of Object.keys(dependencies)) {
    mkdirSync(dirname(join(modules, name)), { recursive: true });
    symlinkSync(join(project, 'node_modules', name), join(modules, name));
  }
  writeFileSync(join(dir, 'package.json'), JSON.stringify({ dependencies: { ioredis: '*' } }));
  cpSync('rinha/patches', join(dir, 'patches'), { recursive: true });
  const patchPackage = join(project, 'node_modules/patch-package/index.js');
  await promisify(execFile)(process.execPath, [patchPackage, '--error-on-fail'], { cwd: dir });
  return createRequire(join(dir, 'package.json'))('ioredis').Redis;
}

describe('the patch of ioredis', () => {
  it('leaves nothing of a built-in command to the old generation', async () => {
    expect(await bytesLeft(await patchedRedis(), builtIn)).to.be.below(KEPT);
  });

  it('leaves nothing of a script to the old generation', async () => {
    expect(await bytesLeft(await patchedRedis(), byScript)).to.be.below(KEPT);
  });

  // When these fail, ioredis or V8 has changed: the patch is no longer needed.
  it('is needed for built-in commands', async () => {
    expect(await bytesLeft(Redis, builtIn)).to.be.above(KEPT);
  });

  it('is needed for scripts', async () => {
    expect(await bytesLeft(Redis, byScript)).to.be.above(KEPT);
  });
});
