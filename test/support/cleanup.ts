import { AsyncLocalStorage } from 'node:async_hooks';

type Undo = () => unknown;

/** Closes what a test has opened, after it, in reverse order, whether it passed or not. */
const pending: Undo[] = [];

/** The same for a part of a test, which ends before the test. */
const ownPending = new AsyncLocalStorage<Undo[]>();

/** Registers what to undo when the test ends, or the part of it that calls this ({@link withOwnEnd}). */
export function atTestEnd(undo: Undo): void {
  (ownPending.getStore() ?? pending).push(undo);
}

/** Runs a part of a test. What the part opens is closed when the part ends, while other parts go on. */
export function withOwnEnd<T>(run: () => Promise<T>): Promise<T> {
  const own: Undo[] = [];
  return ownPending.run(own, async () => {
    try {
      return await run();
    } finally {
      await undoAll(own);
    }
  });
}

export function cleanUp(): Promise<void> {
  return undoAll(pending);
}

async function undoAll(undos: Undo[]): Promise<void> {
  const failures: unknown[] = [];
  for (let undo = undos.pop(); undo; undo = undos.pop()) {
    try {
      await undo();
    } catch (error) {
      failures.push(error);
    }
  }
  // Mocha shows the message of an error, but not the errors inside it.
  if (failures.length === 1) throw failures[0];
  if (failures.length > 0) throw new AggregateError(failures, 'cleaning up failed');
}
