import type { Knex } from 'knex';

/** The result of each complete run of `npm run reconcile`. Nothing deletes a row: they are history. */
export async function up(knex: Knex): Promise<void> {
  await knex.raw(`
    CREATE TABLE reconciliations (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      ended_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
      -- The range of requested_at that was compared, both ends included. NULL: an open end.
      range_from timestamptz(3),
      range_to timestamptz(3),
      -- What each gateway had on record, minus what the ledger had.
      default_payments bigint NOT NULL,
      default_amount_cents bigint NOT NULL,
      fallback_payments bigint NOT NULL,
      fallback_amount_cents bigint NOT NULL
    )`);
}

export async function down(knex: Knex): Promise<void> {
  await knex.raw('DROP TABLE reconciliations');
}
