import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import { temporaryDirectory } from '../../dev/local/processes.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { NO_DATABASE, NO_REDIS } from '../support/queue.ts';
import { eventually, type TestEnv } from '../support/relay.ts';

const MAIN = fileURLToPath(new URL('../../src/main.ts', import.meta.url));

/** As in a container: Linux drops every signal to PID 1 for which PID 1 has no handler. */
async function startAsPidOne(env: TestEnv) {
  const own = process.getuid?.() === 0 ? [] : ['--user', '--map-root-user'];
  const unshare = spawn('unshare', [...own, '--pid', '--fork', '--kill-child', process.execPath, MAIN], {
    env: {
      PATH: process.env['PATH'],
      HOST: '127.0.0.1',
      PORT: String(await freePort()),
      ...NO_REDIS,
      ...NO_DATABASE,
      ...env,
    },
    stdio: 'ignore',
  });
  atTestEnd(() => unshare.kill('SIGKILL'));
  const exited = once(unshare, 'exit') as Promise<[code: number | null, signal: string | null]>;
  const pid = await eventually(() => {
    const child = readFileSync(`/proc/${unshare.pid}/task/${unshare.pid}/children`, 'utf8').trim();
    return child !== '' && readFileSync(`/proc/${child}/cmdline`, 'utf8').startsWith(process.execPath) && Number(child);
  });
  return { pid, exited };
}

describe('a process that is PID 1', () => {
  it('ends with code 0 at a SIGTERM that comes 50, 200 or 500 ms after its start', async () => {
    // As in the image, the entry is compiled before the first start.
    const env = { NODE_COMPILE_CACHE: temporaryDirectory('compile-cache') };
    const { exited: compiled } = await startAsPidOne({ ...env, APP_ROLE: 'none' });
    expect(await compiled).to.deep.equal([1, null]);

    for (const ms of [50, 200, 500]) {
      const { pid, exited } = await startAsPidOne(env);
      await sleep(ms);
      process.kill(pid, 'SIGTERM');
      const end = await Promise.race([exited, sleep(5_000, 'ignored')]);
      expect(end, `after ${ms} ms`).to.deep.equal([0, null]);
    }
  });
});
