import nock from 'nock';

/**
 * For the suite it is called in: sockets are the operating system's. Importing nock (hooks.ts) replaces every socket of
 * the process, and its stand-in connects only when a whole request has been written: half-sent bodies, broken
 * connections and times are not what they are in production.
 */
export function useRealSockets(): void {
  let wasActive = false;
  before(() => {
    wasActive = nock.isActive();
    if (wasActive) nock.restore();
  });
  after(() => {
    if (wasActive) nock.activate();
  });
}
