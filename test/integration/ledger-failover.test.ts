import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { text } from 'node:stream/consumers';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { readLedger } from '../../dev/audit.ts';
import type { ManagedServer } from '../../dev/local/processes.ts';
import { createTcpProxy } from '../../dev/tcp-proxy.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { aPayment, eventually, postPayment, testApi, testGateway, testWorker } from '../support/relay.ts';
import { freshDatabase, freshPrefix, sharedRedis, sql, startTestPostgres } from '../support/services.ts';
import { PATIENCE_MS } from '../support/stack.ts';
import { promote, startStandby } from '../support/standby.ts';
import { setSynchronousStandbys } from '../support/synchronous-standby.ts';

const RECONCILE = fileURLToPath(new URL('../../src/commands/reconcile.ts', import.meta.url));

/** Payments that a worker has in flight. */
const CONCURRENCY = 16;

/** A relay whose ledger has a standby. */
async function relayWithStandby(kind: 'synchronous' | 'asynchronous') {
  const postgres = await startTestPostgres({ wal_keep_size: '256MB' });
  atTestEnd(() => postgres.dispose());
  const databaseUrl = await freshDatabase(postgres);
  if (kind === 'synchronous') await setSynchronousStandbys(postgres.url, 'ANY 1 (standby1, standby2)');
  const link = await createTcpProxy(postgres.port);
  atTestEnd(() => link.close());
  const standby = await startStandby(postgres, { name: 'standby1', port: link.port });
  atTestEnd(() => standby.dispose());
  await eventually(async () => {
    const [row] = await sql<{ state: string }>(postgres.url, 'SELECT state FROM pg_stat_replication');
    return row?.state === 'streaming';
  }, PATIENCE_MS);

  const address = await createTcpProxy(postgres.port);
  atTestEnd(() => address.close());
  const primary = await testGateway({ delayMs: 5 });
  const fallback = await testGateway();
  const at = (server: ManagedServer | { readonly port: number }) => {
    const url = new URL(databaseUrl);
    url.port = String(server.port);
    return url.href;
  };
  const prefix = freshPrefix();
  const env = {
    DATABASE_URL: at(address),
    GATEWAY_PRIMARY_URL: primary.url,
    GATEWAY_FALLBACK_URL: fallback.url,
    PAYMENT_QUEUE_MAX_CONCURRENCY: String(CONCURRENCY),
  };
  const { url } = await testApi(env, prefix);
  const accepted = new Set<string>();
  return {
    postgres,
    link,
    standby,
    primary,
    fallback,
    accepted: accepted as ReadonlySet<string>,
    startWorker: (more = {}) => testWorker({ ...env, ...more }, prefix),
    /** Posts it until it is accepted: on a busy machine Redis may take too long. */
    async post(payment = aPayment()): Promise<void> {
      await eventually(async () => (await postPayment(url, payment)).status === 204, PATIENCE_MS);
      accepted.add(payment.correlationId);
    },
    isQueueEmpty: async () => {
      const { queue } = (await (await fetch(`${url}/health`)).json()) as {
        queue: { queue_size: number; in_flight: number };
      };
      return queue.queue_size + queue.in_flight === 0;
    },
    /** The ids that the ledger of this server has. */
    async recorded(server: ManagedServer): Promise<Set<string>> {
      const ledger = await readLedger(at(server));
      return new Set([...ledger.primary.keys(), ...ledger.fallback.keys()]);
    },
    /** The primary's machine is lost with its disk, and the standby takes over its address. */
    async failOver(): Promise<void> {
      await postgres.dispose();
      await promote(standby);
      address.leadTo(standby.port);
    },
    async reconcile() {
      const child = spawn(process.execPath, [RECONCILE], {
        env: { ...env, REDIS_URL: (await sharedRedis()).url },
      });
      const [out, [code]] = await Promise.all([text(child.stdout), once(child, 'exit')]);
      return { out, code: code as number };
    },
  };
}

describe('a failover of the ledger to a standby', function () {
  this.timeout(4 * PATIENCE_MS);

  it('keeps every payment that was completed, when the standby is synchronous', async () => {
    const relay = await relayWithStandby('synchronous');
    const { postgres, standby, primary, fallback, accepted, post, isQueueEmpty, recorded } = relay;
    const worker = await relay.startWorker();
    let isOver = false;
    const load = Promise.all(
      Array.from({ length: 4 }, async () => {
        while (!isOver) {
          await post();
          await sleep(20);
        }
      }),
    );
    await primary.waitFor(({ payments }) => payments.size >= 100, PATIENCE_MS);
    await relay.link.set({ kind: 'black_hole' });
    await eventually(() => worker.entries.some(({ code }) => code === 'ledger_unavailable'), PATIENCE_MS);
    // Payments are accepted on, and none is paid but those that were in flight.
    const acceptedThen = accepted.size;
    await eventually(() => accepted.size >= acceptedThen + 50, PATIENCE_MS);
    expect(primary.payments.size - (await recorded(postgres)).size).to.be.within(1, CONCURRENCY);
    await relay.failOver();
    const paidThen = primary.payments.size;
    await primary.waitFor(({ payments }) => payments.size >= paidThen + 100, PATIENCE_MS);
    isOver = true;
    await load;
    await eventually(isQueueEmpty, PATIENCE_MS);
    expect(new Set(primary.payments.keys())).to.deep.equal(accepted);
    expect(fallback.payments.size).to.equal(0);
    expect(await recorded(standby)).to.deep.equal(accepted);
    expect((await relay.reconcile()).code).to.equal(0);
  });

  it('loses what an asynchronous standby had not received: reconcile shows it, and posting again with FALLBACK_ON=never records it unpaid', async () => {
    const relay = await relayWithStandby('asynchronous');
    const { primary, fallback, accepted, post, isQueueEmpty, recorded, standby, reconcile } = relay;
    const worker = await relay.startWorker();
    const early = Array.from({ length: 20 }, () => aPayment());
    await Promise.all(early.map(post));
    await eventually(async () => (await recorded(standby)).size === early.length, PATIENCE_MS);
    await relay.link.set({ kind: 'black_hole' });
    const late = Array.from({ length: 20 }, () => aPayment());
    await Promise.all(late.map(post));
    await eventually(isQueueEmpty, PATIENCE_MS);
    expect((await recorded(relay.postgres)).size).to.equal(accepted.size);
    await relay.failOver();
    expect(await recorded(standby)).to.deep.equal(new Set(early.map(({ correlationId }) => correlationId)));

    const lost = await reconcile();
    expect(lost.code).to.equal(1);
    expect(lost.out).to.include(`primary: ${late.length} more on record than in the ledger`);
    for (const { correlationId } of late) expect(lost.out).to.include(correlationId);

    // One that the fallback was paid, and that the ledger has lost as well.
    const atFallback = aPayment();
    await fetch(`${fallback.url}/payments`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ ...atFallback, requestedAt: new Date().toISOString() }),
    });
    await worker.close();
    await relay.startWorker({ FALLBACK_ON: 'never' });
    await Promise.all([...late, atFallback].map(post));
    await eventually(isQueueEmpty, PATIENCE_MS);
    expect(primary.payments.size).to.equal(early.length + late.length);
    expect(fallback.payments.size).to.equal(1);
    expect((await reconcile()).code).to.equal(0);
  });
});
