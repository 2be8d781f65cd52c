import nock from 'nock';
import { cleanUp } from './cleanup.ts';
import { stopSharedServices } from './services.ts';

/** Loaded by mocha before every run (.mocharc.json). */
export const mochaHooks = {
  /** Undoes what the test registered, and fails it when it leaves a server listening or an interceptor unused. */
  async afterEach(): Promise<void> {
    await cleanUp();
    const unused = nock.isActive() ? nock.pendingMocks() : [];
    nock.cleanAll();
    const listening = process.getActiveResourcesInfo().filter((resource) => resource === 'TCPServerWrap');
    if (unused.length > 0) throw new Error(`the test left interceptors unused: ${unused.join(', ')}`);
    if (listening.length > 0) throw new Error(`the test left ${listening.length} server(s) listening`);
  },
  async afterAll(): Promise<void> {
    await stopSharedServices();
  },
};
