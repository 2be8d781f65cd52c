import type { Knex } from 'knex';
import type { GatewayName } from '../payment.ts';
import { query } from './db.ts';
import { fromGatewayColumn, type GatewayColumn } from './gateway-column.ts';

/** What one gateway was paid in one minute of `requestedAt`. */
export interface PaidMinute {
  /** The beginning of the minute. */
  readonly at: Date;
  readonly gateway: GatewayName;
  readonly payments: number;
  readonly amountCents: number;
}

/** What was paid in each of the last minutes, from the kept totals: at most two rows a minute, however many payments. */
export interface PaidMinutes {
  /** In no order; a minute in which a gateway was paid nothing has no row. @throws LedgerUnavailableError */
  since(from: Date): Promise<readonly PaidMinute[]>;
}

export function createPaidMinutes(db: Knex): PaidMinutes {
  return {
    async since(from) {
      const rows = await query<{ start: Date; gateway: GatewayColumn; payments: string; amount_cents: string }>(
        db,
        'SELECT start, gateway, payments, amount_cents FROM payment_totals WHERE width_seconds = 60 AND start >= ?::timestamptz',
        [from.toISOString()],
        { name: 'paid_minutes' },
      );
      return rows.map(({ start, gateway, payments, amount_cents }) => ({
        at: start,
        gateway: fromGatewayColumn(gateway),
        payments: Number(payments),
        amountCents: Number(amount_cents),
      }));
    },
  };
}
