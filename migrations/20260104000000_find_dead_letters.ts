import type { Knex } from 'knex';

/**
 * Finds one dead letter of each id, as the status of a payment shows it: the latest that is not closed, else the latest that an
 * operator discarded. A function for the reason given at `unpaid_dead_letters`: without sequential scans, and with a lateral that
 * leaves a single index to use, a flood of rows does not slow down the look-up of other ids. It is stable, so it sees the same
 * moment as the statement that calls it.
 */
export async function up(knex: Knex): Promise<void> {
  await knex.raw(`
    CREATE FUNCTION shown_dead_letters(ids uuid[]) RETURNS SETOF dead_letters
      LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
    BEGIN
      RETURN QUERY SELECT DISTINCT ON (letter.correlation_id) letter.* FROM unnest(ids) AS asked (id), LATERAL (
        SELECT * FROM dead_letters WHERE dead_letters.correlation_id = asked.id OFFSET 0
      ) AS letter
      WHERE letter.state IN ('open', 'queued_again', 'discarded')
      ORDER BY letter.correlation_id, letter.state = 'discarded', letter.id DESC;
    END $$`);
}

export async function down(knex: Knex): Promise<void> {
  await knex.raw('DROP FUNCTION shown_dead_letters');
}
