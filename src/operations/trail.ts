import { randomUUID } from 'node:crypto';
import type { ActionRow, ActionState, NewAction, OperatorActions } from '../ledger/operator-actions.ts';
import { within } from '../process/deadline.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import type { LateRows } from './late-rows.ts';

/** What an operator wants to change. */
export type Act = Pick<NewAction, 'who' | 'action' | 'target' | 'reason'>;

/** What came of it, for the row. */
export interface Outcome<T> {
  readonly result: T;
  /** `refused` when a condition did not hold; `stopped` and `failed` when a part was done, which `outcome` has. */
  readonly state: 'done' | 'refused' | 'stopped' | 'failed';
  /** What was known before, and what was changed. */
  readonly outcome?: Readonly<Record<string, unknown>>;
}

/**
 * Every change of state by an operator goes through here: it leaves a row, or it does not happen.
 *
 * A process may end anywhere, and PostgreSQL or Redis may fail anywhere:
 *
 * | ends                            | the change     | the row                                             |
 * |---------------------------------|----------------|-----------------------------------------------------|
 * | before the row                  | is not made    | none                                                |
 * | between the row and the outcome | is made or not | stays `started`, which means that nobody knows      |
 * | after the outcome               | is known       | has it, now or when a node has moved it from Redis  |
 */
export interface Trail {
  /**
   * Writes the row, acts, and writes what came of it. When that last write fails, it is repeated from Redis later.
   * @throws LedgerUnavailableError before anything was changed; what `perform` throws, which the row then has as `failed`
   */
  run<T>(act: Act, perform: () => Promise<Outcome<T>>): Promise<T>;
  /**
   * For what must work while PostgreSQL is down (pause, stop of a gateway): acts at once. The row is written now, or later: it
   * waits in Redis, and is there before the change.
   * @throws QueueUnavailableError before anything was changed; what `perform` throws, as above
   */
  runAtOnce<T>(act: Act, perform: () => Promise<Outcome<T>>): Promise<T>;
}

/** How long an act that needs no PostgreSQL waits for its row there, so that who looks next sees it. */
const MOVE_MS = 1_000;

/** @returns the trail. `close()` resolves when the outcome of every act that has ended is written. */
export function createTrail({
  actions,
  lateRows,
  logger,
}: {
  actions: Pick<OperatorActions, 'put'>;
  lateRows: LateRows;
  logger: Logger;
}): Trail & { close(): Promise<void> } {
  const endings = new Set<Promise<void>>();

  /** Writes the end of an act, in the first way that works. Never rejects, because the change has been made. */
  async function writeEnd(row: ActionRow, ways: readonly ((row: ActionRow) => Promise<void>)[]): Promise<void> {
    const causes: string[] = [];
    for (const write of ways) {
      try {
        return await write(row);
      } catch (error) {
        causes.push(describeError(error));
      }
    }
    logger.error("the outcome of an operator's action is in no store", { ...row, cause: causes.join('; ') });
  }

  async function addAndMove(row: ActionRow): Promise<void> {
    await lateRows.add(row);
    await within(performance.now() + MOVE_MS, lateRows.move()).catch(() => undefined);
  }

  async function carryOut<T>(
    row: ActionRow,
    perform: () => Promise<Outcome<T>>,
    ways: readonly ((row: ActionRow) => Promise<void>)[],
  ): Promise<T> {
    async function end(state: ActionState, outcome: ActionRow['outcome']): Promise<void> {
      const ending = writeEnd({ ...row, state, outcome, endedAt: new Date() }, ways);
      endings.add(ending);
      await ending;
      endings.delete(ending);
    }
    let performed: Outcome<T>;
    try {
      performed = await perform();
    } catch (error) {
      await end('failed', faultOf(error));
      throw error;
    }
    await end(performed.state, performed.outcome);
    return performed.result;
  }

  return {
    async run(act, perform) {
      const row = startedRow(act);
      await actions.put(row);
      return carryOut(row, perform, [actions.put, lateRows.add]);
    },
    async runAtOnce(act, perform) {
      const row = startedRow(act);
      await lateRows.add(row);
      return carryOut(row, perform, [addAndMove, actions.put]);
    },
    async close() {
      await Promise.all(endings);
    },
  };
}

function startedRow(act: Act): ActionRow {
  return { ...act, key: randomUUID(), at: new Date(), state: 'started', outcome: undefined, endedAt: undefined };
}

/** An error as the outcome of an act. */
export function faultOf(error: unknown): Readonly<Record<string, unknown>> {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return { error: code ?? 'unexpected', cause: describeError(error) };
}
