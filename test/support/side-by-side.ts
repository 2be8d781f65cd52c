import { withOwnEnd } from './cleanup.ts';

/** Enough to fill the time in which most scenarios wait, few enough for two cores. */
const SCENARIOS_AT_ONCE = 4;

/** For all scenarios of one call together, on a busy machine. */
const ALL_WITHIN_MS = 180_000;

type Scenarios = Readonly<Record<string, () => Promise<void>>>;

interface Options {
  /** More than the usual number, for scenarios that start no processes. */
  atOnce?: number;
}

/** How a scenario ended; its error when it failed. */
type End = { readonly error?: unknown };

/**
 * A test for each scenario. They run side by side, as they mostly wait: for processes to start, for a fault to last, for
 * the lock of a dead worker to expire. What a scenario opens is closed at its end. A scenario that did not run fails.
 */
export function sideBySide(scenarios: Scenarios, { atOnce = SCENARIOS_AT_ONCE }: Options = {}): void {
  testsOf(scenarios, runBefore(Object.values(scenarios), atOnce));
}

/** As {@link sideBySide}, with a `describe` for each group; the scenarios of all groups run side by side. */
export function groupsSideBySide(
  groups: Readonly<Record<string, Scenarios>>,
  { atOnce = SCENARIOS_AT_ONCE }: Options = {},
): void {
  const ends = runBefore(Object.values(groups).flatMap(Object.values<Scenarios[string]>), atOnce);
  for (const [title, scenarios] of Object.entries(groups)) describe(title, () => testsOf(scenarios, ends));
}

/** Runs the scenarios before the first test. @returns how they ended, filled while they run */
function runBefore(scenarios: readonly Scenarios[string][], atOnce: number): ReadonlyMap<Scenarios[string], End> {
  const ends = new Map<Scenarios[string], End>();
  before(async function () {
    this.timeout(ALL_WITHIN_MS);
    const queue = scenarios.values();
    await Promise.all(
      Array.from({ length: atOnce }, async () => {
        for (const run of queue) {
          ends.set(
            run,
            await withOwnEnd(run).then(
              () => ({}),
              (error: unknown) => ({ error }),
            ),
          );
        }
      }),
    );
  });
  return ends;
}

function testsOf(scenarios: Scenarios, ends: ReadonlyMap<Scenarios[string], End>): void {
  for (const [title, run] of Object.entries(scenarios)) {
    it(title, () => {
      const end = ends.get(run);
      if (end === undefined) throw new Error('the scenario did not run');
      if ('error' in end) throw end.error;
    });
  }
}
