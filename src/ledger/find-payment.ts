import type { Knex } from 'knex';
import type { GatewayName } from '../payment.ts';
import { query } from './db.ts';
import type { DeadLetterCode } from './dead-letters.ts';
import { fromGatewayColumn, type GatewayColumn } from './gateway-column.ts';

/** What the ledger has on one id. */
export interface PaymentInLedger {
  /** Undefined: not paid, as far as the ledger knows. */
  readonly recorded:
    | {
        readonly gateway: GatewayName;
        readonly amountCents: number;
        readonly requestedAt: Date;
        readonly recordedAt: Date;
      }
    | undefined;
  /** The latest death of the id. One that is not closed comes before those that an operator closed. */
  readonly deadLetter: DeadLetterRow | undefined;
}

/** A dead letter that was not paid since. */
export interface DeadLetterRow {
  readonly state: 'open' | 'queued_again' | 'discarded';
  readonly code: DeadLetterCode;
  readonly reason: string;
  /** The only gateway that may get this id while the row is not closed. */
  readonly gateway: GatewayName | undefined;
  readonly amountText: string | undefined;
  readonly attempts: number;
  readonly acceptedAt: Date;
  readonly diedAt: Date;
  /** Since when it is in this state. */
  readonly stateAt: Date;
}

interface Row {
  asked: string;
  paid_at: GatewayColumn | null;
  cents: string;
  requested_at: Date;
  recorded_at: Date;
  state: DeadLetterRow['state'] | null;
  code: DeadLetterCode;
  reason: string;
  tied_to: GatewayColumn | null;
  amount_text: string | null;
  attempts: number;
  accepted_at: Date;
  died_at: Date;
  state_at: Date;
}

/**
 * One statement, so that payments and dead letters are of the same moment: the record of a payment closes its dead letters.
 * The payments come first, see LOCK_LEDGER. Each id is looked up by an index, whatever PostgreSQL knows of the tables.
 */
const FIND_SQL = `
  SELECT asked.id AS asked, payment.gateway AS paid_at, payment.amount_cents AS cents, payment.requested_at, payment.recorded_at,
    letter.state, letter.reason_code AS code, letter.reason, letter.gateway AS tied_to, letter.amount_text,
    letter.attempts, letter.accepted_at, letter.died_at, letter.state_at
  FROM unnest(?::uuid[]) AS asked (id)
  LEFT JOIN recorded_payments AS payment ON payment.correlation_id = asked.id
  LEFT JOIN shown_dead_letters(?::uuid[]) AS letter ON letter.correlation_id = asked.id`;

/** @param correlationIds in lower case, each once. @throws LedgerUnavailableError */
export async function findInLedger(
  db: Knex,
  correlationIds: readonly string[],
): Promise<ReadonlyMap<string, PaymentInLedger>> {
  const rows = await query<Row>(db, FIND_SQL, [correlationIds, correlationIds]);
  return new Map(rows.map((row) => [row.asked, toPayment(row)]));
}

function toPayment(row: Row): PaymentInLedger {
  return {
    recorded:
      row.paid_at === null
        ? undefined
        : {
            gateway: fromGatewayColumn(row.paid_at),
            amountCents: Number(row.cents),
            requestedAt: row.requested_at,
            recordedAt: row.recorded_at,
          },
    deadLetter:
      row.state === null
        ? undefined
        : {
            state: row.state,
            code: row.code,
            reason: row.reason,
            gateway: row.tied_to === null ? undefined : fromGatewayColumn(row.tied_to),
            amountText: row.amount_text ?? undefined,
            attempts: row.attempts,
            acceptedAt: row.accepted_at,
            diedAt: row.died_at,
            stateAt: row.state_at,
          },
  };
}
