import type { Knex } from 'knex';

/**
 * Pages and counts of open dead letters, by any filter (src/ledger/open-dead-letters.ts). It has every column of a filter, so a
 * count reads the index alone, and the id, so a page reads no more rows than it has.
 */
export async function up(knex: Knex): Promise<void> {
  await knex.raw(
    `CREATE INDEX dead_letters_open ON dead_letters (reason_code, gateway, died_at, id) WHERE state = 'open'`,
  );
  // A walk in the order of the ids must not read the closed ones, which stay for ever.
  await knex.raw(`CREATE INDEX dead_letters_open_ids ON dead_letters (id) WHERE state = 'open'`);
}

export async function down(knex: Knex): Promise<void> {
  await knex.raw('DROP INDEX dead_letters_open_ids');
  await knex.raw('DROP INDEX dead_letters_open');
}
