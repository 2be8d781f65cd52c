import type { Knex } from 'knex';

/**
 * Totals of every second, minute and hour. Triggers update them in the transaction that changes the payments. A summary adds
 * up a few totals and reads payments only for the fractions of a second at its ends, however many payments there are.
 * The triggers also work when an operator corrects a payment by hand.
 */
export async function up(knex: Knex): Promise<void> {
  await knex.raw(`
    CREATE TABLE payment_totals (
      width_seconds integer NOT NULL,
      start timestamptz(0) NOT NULL,
      gateway text NOT NULL,
      payments bigint NOT NULL,
      amount_cents numeric NOT NULL,
      PRIMARY KEY (width_seconds, start, gateway)
    ) WITH (fillfactor = 50)`);
  await knex.raw(`
    CREATE FUNCTION add_to_payment_totals() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
      IF TG_OP IN ('INSERT', 'UPDATE') THEN
        INSERT INTO payment_totals
          SELECT width, date_bin(make_interval(secs => width), requested_at, 'epoch'), gateway, count(*), sum(amount_cents)
          FROM added, unnest(ARRAY[1, 60, 3600]) AS width GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (width_seconds, start, gateway) DO UPDATE
          SET payments = payment_totals.payments + excluded.payments,
              amount_cents = payment_totals.amount_cents + excluded.amount_cents;
      END IF;
      IF TG_OP IN ('DELETE', 'UPDATE') THEN
        UPDATE payment_totals AS totals
          SET payments = totals.payments - gone.payments, amount_cents = totals.amount_cents - gone.amount_cents
          FROM (
            SELECT width, date_bin(make_interval(secs => width), requested_at, 'epoch') AS start, gateway,
                   count(*) AS payments, sum(amount_cents) AS amount_cents
            FROM removed, unnest(ARRAY[1, 60, 3600]) AS width GROUP BY 1, 2, 3
          ) AS gone
          WHERE totals.width_seconds = gone.width AND totals.start = gone.start AND totals.gateway = gone.gateway;
      END IF;
      IF TG_OP = 'TRUNCATE' THEN
        TRUNCATE payment_totals;
      END IF;
      RETURN NULL;
    END $$`);
  for (const [event, tables] of [
    ['INSERT', 'REFERENCING NEW TABLE AS added'],
    ['DELETE', 'REFERENCING OLD TABLE AS removed'],
    ['UPDATE', 'REFERENCING NEW TABLE AS added OLD TABLE AS removed'],
    ['TRUNCATE', ''],
  ]) {
    await knex.raw(`
      CREATE TRIGGER payments_totals_${event!.toLowerCase()} AFTER ${event} ON payments ${tables}
      FOR EACH STATEMENT EXECUTE FUNCTION add_to_payment_totals()`);
  }
  await knex.raw(`
    INSERT INTO payment_totals
      SELECT width, date_bin(make_interval(secs => width), requested_at, 'epoch'), gateway, count(*), sum(amount_cents)
      FROM payments, unnest(ARRAY[1, 60, 3600]) AS width GROUP BY 1, 2, 3`);
}

export async function down(knex: Knex): Promise<void> {
  for (const event of ['insert', 'delete', 'update', 'truncate']) {
    await knex.raw(`DROP TRIGGER payments_totals_${event} ON payments`);
  }
  await knex.raw('DROP FUNCTION add_to_payment_totals');
  await knex.raw('DROP TABLE payment_totals');
}
