import type { NewAction } from '../ledger/operator-actions.ts';

/** What an operator wants to change. */
export type Act = Pick<NewAction, 'who' | 'action' | 'target' | 'reason'>;

/** What came of it, for the row. */
export interface Outcome<T> {
  readonly result: T;
  /** `refused` when a condition did not hold. */
  readonly state: 'done' | 'refused';
  /** What was known before, and what was changed. */
  readonly outcome?: Readonly<Record<string, unknown>>;
}

/** Every change of state by an operator goes through here: it leaves a row, or it does not happen. */
export interface Trail {
  /**
   * Writes the row, acts, and writes what came of it. When that last write fails, it is repeated from Redis later.
   * @throws LedgerUnavailableError before anything was changed; what `perform` throws, which the row then has as `failed`
   */
  run<T>(act: Act, perform: () => Promise<Outcome<T>>): Promise<T>;
  /**
   * For what must work while PostgreSQL is down (pause, stop of a gateway): acts at once. The row is written now, or later: it
   * waits in Redis, and is there before the change.
   */
  runAtOnce<T>(act: Act, perform: () => Promise<Outcome<T>>): Promise<T>;
}
