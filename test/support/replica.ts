import { expect } from 'chai';
import type { ManagedServer } from '../../dev/local/processes.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { atTestEnd } from './cleanup.ts';
import { aPayment, eventually, postPayment, testApi, testRedis } from './relay.ts';

/** A Redis of the test's own. @param command the path of another server than Redis */
export async function ownRedis(args: readonly string[] = [], command?: string): Promise<ManagedServer> {
  const server = await startRedis({ command, args });
  atTestEnd(() => server.dispose());
  return server;
}

export interface ReplicatedRedis {
  readonly url: string;
  readonly primary: ManagedServer;
  readonly replica: ManagedServer;
  /** Resolves when so many replicas have all data of the primary and follow it. */
  followed(count?: number): Promise<void>;
}

/**
 * A Redis with one replica that follows it, without anybody who would promote that.
 * @param command the path of another server than Redis
 */
export async function replicatedRedis(command?: string): Promise<ReplicatedRedis> {
  // By default a primary waits 5 s for more replicas before it sends its data.
  const primary = await ownRedis(['--repl-diskless-sync-delay', '0'], command);
  const replica = await ownRedis(['--replicaof', '127.0.0.1', String(primary.port)], command);
  const admin = await testRedis(primary.url);
  const followed = async (count = 1) => {
    await eventually(async () => (await admin.info('replication')).match(/state=online/g)?.length === count);
  };
  await followed();
  return { url: primary.url, primary, replica, followed };
}

/**
 * A payment that its replica lacks is posted again, at an API node all of whose own writes are on the replica. Since Redis 7.2 WAIT
 * covers only what its connection has written. So this node must not say 204 before the replica has the payment.
 * @param command the path of another server than Redis
 */
export async function expectKnownIdsToWait(command?: string): Promise<void> {
  const { primary, replica } = await replicatedRedis(command);
  const env = { REDIS_URL: primary.url, DURABILITY: 'replica' };
  const first = await testApi(env);
  const second = await testApi(env, first.prefix);
  for (const { url } of [first, second]) {
    await eventually(async () => (await postPayment(url)).status === 204);
  }
  const payment = aPayment();
  replica.signal('SIGSTOP');
  try {
    expect((await postPayment(first.url, payment)).status).to.equal(503);
    // Also over the connection that the writer makes anew.
    for (let post = 1; post <= 3; post += 1) {
      expect((await postPayment(second.url, payment)).status).to.equal(503);
    }
  } finally {
    replica.signal('SIGCONT');
  }
  await eventually(async () => (await postPayment(second.url, payment)).status === 204);
}
