import type { Knex } from 'knex';
import type { GatewayName } from '../payment.ts';
import { query } from './db.ts';
import { fromGatewayColumn, type GatewayColumn } from './gateway-column.ts';

/** What the ledger has on one id. */
export interface PaymentInLedger {
  /** Undefined: not paid, as far as the ledger knows. */
  readonly recorded:
    | { readonly gateway: GatewayName; readonly amountCents: number; readonly requestedAt: Date }
    | undefined;
  /** Every death of this id, the latest first, also those that were closed since. */
  readonly deadLetters: readonly {
    readonly state: string;
    readonly code: string;
    readonly reason: string;
    readonly diedAt: Date;
  }[];
}

/** @param correlationId in lower case. @throws LedgerUnavailableError */
export async function findInLedger(db: Knex, correlationId: string): Promise<PaymentInLedger> {
  const [[payment], letters] = await Promise.all([
    query<{ gateway: GatewayColumn; cents: string; at: Date }>(
      db,
      'SELECT gateway, amount_cents AS cents, requested_at AS at FROM payments WHERE correlation_id = ?::uuid',
      [correlationId],
    ),
    query<{ state: string; code: string; reason: string; at: Date }>(
      db,
      `SELECT state, reason_code AS code, reason, died_at AS at FROM dead_letters
       WHERE correlation_id = ?::uuid ORDER BY id DESC LIMIT 100`,
      [correlationId],
    ),
  ]);
  return {
    recorded: payment && {
      gateway: fromGatewayColumn(payment.gateway),
      amountCents: Number(payment.cents),
      requestedAt: payment.at,
    },
    deadLetters: letters.map(({ at, ...letter }) => ({ ...letter, diedAt: at })),
  };
}
