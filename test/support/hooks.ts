import { setImmediate } from 'node:timers/promises';
import nock from 'nock';
import { cleanUp } from './cleanup.ts';
import { stopSharedServices } from './services.ts';

// Importing nock puts it between every socket and its server; the one test file that wants it there activates it.
nock.restore();

/** Loaded by mocha before every run (.mocharc.json). */
export const mochaHooks = {
  /** Undoes what the test registered, and fails it when it leaves a server listening or an interceptor unused. */
  async afterEach(): Promise<void> {
    await cleanUp();
    const unused = nock.isActive() ? nock.pendingMocks() : [];
    nock.cleanAll();
    // A closed server leaves the list only some turns later.
    for (let turn = 0; turn < 5 && countServers() > 0; turn += 1) await setImmediate();
    const listening = countServers();
    if (unused.length > 0) throw new Error(`the test left interceptors unused: ${unused.join(', ')}`);
    if (listening > 0) throw new Error(`the test left ${listening} server(s) listening`);
  },
  async afterAll(this: Mocha.Context): Promise<void> {
    // Hundreds of databases are removed with their server; a busy disk takes its time.
    this.timeout(60_000);
    await stopSharedServices();
  },
};

function countServers(): number {
  return process.getActiveResourcesInfo().filter((resource) => resource === 'TCPServerWrap').length;
}
