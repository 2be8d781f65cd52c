import { spawn } from 'node:child_process';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { gatewayAdmin } from '../../dev/gateway-admin.ts';
import { lookInto } from '../support/queue.ts';
import { aPayment, eventually, postPayment, testApi, testGateway, testWorker } from '../support/relay.ts';
import { freshPrefix, sharedRedis, sql } from '../support/services.ts';
import { pretendDrained, unresolvedPayments } from '../support/settling.ts';

const COMMANDS = fileURLToPath(new URL('../../src/commands/', import.meta.url));

async function run(
  { prefix, databaseUrl }: { prefix: string; databaseUrl: string },
  [command, ...args]: readonly string[],
  env: Readonly<Record<string, string>> = {},
) {
  const settings = {
    REDIS_URL: (await sharedRedis()).url,
    DATABASE_URL: databaseUrl,
    REDIS_KEY_PREFIX: prefix.replaceAll(/[{}]/g, ''),
    ...env,
  };
  const child = spawn(process.execPath, [`${COMMANDS}${command}.ts`, ...args], { env: settings });
  const [out, err, code] = await Promise.all([
    text(child.stdout),
    text(child.stderr),
    new Promise((resolve) => child.once('exit', resolve)),
  ]);
  return { out, err, code };
}

type Relay = Awaited<ReturnType<typeof unresolvedPayments>>['relay'];

/** Lets the last attempts of these payments be older than RELEASE_AFTER_MS, and stops the primary. */
async function letTimePass(relay: Pick<Relay, 'redis' | 'key' | 'prefix'>, ids: readonly string[]): Promise<void> {
  for (const id of ids) await relay.redis.hset(relay.key(id), 'attemptedAt', 1);
  await pretendDrained(relay.prefix, 'primary');
}

describe('npm run payments', function () {
  this.timeout(60_000);

  it('shows a payment and lists those that are unresolved', async () => {
    const { relay, ids } = await unresolvedPayments();
    const { out, err, code } = await run(relay, ['payments', 'show', ids[0]]);
    expect(JSON.parse(out), err).to.include({ correlationId: ids[0], state: 'unresolved', boundTo: 'primary' });
    expect(code).to.equal(0);
    const listed = await run(relay, ['payments', 'unresolved', '--gateway', 'primary']);
    expect(listed.out).to.match(new RegExp(`^${ids[0]}  .*  unresolved  gateway_response  primary gateway: `));
  });

  it('releases all of a gateway, after a dry run that changes nothing, with a row for each', async () => {
    const { relay, ids } = await unresolvedPayments(2);
    const all = ['payments', 'release', '--gateway', 'primary'] as const;
    const early = await run(relay, [...all, '--reason', 'too early']);
    expect(early).to.include({ code: 1, out: '' });
    await letTimePass(relay, ids);
    const dry = await run(relay, [...all, '--dry-run']);
    expect(dry.out, dry.err).to.match(/Would be: 2 released\n$/);
    expect(await relay.unresolved()).to.deep.equal(ids);
    const { out, err, code } = await run(relay, [...all, '--reason', 'ticket 7']);
    expect(out, err).to.match(/\n2 released\n$/);
    expect(code).to.equal(0);
    expect(await relay.unresolved()).to.deep.equal([]);
    const rows = await sql<{ action: string; state: string; who: string }>(
      relay.databaseUrl,
      'SELECT action, state, who FROM operator_actions ORDER BY id',
    );
    expect(rows.map(({ action, state }) => `${action} ${state}`)).to.deep.equal([
      'unresolved.release refused',
      'unresolved.release done',
      'payment.release done',
      'payment.release done',
    ]);
    expect(rows[0]!.who).to.match(/.@./);
  });

  it('records and rejects one payment, and says why it refuses another', async () => {
    const { relay, ids } = await unresolvedPayments(2);
    const [made, never] = ids as [string, string];
    await letTimePass(relay, ids);
    const statement = ['--gateway', 'primary', '--amount', '19.90', '--requested-at', '2026-01-02T03:04:05.678Z'];
    const recorded = await run(relay, ['payments', 'record', made, ...statement, '--reason', 'a test']);
    expect(JSON.parse(recorded.out), recorded.err).to.include({ result: 'recorded' });
    expect((await relay.ledger()).get(made)).to.deep.equal({
      gateway: 'default',
      amountCents: 1_990,
      requestedAt: '2026-01-02T03:04:05.678Z',
    });
    const rejected = await run(relay, ['payments', 'reject', never, '--reason', 'the account is closed']);
    expect(JSON.parse(rejected.out), rejected.err).to.include({ result: 'rejected' });
    expect(await relay.status(never)).to.include({ state: 'dead_letter', detail: 'the account is closed' });
    const again = await run(relay, ['payments', 'release', made, '--reason', 'a test']);
    expect(again.err).to.equal(`Refused: ${made}: it is recorded for the primary gateway\n`);
    expect(again.code).to.equal(1);
  });

  it('exits 2 on a wrong argument, and while a server is down', async () => {
    const prefix = freshPrefix();
    const down = { prefix, databaseUrl: 'postgres://nobody@127.0.0.1:1/none' };
    for (const args of [
      [],
      ['show'],
      ['pay', 'x'],
      ['release', aPayment().correlationId],
      ['reject', '--gateway', 'x'],
    ]) {
      expect(await run(down, ['payments', ...args]), args.join(' ')).to.include({ code: 2 });
    }
    const { code, err } = await run(down, ['payments', 'release', aPayment().correlationId, '--reason', 'a test']);
    expect(code, err).to.equal(2);
    expect(await run(down, ['payments', '--help'])).to.include({ code: 0 });
  });
});

