import { setImmediate } from 'node:timers/promises';
import nock from 'nock';
import { takePortsOfPart } from '../../dev/local/ports.ts';
import { cleanUp } from './cleanup.ts';
import { stopSharedServices } from './services.ts';

/** At least as many as mocha has jobs. */
const PARALLEL_PARTS = 4;

// Importing nock puts it between every socket and its server; the one test file that wants it there activates it.
nock.restore();

// With `mocha --parallel` several processes run test files, and start servers, side by side.
const worker = process.env['MOCHA_WORKER_ID'];
if (worker !== undefined) takePortsOfPart(Number(worker) % PARALLEL_PARTS, PARALLEL_PARTS);

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
    // There mocha calls this after every file. Its processes keep their servers, which end with them.
    if (worker !== undefined) return;
    // Hundreds of databases are removed with their server; a busy disk takes its time.
    this.timeout(60_000);
    await stopSharedServices();
  },
};

function countServers(): number {
  return process.getActiveResourcesInfo().filter((resource) => resource === 'TCPServerWrap').length;
}
