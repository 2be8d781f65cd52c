import { spawn } from 'node:child_process';
import { createServer, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { createDb } from '../../src/ledger/db.ts';
import { createReconciliations } from '../../src/ledger/reconciliations.ts';
import { createRelayGauges } from '../../src/operations/relay-gauges.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { aPayment, eventually, postPayment, type TestEnv, testApi, testGateway, testWorker } from '../support/relay.ts';
import { freshPrefix, sharedRedis, sql } from '../support/services.ts';
import { createTlsProxy, PRIVATE_CA } from '../support/tls-proxy.ts';

const NONE = { invalid_payment: 0, rejected: 0, payload_missing: 0 };

const SCRIPT = fileURLToPath(new URL('../../src/commands/reconcile.ts', import.meta.url));

async function paid(count: number) {
  const prefix = freshPrefix();
  const primary = await testGateway();
  const fallback = await testGateway();
  const { url, config } = await testApi({}, prefix);
  const databaseUrl = config.database.url;
  const env = { DATABASE_URL: databaseUrl, GATEWAY_PRIMARY_URL: primary.url, GATEWAY_FALLBACK_URL: fallback.url };
  await testWorker(env, prefix);
  for (let n = 0; n < count; n += 1) await postPayment(url, aPayment());
  const ids = await eventually(async () => {
    const rows = await sql<{ id: string }>(databaseUrl, 'SELECT correlation_id AS id FROM payments');
    return rows.length === count && rows.map(({ id }) => id);
  });
  const redisUrl = (await sharedRedis()).url;
  const reconcile = (...args: string[]) => reconcileWith({}, ...args);
  const reconcileWith = async (moreEnv: TestEnv, ...args: string[]) => {
    const child = spawn(process.execPath, [SCRIPT, ...args], { env: { ...env, REDIS_URL: redisUrl, ...moreEnv } });
    const [out, err, code] = await Promise.all([
      text(child.stdout),
      text(child.stderr),
      new Promise((resolve) => child.once('exit', resolve)),
    ]);
    return { out, err, code };
  };
  return { ids: ids as [string, ...string[]], primary, fallback, databaseUrl, reconcile, reconcileWith };
}

/** A gateway that responds 404 to one call and passes the others on. */
async function withoutAdminCall(gatewayUrl: string, missing: string): Promise<string> {
  const passOn = async (url: string, res: ServerResponse) => {
    const response = await fetch(`${gatewayUrl}${url}`, { headers: { 'X-Rinha-Token': '123' } });
    res.writeHead(response.status).end(await response.text());
  };
  const server = createServer((req, res) => {
    if (req.url!.split('?')[0] === missing) res.writeHead(404).end();
    else void passOn(req.url!, res);
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  atTestEnd(() => {
    server.close();
    server.closeAllConnections();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

describe('npm run reconcile', () => {
  it('exits 0 when the ledger and the gateways have the same on record', async () => {
    const { reconcile } = await paid(3);
    const { out, code } = await reconcile('--from', '2020-01-01', '--to', '2100-01-01');
    expect(out).to.match(/primary +3 +59\.70 +3 +59\.70/);
    expect(out).to.include('Nothing differs.');
    expect(code).to.equal(0);
  });

  it('names a payment that is recorded and not on record at its gateway, and exits 1', async () => {
    const { databaseUrl, reconcile } = await paid(2);
    const id = '11111111-2222-4333-8444-555555555555';
    await sql(databaseUrl, `INSERT INTO payments VALUES ('${id}', 'default', 100, '2026-01-01T00:00:00Z')`);
    const { out, code } = await reconcile();
    expect(out).to.include(`${id}  recorded for primary, not on record there`);
    expect(code).to.equal(1);
  });

  it('names a payment recorded with another amount or for another gateway', async () => {
    const { ids, databaseUrl, reconcile } = await paid(3);
    await sql(databaseUrl, 'UPDATE payments SET amount_cents = 1 WHERE correlation_id = $1', [ids[0]]);
    await sql(databaseUrl, "UPDATE payments SET gateway = 'fallback' WHERE correlation_id = $1", [ids[1]]);
    const { out, code } = await reconcile();
    expect(out).to.match(new RegExp(`${ids[0]}  recorded for primary as 0\\.01 of .*, on record there as 19\\.9 of`));
    expect(out).to.include(`${ids[1]}  recorded for fallback, not on record there`);
    expect(out).to.include(`${ids[1]}  recorded for fallback, also on record at primary`);
    expect(code).to.equal(1);
  });

  it('compares archived payments as the others, and says that there are some', async () => {
    const { ids, databaseUrl, reconcile } = await paid(3);
    await sql(
      databaseUrl,
      'WITH moved AS (DELETE FROM payments RETURNING *) INSERT INTO payments_archive SELECT * FROM moved',
    );
    const same = await reconcile();
    expect(same.out).to.match(/are archived\.\nNothing differs\.\n$/);
    await sql(databaseUrl, 'UPDATE payments_archive SET amount_cents = 1 WHERE correlation_id = $1', [ids[0]]);
    const { out, code } = await reconcile();
    expect(out.match(/recorded for primary/g), out).to.have.length(1);
    expect(out).to.include(`${ids[0]}  recorded for primary as 0.01`).and.not.include('not recorded');
    expect(code).to.equal(1);
  });

  it('reads the ledger over TLS, and nothing of it in plain text, with DB_SSL', async () => {
    const { ids, databaseUrl, reconcileWith } = await paid(1);
    await sql(databaseUrl, 'UPDATE payments SET amount_cents = 1');
    const tlsUrl = new URL(databaseUrl);
    const proxy = await createTlsProxy(Number(tlsUrl.port), 'postgres');
    tlsUrl.host = `localhost:${proxy.port}`;
    const env = { DATABASE_URL: tlsUrl.href, DB_SSL: 'true', NODE_EXTRA_CA_CERTS: PRIVATE_CA };
    const { out, err } = await reconcileWith(env);
    expect(out, err).to.include(`${ids[0]}  recorded for primary as 0.01`);
    expect(proxy.trusted).to.equal(proxy.connections);
  });

  it('names the payments that a gateway lists beyond the ledger, and their number', async () => {
    const { ids, databaseUrl, reconcile } = await paid(2);
    await sql(databaseUrl, 'DELETE FROM payments WHERE correlation_id = $1', [ids[0]]);
    const { out, err, code } = await reconcile();
    expect(out, err).to.include('primary: 1 more on record than in the ledger');
    expect(out).to.include(`${ids[0]}  on record at primary, not recorded`);
    expect(code).to.equal(1);
    const { out: before } = await reconcile('--to', '2020-01-01');
    expect(before).to.include('Nothing differs.');
  });

  it('names a dead letter that a gateway without a list has on record', async () => {
    const { ids, databaseUrl, primary, reconcileWith } = await paid(2);
    await sql(databaseUrl, 'DELETE FROM payments WHERE correlation_id = $1', [ids[0]]);
    await sql(
      databaseUrl,
      `INSERT INTO dead_letters (job_id, correlation_id, reason_code, reason, gateway, attempts, accepted_at, died_at, state_by)
       VALUES ($1::text, $1::uuid, 'rejected', '', 'default', 1, now(), now(), 'worker')`,
      [ids[0]],
    );
    const url = await withoutAdminCall(primary.url, '/admin/payments');
    const { out, err } = await reconcileWith({ GATEWAY_PRIMARY_URL: url });
    expect(out, err).to.include(`${ids[0]}  on record at primary, a dead letter and not recorded`);
  });

  it('says in one sentence that a gateway lacks the admin API, and exits 2', async () => {
    const { primary, reconcileWith } = await paid(1);
    const url = await withoutAdminCall(primary.url, '/admin/payments-summary');
    const { err, code } = await reconcileWith({ GATEWAY_PRIMARY_URL: url });
    expect(err).to.equal(
      `${url} responded with status 404 to GET /admin/payments-summary: reconcile needs the admin API of the Rinha de Backend 2025 at both gateways\n`,
    );
    expect(code).to.equal(2);
  });

  it('keeps the result of each complete run, and its range, for the metrics', async () => {
    const { ids, databaseUrl, primary, reconcile } = await paid(3);
    const db = createDb({ url: databaseUrl, poolSize: 2, ssl: false });
    atTestEnd(() => db.destroy());
    const reconciliations = createReconciliations(db);
    const gauge = async () => {
      const [healthCheck, deadLetters] = [
        { check: () => Promise.reject(new Error()) },
        { countOpen: async () => NONE },
      ];
      const gauges = createRelayGauges({ healthCheck, deadLetters, reconciliations, maxSize: 1 });
      return (await gauges()).reconciliation;
    };
    expect(await gauge()).to.equal(undefined);

    const startedAt = Date.now();
    expect((await reconcile()).err).to.equal('');
    const first = await gauge();
    expect(first!.differences).to.deep.equal({ primary: 0, fallback: 0 });
    expect(first!.at.getTime()).to.be.within(startedAt - 1_000, Date.now() + 1_000);

    await sql(databaseUrl, "UPDATE payments SET gateway = 'fallback' WHERE correlation_id = $1", [ids[0]]);
    await sql(databaseUrl, 'DELETE FROM payments WHERE correlation_id = $1', [ids[1]]);
    expect(await reconcile('--from', '2020-01-01', '--to', '2100-01-01T00:00:00.5Z')).to.include({ code: 1, err: '' });
    expect((await gauge())!.differences).to.deep.equal({ primary: 2, fallback: -1 });
    const { range, differences } = (await reconciliations.last())!;
    expect(range).to.deep.equal({ from: new Date('2020-01-01'), to: new Date('2100-01-01T00:00:00.500Z') });
    expect(differences).to.deep.equal({
      primary: { payments: 2, amountCents: 3980 },
      fallback: { payments: -1, amountCents: -1990 },
    });

    await primary.close();
    expect(await reconcile()).to.include({ code: 2 });
    expect(await sql(databaseUrl, 'SELECT id FROM reconciliations')).to.have.length(2);
  });

  it('compares all the same, and says so in one line, when the schema is older than its table', async () => {
    const { databaseUrl, reconcile } = await paid(1);
    await sql(databaseUrl, 'DROP TABLE reconciliations');
    const { out, err, code } = await reconcile();
    expect(out).to.include('Nothing differs.');
    expect(err).to.match(/^The result was not kept for the metrics: .*db:migrate\n$/);
    expect(code).to.equal(0);
  });

  it('exits 2 when a gateway is unreachable, and on a bad argument', async () => {
    const { primary, reconcile } = await paid(1);
    expect(await reconcile('--from', 'yesterday')).to.include({ code: 2 });
    expect(await reconcile('--bogus')).to.include({ code: 2 });
    await primary.close();
    expect(await reconcile()).to.include({ code: 2 });
  });

  it('prints its usage, without any settings', async () => {
    const child = spawn(process.execPath, [SCRIPT, '--help'], { env: {} });
    const [out, code] = await Promise.all([text(child.stdout), new Promise((resolve) => child.once('exit', resolve))]);
    expect(out).to.include('--from').and.include('--token');
    expect(code).to.equal(0);
  });
});
