import type { Knex } from 'knex';

/**
 * Payments that the service cannot make. Each stays until an operator decides (src/ledger/dead-letters.ts). A trigger closes
 * its rows in the transaction that records the payment, whichever version of the worker records it.
 */
export async function up(knex: Knex): Promise<void> {
  await knex.raw(`
    CREATE TABLE dead_letters (
      id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
      job_id text NOT NULL,
      correlation_id uuid,
      amount_text text,
      -- JSON text as it was posted. Never jsonb: that refuses texts which are JSON, as "\\u0000", and rewrites numbers.
      payload text,
      -- Of the whole payload. More than payload has: payload is cut, or could not be stored.
      payload_bytes integer,
      reason_code text NOT NULL CHECK (reason_code IN ('invalid_payment', 'rejected', 'payload_missing')),
      reason text NOT NULL,
      -- The one gateway that may get this id while the row is open or queued again.
      gateway text CHECK (gateway IN ('default', 'fallback')),
      unresolved_at text CHECK (unresolved_at IN ('default', 'fallback')),
      attempts integer NOT NULL,
      accepted_at timestamptz(3) NOT NULL,
      died_at timestamptz(3) NOT NULL,
      state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'queued_again', 'paid', 'discarded', 'recorded')),
      state_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
      state_by text NOT NULL,
      UNIQUE (job_id, accepted_at)
    )`);
  await knex.raw('CREATE INDEX dead_letters_listed ON dead_letters (state, reason_code, died_at)');
  await knex.raw('CREATE INDEX dead_letters_correlation_id ON dead_letters (correlation_id)');
  // PostgreSQL caches plans. A plan made while the table is small reads all of it, once for each id, and stays in use after
  // a flood has filled the table. So these functions plan without sequential scans. The lateral has no condition but the id,
  // which leaves a single index to use.
  await knex.raw(`
    CREATE FUNCTION unpaid_dead_letters(ids uuid[])
      RETURNS TABLE (id bigint, correlation_id uuid, gateway text, state text)
      LANGUAGE plpgsql SET enable_seqscan = off AS $$
    BEGIN
      RETURN QUERY SELECT letter.* FROM unnest(ids) AS asked (id), LATERAL (
        SELECT dead_letters.id, dead_letters.correlation_id, dead_letters.gateway, dead_letters.state
        FROM dead_letters WHERE dead_letters.correlation_id = asked.id OFFSET 0
      ) AS letter
      WHERE letter.state IN ('open', 'queued_again');
    END $$`);
  // Locks rows in the order of their ids, as every statement does, so that two statements cannot deadlock.
  await knex.raw(`
    CREATE FUNCTION close_paid_dead_letters() RETURNS trigger LANGUAGE plpgsql SET enable_seqscan = off AS $$
    BEGIN
      UPDATE dead_letters SET state = 'paid', state_at = clock_timestamp(), state_by = 'ledger'
      WHERE state IN ('open', 'queued_again') AND id = ANY(ARRAY(
        SELECT letter.id FROM added, LATERAL (
          SELECT id, state FROM dead_letters WHERE correlation_id = added.correlation_id OFFSET 0
        ) AS letter
        WHERE letter.state IN ('open', 'queued_again') ORDER BY letter.id
      ));
      RETURN NULL;
    END $$`);
  await knex.raw(`
    CREATE TRIGGER payments_close_dead_letters AFTER INSERT ON payments REFERENCING NEW TABLE AS added
    FOR EACH STATEMENT EXECUTE FUNCTION close_paid_dead_letters()`);
}

export async function down(knex: Knex): Promise<void> {
  await knex.raw('DROP TRIGGER payments_close_dead_letters ON payments');
  await knex.raw('DROP FUNCTION close_paid_dead_letters');
  await knex.raw('DROP FUNCTION unpaid_dead_letters');
  await knex.raw('DROP TABLE dead_letters');
}
