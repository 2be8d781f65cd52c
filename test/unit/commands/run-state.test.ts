import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect } from 'chai';
import { findRun, NoServicesError, type RunState, settingsOrRun } from '../../../src/commands/run-state.ts';
import { atTestEnd } from '../../support/cleanup.ts';

/** A directory with the state of a `make run`, and whether that still listens. */
async function stage({ isRunning, ...state }: Partial<RunState> & { isRunning: boolean }): Promise<string> {
  const dir = mkdtempSync(join(tmpdir(), 'payrelay-state-'));
  atTestEnd(() => rmSync(dir, { recursive: true }));
  const control = join(dir, 'control');
  if (isRunning) {
    const server = createServer((socket) => socket.end()).listen(control);
    atTestEnd(() => server.close());
    await once(server, 'listening');
  }
  mkdirSync(join(dir, '.run'));
  const whole: RunState = { pids: {}, apiUrl: '', control, settings: {}, withheld: [], ...state };
  writeFileSync(join(dir, '.run/state.json'), JSON.stringify(whole));
  return dir;
}

async function faultOf(promise: Promise<unknown>): Promise<unknown> {
  return promise.then(
    () => undefined,
    (error: unknown) => error,
  );
}

describe('the state of make run', () => {
  it('gives its settings to a command that has none', async () => {
    const dir = await stage({ isRunning: true, settings: { REDIS_URL: 'redis://r', LOG_LEVEL: 'info' } });
    expect(await settingsOrRun({ LOG_LEVEL: 'debug', DB_SSL: '' }, dir)).to.deep.equal({
      REDIS_URL: 'redis://r',
      LOG_LEVEL: 'debug',
    });
  });

  it('is not used by a command whose environment names a server', async () => {
    const dir = await stage({ isRunning: true, settings: { REDIS_URL: 'redis://r' } });
    const env = { DATABASE_URL: 'postgres://p' };
    expect(await settingsOrRun(env, dir)).to.equal(env);
  });

  it('counts as missing when nothing listens any more, when it is cut, and when there is no file', async () => {
    const stale = await stage({ isRunning: false });
    expect(await findRun(stale)).to.equal(undefined);
    const cut = await stage({ isRunning: true });
    writeFileSync(join(cut, '.run/state.json'), '{"pids":');
    expect(await findRun(cut)).to.equal(undefined);
    expect(await findRun(tmpdir())).to.equal(undefined);
    expect(await faultOf(settingsOrRun({}, stale)))
      .to.be.instanceOf(NoServicesError)
      .and.have.property('message')
      .that.includes('No `make run` is running here');
  });

  it('names the settings that it has not for their secrets', async () => {
    const dir = await stage({ isRunning: true, withheld: ['REDIS_PASSWORD'] });
    expect(await faultOf(settingsOrRun({}, dir)))
      .to.be.instanceOf(NoServicesError)
      .and.have.property('message')
      .that.includes('REDIS_PASSWORD');
    expect(await settingsOrRun({ REDIS_PASSWORD: 'x' }, dir)).to.deep.equal({ REDIS_PASSWORD: 'x' });
  });
});
