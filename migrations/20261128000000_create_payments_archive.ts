import type { Knex } from 'knex';

/**
 * Old payments that `npm run archive` has moved out of `payments` (src/ledger/archive.ts). They still count: an id is paid once,
 * whichever of the two tables has it, and the totals are those of both.
 *
 * | asks                        | reads                                                             |
 * |-----------------------------|-------------------------------------------------------------------|
 * | the look-up before a send   | `payments` and `known_elsewhere(ids)`, in one statement           |
 * | everybody else with an id   | `recorded_payments`, both tables as one                           |
 * | a summary                   | the totals, and both tables for the fractions of a second         |
 */
export async function up(knex: Knex): Promise<void> {
  await knex.raw('CREATE TABLE payments_archive (LIKE payments INCLUDING CONSTRAINTS, PRIMARY KEY (correlation_id))');
  // Without INCLUDE: summaries read the archive for two fractions of a second at most, and the index stays small.
  await knex.raw('CREATE INDEX payments_archive_requested_at ON payments_archive (requested_at)');
  await knex.raw('CREATE VIEW recorded_payments AS TABLE payments UNION ALL TABLE payments_archive');

  // A row that moves is subtracted and added in one statement, so the totals stay as they are. Corrections by hand count, too.
  for (const [event, tables] of [
    ['INSERT', 'NEW TABLE AS added'],
    ['DELETE', 'OLD TABLE AS removed'],
    ['UPDATE', 'NEW TABLE AS added OLD TABLE AS removed'],
  ]) {
    await knex.raw(`
      CREATE TRIGGER payments_archive_totals_${event!.toLowerCase()} AFTER ${event} ON payments_archive REFERENCING ${tables}
      FOR EACH STATEMENT EXECUTE FUNCTION add_to_payment_totals()`);
  }

  // What a look-up before a send needs beside `payments`. It takes the place of `unpaid_dead_letters` there, and plans without
  // sequential scans for the same reason: a plan made while a table is small would read all of it later. One function for both,
  // because a call costs more than what it reads. It is stable, so it sees the same moment as the statement that calls it: a row
  // that moves is in one of the tables.
  await knex.raw(`
    CREATE FUNCTION known_elsewhere(ids uuid[])
      RETURNS TABLE (correlation_id uuid, is_recorded boolean, id bigint, gateway text, state text)
      LANGUAGE plpgsql STABLE SET enable_seqscan = off AS $$
    BEGIN
      RETURN QUERY SELECT archived.correlation_id, true, NULL::bigint, NULL, NULL
        FROM payments_archive AS archived WHERE archived.correlation_id = ANY(ids);
      RETURN QUERY SELECT letter.correlation_id, false, letter.id, letter.gateway, letter.state
        FROM unnest(ids) AS asked (id), LATERAL (
          SELECT * FROM dead_letters WHERE dead_letters.correlation_id = asked.id OFFSET 0
        ) AS letter
        WHERE letter.state IN ('open', 'queued_again');
    END $$`);

  // The primary keys make an id unique in each table, this trigger in both. A condition in the INSERT would not: an INSERT of an
  // id that is being moved waits for the end of that transaction, and then goes on with what it has read before. The query of a
  // trigger reads anew. The rows are deleted after the totals were added, because triggers run in the order of their names.
  await knex.raw(`
    CREATE FUNCTION drop_archived_payments() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
    DECLARE
      archived uuid[];
    BEGIN
      archived := ARRAY(SELECT payment.correlation_id FROM added, LATERAL (
        SELECT correlation_id FROM payments_archive WHERE correlation_id = added.correlation_id OFFSET 0
      ) AS payment);
      IF archived <> '{}' THEN
        DELETE FROM payments WHERE correlation_id = ANY(archived);
      END IF;
      RETURN NULL;
    END $$`);
  await knex.raw(`
    CREATE TRIGGER payments_unless_archived AFTER INSERT ON payments REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION drop_archived_payments()`);
}

/** Moves the archived payments back. */
export async function down(knex: Knex): Promise<void> {
  await knex.raw(
    'WITH moved AS (DELETE FROM payments_archive RETURNING *) INSERT INTO payments SELECT * FROM moved ORDER BY requested_at',
  );
  await knex.raw('DROP TRIGGER payments_unless_archived ON payments');
  await knex.raw('DROP FUNCTION drop_archived_payments');
  await knex.raw('DROP FUNCTION known_elsewhere');
  await knex.raw('DROP VIEW recorded_payments');
  await knex.raw('DROP TABLE payments_archive');
}
