/** What a test has opened, closed after it in reverse order, whether it passed or not. */
const pending: (() => unknown)[] = [];

/** Registers something to be undone when the test is over. */
export function atTestEnd(undo: () => unknown): void {
  pending.push(undo);
}

export async function cleanUp(): Promise<void> {
  const failures: unknown[] = [];
  for (let undo = pending.pop(); undo; undo = pending.pop()) {
    try {
      await undo();
    } catch (error) {
      failures.push(error);
    }
  }
  if (failures.length > 0) throw new AggregateError(failures, 'cleaning up failed');
}
