import { LedgerUnavailableError, QueueUnavailableError } from '../errors.ts';
import type { ActionRow, OperatorActions } from '../ledger/operator-actions.ts';
import { describeError } from '../process/describe-error.ts';
import type { Logger } from '../process/logger.ts';
import { createOutageLog } from '../process/outage-log.ts';
import type { ActionOutbox } from '../queue/action-outbox.ts';

/**
 * Rows of the trail that wait in Redis for PostgreSQL.
 *
 * A row leaves Redis only after PostgreSQL has it, and PostgreSQL knows it by its key. So a process that ends in between, and
 * several that move the same rows at once, lose none and write none twice. A row may be there twice, as `started` and with its
 * end: in PostgreSQL the end wins, in whichever order they come.
 */
export interface LateRows {
  /** @throws QueueUnavailableError after which the row may have been added */
  add(row: ActionRow): Promise<void>;
  /** Moves all of them, the oldest first. @throws LedgerUnavailableError, QueueUnavailableError: the rest is still there */
  move(): Promise<void>;
}

/** Rows that are read at once. */
const PAGE = 100;

export function createLateRows({
  outbox,
  actions,
  logger,
}: {
  outbox: ActionOutbox;
  actions: Pick<OperatorActions, 'put'>;
  logger: Logger;
}): LateRows {
  const faults = createOutageLog(logger, {
    message: 'late rows of the trail stay in Redis: PostgreSQL does not take them',
    endMessage: 'no late row of the trail is left that PostgreSQL does not take',
    level: 'error',
  });

  /** Whether PostgreSQL has the row now. False for one that it never takes: that must not hold up the others. */
  async function isMoved(text: string): Promise<boolean> {
    try {
      await actions.put(fromText(text));
    } catch (error) {
      if (error instanceof LedgerUnavailableError) throw error;
      faults.failed({ code: 'row_refused', detail: describeError(error) }, { row: text });
      return false;
    }
    await outbox.remove(text);
    return true;
  }

  return {
    add: (row) => outbox.add(JSON.stringify(row), row.at),
    async move() {
      let left = 0;
      for (;;) {
        const texts = await outbox.read(left, PAGE);
        if (texts.length === 0) break;
        for (const text of texts) if (!(await isMoved(text))) left += 1;
      }
      if (left === 0) faults.ended();
    },
  };
}

/** @throws an Error for a text that is no row */
function fromText(text: string): ActionRow {
  const row = JSON.parse(text);
  return { ...row, at: new Date(row.at), endedAt: row.endedAt && new Date(row.endedAt) };
}

/** How long a late row waits at most once PostgreSQL is back. */
const INTERVAL_MS = 5_000;

/** Moves late rows every five seconds. Every API node does: one is enough, and any may be the one that is left. */
export function startMovingLateRows({ lateRows, logger }: { lateRows: Pick<LateRows, 'move'>; logger: Logger }): {
  /** Does not wait for a move under way: it can end anywhere. */
  close(): void;
} {
  const outage = createOutageLog(logger, {
    message: "rows of the operators' trail wait in Redis",
    endMessage: "rows of the operators' trail are in PostgreSQL",
  });
  let isMoving = false;
  let isClosed = false;

  /** Never rejects. */
  async function move(): Promise<void> {
    if (isMoving) return;
    isMoving = true;
    try {
      await lateRows.move();
      outage.ended();
    } catch (error) {
      // redis.ts and server-check.ts log what is wrong with Redis.
      if (isClosed || error instanceof QueueUnavailableError) return;
      const code = error instanceof LedgerUnavailableError ? error.code : 'unexpected';
      outage.failed({ code, detail: describeError(error) });
    } finally {
      isMoving = false;
    }
  }

  const timer = setInterval(() => void move(), INTERVAL_MS);
  return {
    close() {
      isClosed = true;
      clearInterval(timer);
    },
  };
}
