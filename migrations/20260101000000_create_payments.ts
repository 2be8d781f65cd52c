import type { Knex } from 'knex';

export async function up(knex: Knex): Promise<void> {
  await knex.raw(`
    CREATE TABLE payments (
      correlation_id uuid PRIMARY KEY,
      gateway text NOT NULL CHECK (gateway IN ('default', 'fallback')),
      amount_cents bigint NOT NULL CHECK (amount_cents > 0),
      requested_at timestamptz(3) NOT NULL,
      recorded_at timestamptz(3) NOT NULL DEFAULT clock_timestamp()
    )`);
  // Has every column that a summary reads, so that a summary never reads the table itself.
  await knex.raw('CREATE INDEX payments_summary ON payments (requested_at) INCLUDE (gateway, amount_cents)');
}

export async function down(knex: Knex): Promise<void> {
  await knex.raw('DROP TABLE payments');
}
