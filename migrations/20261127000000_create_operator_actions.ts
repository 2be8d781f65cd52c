import type { Knex } from 'knex';

/** The trail of operators (src/ledger/operator-actions.ts). Nothing deletes a row. */
export async function up(knex: Knex): Promise<void> {
  await knex.raw(`
    CREATE TABLE operator_actions (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      -- A row that is written twice is the same row.
      key uuid NOT NULL UNIQUE,
      -- When it was asked for, by the clock of the process that was asked. A row may be written later.
      at timestamptz(3) NOT NULL,
      who text NOT NULL,
      action text NOT NULL,
      target jsonb NOT NULL,
      reason text,
      state text NOT NULL CHECK (state IN ('started', 'running', 'done', 'refused', 'failed', 'stopped')),
      outcome jsonb,
      ended_at timestamptz(3),
      -- Only of those that a worker carries out piece by piece. The lease is a text that no other lease has.
      per_second integer,
      cursor text,
      progress jsonb,
      lease text,
      lease_until timestamptz(3)
    )`);
  await knex.raw('CREATE INDEX operator_actions_listed ON operator_actions (at, id)');
  await knex.raw(`CREATE INDEX operator_actions_running ON operator_actions (id) WHERE state = 'running'`);
}

export async function down(knex: Knex): Promise<void> {
  await knex.raw('DROP TABLE operator_actions');
}
