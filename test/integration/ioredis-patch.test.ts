import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { temporaryDirectory } from '../../dev/local/processes.ts';
import { sharedRedis } from '../support/services.ts';

/** A command that was left in the old generation keeps its text of 4 kB, and its reply. */
const KEPT = 1_024;

const INSTALLED = join(process.cwd(), 'package.json');

/** Bytes that each command leaves in the old generation after it has its reply. */
async function bytesLeft(manifest: string, command: 'echo' | 'sameText'): Promise<number> {
  const script = 'test/support/ioredis-bytes-left.ts';
  const args = ['--expose-gc', script, manifest, (await sharedRedis()).url, command];
  return Number((await promisify(execFile)(process.execPath, args)).stdout);
}

/** A copy of the installed ioredis with the patch of the Rinha image, which is put in place there by the same program. Its package.json. */
async function patchedRedis(): Promise<string> {
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
  return join(dir, 'package.json');
}

describe('the patch of ioredis', () => {
  it('leaves nothing of a built-in command to the old generation', async () => {
    expect(await bytesLeft(await patchedRedis(), 'echo')).to.be.below(KEPT);
  });

  it('leaves nothing of a script to the old generation', async () => {
    expect(await bytesLeft(await patchedRedis(), 'sameText')).to.be.below(KEPT);
  });

  // When these fail, ioredis or V8 has changed: the patch is no longer needed.
  it('is needed for built-in commands', async () => {
    expect(await bytesLeft(INSTALLED, 'echo')).to.be.above(KEPT);
  });

  it('is needed for scripts', async () => {
    expect(await bytesLeft(INSTALLED, 'sameText')).to.be.above(KEPT);
  });
});
