import { setTimeout as sleep } from 'node:timers/promises';
import nock from 'nock';
import { takePortsOfPart } from '../../dev/local/ports.ts';
import { cleanUp } from './cleanup.ts';
import { countSharedServices, stopSharedServices } from './services.ts';

/** At least as many as mocha has jobs. */
const PARALLEL_PARTS = 4;

/** What was closed leaves the list of active resources some turns later. ioredis gives a silent connection 2 s to close. */
const CLOSED_WITHIN_MS = 5_000;

// Importing nock puts it between every socket and its server; the one test file that wants it there activates it.
nock.restore();

// With `mocha --parallel` several processes run test files, and start servers, side by side.
const worker = process.env['MOCHA_WORKER_ID'];
if (worker !== undefined) takePortsOfPart(Number(worker) % PARALLEL_PARTS, PARALLEL_PARTS);

/** nock never closes the handles of the sockets that it takes over. They do not keep the process alive. */
let socketsOfNock = 0;

/** By kind: what earlier files of this process have left, and were reported for. */
const reported = new Map<string, number>();

/** Loaded by mocha before every run (.mocharc.json). */
export const mochaHooks = {
  /** Undoes what the test registered, and fails it when it leaves a server listening or an interceptor unused. */
  async afterEach(): Promise<void> {
    await cleanUp();
    const unused = nock.isActive() ? nock.pendingMocks() : [];
    nock.cleanAll();
    if (unused.length > 0) throw new Error(`the test left interceptors unused: ${unused.join(', ')}`);
    await expectClosed({ TCPServerWrap: 0 });
    if (nock.isActive()) socketsOfNock = countActive('TCPSocketWrap');
  },

  /**
   * Fails the run when something is left that keeps the process alive. With `--parallel` mocha calls this after every file;
   * there the shared servers stay for the next file and end with their process.
   */
  async afterAll(this: Mocha.Context): Promise<void> {
    // Hundreds of databases are removed with their server; a busy disk takes its time.
    this.timeout(60_000);
    if (worker === undefined) await stopSharedServices();
    await expectClosed({
      TCPServerWrap: 0,
      TCPSocketWrap: socketsOfNock,
      ProcessWrap: countSharedServices(),
      // The time-out of this hook.
      Timeout: 1,
    });
  },
};

/** @throws an Error that names the resources of these kinds beyond so many. */
async function expectClosed(allowed: Readonly<Record<string, number>>): Promise<void> {
  const deadline = performance.now() + CLOSED_WITHIN_MS;
  let left = resourcesBeyond(allowed);
  while (left.length > 0 && performance.now() < deadline) {
    await sleep(1);
    left = resourcesBeyond(allowed);
  }
  if (left.length === 0) return;
  for (const kind of Object.keys(allowed)) reported.set(kind, Math.max(0, countActive(kind) - allowed[kind]!));
  throw new Error(`left open after the test: ${left.join(', ')}`);
}

function resourcesBeyond(allowed: Readonly<Record<string, number>>): string[] {
  return Object.entries(allowed)
    .map(([kind, count]) => [kind, countActive(kind) - count - (reported.get(kind) ?? 0)] as const)
    .filter(([, beyond]) => beyond > 0)
    .map(([kind, beyond]) => `${beyond} ${kind}`);
}

function countActive(kind: string): number {
  return process.getActiveResourcesInfo().filter((each) => each === kind).length;
}
