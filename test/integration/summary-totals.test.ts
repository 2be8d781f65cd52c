import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { loadConfig } from '../../src/config.ts';
import { createDb } from '../../src/ledger/db.ts';
import { fromGatewayColumn, type GatewayColumn } from '../../src/ledger/gateway-column.ts';
import { createLedger, type PaidPayment } from '../../src/ledger/ledger.ts';
import type { SummaryRange } from '../../src/ledger/summary-range.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { freshDatabase, sql } from '../support/services.ts';

const START = Date.parse('2026-03-01T10:58:30.000Z');

/** Over three hours and a bit, with many at the very edges of seconds, minutes and hours. */
function somePayment(): PaidPayment {
  const spread = Math.floor(Math.random() * 3.2 * 3_600_000);
  const edges = [1, 1_000, 60_000, 3_600_000];
  const edge = edges[Math.floor(Math.random() * edges.length)]!;
  const offset = edge === 1 ? 0 : Math.floor(Math.random() * 3) - 1;
  return {
    correlationId: randomUUID(),
    gateway: Math.random() < 0.7 ? 'primary' : 'fallback',
    amountCents: 1 + Math.floor(Math.random() * 10_000),
    requestedAt: new Date(Math.floor((START + spread) / edge) * edge + offset),
  };
}

async function ledger() {
  const url = await freshDatabase();
  const db = createDb(loadConfig({ DATABASE_URL: url }).database);
  atTestEnd(() => db.destroy());
  const table = createLedger(db);
  const added = async ({ from, to }: SummaryRange) => {
    const rows = await sql<{ gateway: GatewayColumn; n: string; cents: string }>(
      url,
      `SELECT gateway, count(*) AS n, sum(amount_cents) AS cents FROM payments
       WHERE requested_at BETWEEN coalesce($1::timestamptz, '-infinity') AND coalesce($2::timestamptz, 'infinity') GROUP BY 1`,
      [from ?? null, to ?? null],
    );
    const totals = {
      primary: { totalRequests: 0, totalAmountCents: 0 },
      fallback: { totalRequests: 0, totalAmountCents: 0 },
    };
    for (const { gateway, n, cents } of rows)
      totals[fromGatewayColumn(gateway)] = { totalRequests: Number(n), totalAmountCents: Number(cents) };
    return totals;
  };
  return { url, table, added };
}

function someRange(): SummaryRange {
  const at = () => {
    const edge = [1, 1_000, 60_000, 3_600_000][Math.floor(Math.random() * 4)]!;
    return (
      Math.floor((START - 60_000 + Math.random() * 3.4 * 3_600_000) / edge) * edge + Math.floor(Math.random() * 3) - 1
    );
  };
  const [a, b] = [at(), at()];
  const from = new Date(Math.min(a, b));
  const to = new Date(Math.max(a, b));
  return { from: Math.random() < 0.1 ? undefined : from, to: Math.random() < 0.1 ? undefined : to };
}

describe('summary', () => {
  it('is what adding up the payments gives, for any range, after concurrent recording with repetitions', async () => {
    const { table, added } = await ledger();
    const payments = Array.from({ length: 2_000 }, somePayment);
    // Four recorders at once, each with a share of its own and one that others record as well.
    await Promise.all(
      [0, 1, 2, 3].map(async (recorder) => {
        for (let start = 0; start < payments.length; start += 100) {
          if ((start / 100) % 4 === recorder || start < 500)
            await table.insertPayments(payments.slice(start, start + 100));
        }
      }),
    );
    for (let n = 0; n < 60; n += 1) {
      const range = someRange();
      expect(await table.summarise(range), JSON.stringify(range)).to.deep.equal(await added(range));
    }
    expect((await table.summarise({})).primary.totalRequests).to.be.above(1_000);
  });

  it('follows payments that are corrected or removed by hand', async () => {
    const { url, table, added } = await ledger();
    await table.insertPayments(Array.from({ length: 50 }, somePayment));
    await sql(url, "UPDATE payments SET amount_cents = 7, gateway = 'fallback' WHERE correlation_id::text < '4'");
    await sql(url, "DELETE FROM payments WHERE correlation_id::text > 'c'");
    expect(await table.summarise({})).to.deep.equal(await added({}));
  });

  it('is of nothing after a purge', async () => {
    const { table } = await ledger();
    await table.insertPayments(Array.from({ length: 5 }, somePayment));
    await table.purge();
    expect((await table.summarise({})).primary.totalRequests).to.equal(0);
  });
});
