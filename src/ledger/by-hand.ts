import type { Knex } from 'knex';
import type { GatewayName } from '../payment.ts';
import { confirmVisible } from './confirm-visible.ts';
import { inTransaction, query, type SessionLimits } from './db.ts';
import { fromGatewayColumn, type GatewayColumn, toGatewayColumn } from './gateway-column.ts';
import type { PaidPayment } from './ledger.ts';

/** What an operator changes in the ledger for one payment. */
export interface LedgerByHand {
  /**
   * Records a payment, and closes its dead letters as `recorded`, in one transaction. A row that is there already stays as it is.
   * @returns the row of the payment, after the commit
   * @throws LedgerUnavailableError after which it may have been recorded
   */
  record(payment: PaidPayment, by: string): Promise<PaidPayment>;
  /**
   * The dead letters of this id that tie it to a gateway, the latest last: that one counts.
   * @throws LedgerUnavailableError
   */
  ties(correlationId: string): Promise<readonly Tie[]>;
  /**
   * Unties an id from a gateway. Runs `beforeCommit` in the transaction; an error of it leaves the rows as they are and is
   * rethrown. While it runs, other statements see the old rows.
   * @throws LedgerUnavailableError. After a failed COMMIT the rows may have changed.
   */
  untie<T>(correlationId: string, gateway: GatewayName, beforeCommit: () => Promise<T>): Promise<T>;
}

export interface Tie {
  readonly gateway: GatewayName;
  /** How long ago the payment died, in ms of PostgreSQL's clock. */
  readonly ageMs: number;
}

/** As the service's statements: one row or a few, found by an index. */
const LIMITS: SessionLimits = { statementTimeoutMs: 1_800, lockTimeoutMs: 1_500 };

interface PaymentRow {
  gateway: GatewayColumn;
  cents: string;
  requested_at: Date;
}

export function createLedgerByHand(db: Knex): LedgerByHand {
  return {
    async record({ correlationId, gateway, amountCents, requestedAt }, by) {
      const recorded = await inTransaction(db, LIMITS, async (run) => {
        // In the order of LOCK_LEDGER: payments first.
        await run('LOCK TABLE payments IN ROW EXCLUSIVE MODE');
        const [existing] = await run<{ id: string }>('SELECT 1 FROM recorded_payments WHERE correlation_id = ?::uuid', [
          correlationId,
        ]);
        // Before the trigger closes them as paid. Not for a row that is there: those it has closed, or refuses to be.
        if (existing === undefined) {
          await run(
            `UPDATE dead_letters SET state = 'recorded', state_at = clock_timestamp(), state_by = ?
             WHERE id IN (SELECT id FROM dead_letters WHERE correlation_id = ?::uuid AND state IN ('open', 'queued_again')
               ORDER BY id FOR UPDATE)`,
            [by, correlationId],
          );
        }
        await run(
          `INSERT INTO payments (correlation_id, gateway, amount_cents, requested_at)
           VALUES (?::uuid, ?, ?, ?::timestamptz) ON CONFLICT (correlation_id) DO NOTHING`,
          [correlationId, toGatewayColumn(gateway), amountCents, requestedAt.toISOString()],
        );
        const [row] = await run<PaymentRow>(
          'SELECT gateway, amount_cents AS cents, requested_at FROM recorded_payments WHERE correlation_id = ?::uuid',
          [correlationId],
        );
        return {
          correlationId,
          gateway: fromGatewayColumn(row!.gateway),
          amountCents: Number(row!.cents),
          requestedAt: row!.requested_at,
        };
      });
      // When the row was there already, the transaction has written nothing.
      await confirmVisible(db);
      return recorded;
    },

    async ties(correlationId) {
      const rows = await query<{ gateway: GatewayColumn; age_ms: string }>(
        db,
        `SELECT letter.gateway, extract(epoch FROM clock_timestamp() - letter.died_at) * 1000 AS age_ms
         FROM unpaid_dead_letters(ARRAY[?::uuid]) AS unpaid JOIN dead_letters AS letter USING (id)
         WHERE letter.gateway IS NOT NULL ORDER BY letter.id`,
        [correlationId],
      );
      return rows.map(({ gateway, age_ms }) => ({ gateway: fromGatewayColumn(gateway), ageMs: Number(age_ms) }));
    },

    untie: (correlationId, gateway, beforeCommit) =>
      inTransaction(db, LIMITS, async (run) => {
        await run(
          `UPDATE dead_letters SET gateway = NULL, unresolved_at = NULL
           WHERE id IN (SELECT id FROM dead_letters WHERE correlation_id = ?::uuid AND gateway = ?
             AND state IN ('open', 'queued_again') ORDER BY id FOR UPDATE)`,
          [correlationId, toGatewayColumn(gateway)],
        );
        return beforeCommit();
      }),
  };
}