describe('a released payment that the primary has charged after all', function () {
  this.timeout(60_000);

  it('is named by npm run reconcile with who has released it', async () => {
    const prefix = freshPrefix();
    const [primary, fallback] = [await testGateway(), await testGateway()];
    const gateways = { GATEWAY_PRIMARY_URL: primary.url, GATEWAY_FALLBACK_URL: fallback.url };
    const { url, config } = await testApi({ ...gateways }, prefix);
    const relay = { prefix, databaseUrl: config.database.url, ...(await lookInto(prefix)) };
    await gatewayAdmin(primary.url).configure({ delayMs: 1_500, failure: false });
    const payment = aPayment();
    const { correlationId: id } = payment;
    await postPayment(url, payment);
    const env = { DATABASE_URL: relay.databaseUrl, FALLBACK_ON: 'not_sent' };
    const worker = await testWorker({ ...env, ...gateways }, prefix);
    await eventually(async () => (await relay.redis.zscore(relay.key('delayed'), id)) !== null);
    await worker.close();
    await eventually(async () => (await gatewayAdmin(primary.url).totals()).totalRequests === 1);

    await letTimePass(relay, [id]);
    const released = await run(relay, [
      'payments',
      'release',
      id,
      '--reason',
      'the provider says that it has not made it',
    ]);
    expect(released.err).to.equal('');
    const unpaid = await run(relay, ['reconcile'], gateways);
    expect(unpaid.out, unpaid.err).to.match(
      new RegExp(`${id}  on record at primary, in the queue and not recorded; released from primary by .+@.+ at 20`),
    );
    // The operator's stop of the primary holds.
    await testWorker({ ...env, ...gateways, FALLBACK_AFTER_MS: '500' }, prefix);
    await eventually(async () => (await gatewayAdmin(fallback.url).totals()).totalRequests === 1, 20_000);
    await eventually(async () => !(await relay.isStored(id)));
    const { out, err, code } = await run(relay, ['reconcile'], gateways);
    expect(out, err).to.match(
      new RegExp(`${id}  recorded for fallback, also on record at primary; released from primary by .+@.+ at 20`),
    );
    expect(code).to.equal(1);
  });
});
