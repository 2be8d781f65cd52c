import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import calculateSlot from 'cluster-key-slot';
import { QUEUE_PREFIX } from '../../src/queue/payment-queue.ts';
import { freePort } from './ports.ts';
import type { ManagedServer } from './processes.ts';
import { startRedis } from './redis.ts';
import {
  type ClusterServer,
  call,
  form,
  isFollowing,
  knownIds,
  meet,
  offsetOf,
  PASSWORD,
  urlOf,
  type View,
  viewOf,
} from './redis-cluster-nodes.ts';
import { until } from './redis-command.ts';
import type { RedisTopology } from './redis-topology.ts';

/** As docs/operating.md recommends, and quicker copies for a replica that joins. */
const ARGUMENTS = [
  ...['--cluster-enabled', 'yes', '--cluster-node-timeout', '2000', '--cluster-replica-validity-factor', '0'],
  // Without it the loss of one master stops the others until a replica has taken its place.
  ...['--cluster-require-full-coverage', 'no'],
  // A replica of another shard must not come to the help of the queue's shard: the fault would be over too soon.
  ...['--cluster-allow-replica-migration', 'no'],
  ...['--requirepass', PASSWORD, '--masterauth', PASSWORD],
  ...['--repl-diskless-sync', 'yes', '--repl-diskless-sync-delay', '0'],
];

/** How long the move of a page of keys may take. */
const MOVE_MS = 1_000;

export interface RedisCluster extends RedisTopology {
  readonly name: 'cluster';
  /** The server that is the primary now. A test may make it hang. */
  primary(): Promise<ManagedServer>;
  /** Whether every replica of the primary has all that was written up to now. */
  isCopied(): Promise<boolean>;
  /** Moves the slot of the queue, with its keys, to another master. */
  moveSlot(): Promise<void>;
}

/**
 * A Redis Cluster. The primary is the master that serves the slot of a queue's keys.
 * @param prefixes what every key of a queue begins with, for each queue. After each `mend()` it is the turn of the next one
 * @param replicas of each master
 * @param command the path of another server, such as Valkey's
 */
export async function startRedisCluster({
  prefixes = [QUEUE_PREFIX],
  masters = 3,
  replicas: replicasOfEach = 2,
  command,
  say,
}: {
  prefixes?: readonly string[];
  masters?: number;
  replicas?: number;
  command?: string;
  say?: (line: string) => void;
} = {}): Promise<RedisCluster> {
  const servers: ClusterServer[] = [];
  const dispose = async () => {
    await Promise.all(servers.map((server) => server.dispose()));
  };

  async function startServer(): Promise<void> {
    // By default the port + 10000, which the system may have given to an outgoing connection.
    const busPort = await freePort();
    const args = [...ARGUMENTS, '--cluster-port', String(busPort)];
    const server = await startRedis({ command, args, ...(say && { say }) });
    servers.push(Object.assign(server, { busPort, isLost: false }));
  }

  /** All servers that respond. */
  async function views(): Promise<View[]> {
    const seen = await Promise.all(servers.map((server) => viewOf(server).catch(() => undefined)));
    return seen.filter((view) => view !== undefined);
  }
  /** @throws while no server that responds serves the slot */
  async function shard(): Promise<{ readonly primary: View; readonly replicas: readonly View[] }> {
    const all = await views();
    const slot = slots[0]!;
    // After a failover the old master may not know yet that it is none.
    const [primary] = all
      .filter(({ isMaster, ranges }) => isMaster && ranges.some(([first, last]) => first <= slot && slot <= last))
      .toSorted((a, b) => b.epoch - a.epoch);
    if (primary === undefined) throw new Error('no master serves the queue');
    return { primary, replicas: all.filter(({ isMaster, masterId }) => !isMaster && masterId === primary.id) };
  }
  const living = () => servers.filter(({ isLost }) => !isLost);

  /** An empty server becomes a replica of the primary. */
  async function joinShard(server: ClusterServer): Promise<void> {
    const { primary } = await shard();
    const { id } = await viewOf(server);
    await meet(primary.server, server);
    await until('the primary knows the new server', async () => (await knownIds(server)).has(primary.id));
    await call(server, 'CLUSTER', 'REPLICATE', primary.id);
    await until('all know the new server', async () => {
      const known = await Promise.all(living().map(knownIds));
      return known.every((ids) => ids.has(id));
    });
  }

  async function lose({ server, id }: View): Promise<void> {
    server.isLost = true;
    lostIds.push(id);
    await server.kill();
    for (const name of readdirSync(server.dir)) rmSync(join(server.dir, name), { recursive: true });
  }

  let slots: readonly number[] = [];
  /** The ids of servers that were lost. They must be forgotten, or the others wait for them. */
  const lostIds: string[] = [];

  try {
    await Promise.all(Array.from({ length: masters * (1 + replicasOfEach) }, startServer));
    await form(servers, masters);
    slots = prefixes.map((prefix) => calculateSlot(`${prefix}:`));
  } catch (error) {
    await dispose();
    throw error;
  }

  const cluster: RedisCluster = {
    name: 'cluster',
    env: {
      REDIS_URL: `redis://:${PASSWORD}@127.0.0.1:${servers[0]!.port}`,
      REDIS_CLUSTER_NODES: servers.map(({ port }) => `127.0.0.1:${port}`).join(','),
    },
    async primaryUrl() {
      return urlOf((await shard()).primary.server);
    },
    async primary() {
      return (await shard()).primary.server;
    },
    async cutReplicas(count = replicasOfEach) {
      const { replicas } = await shard();
      await Promise.all(
        replicas.slice(0, count).map(async ({ server }) => {
          await call(server, 'CONFIG', 'SET', 'masterauth', 'wrong');
          await call(server, 'CLIENT', 'KILL', 'TYPE', 'master');
        }),
      );
    },
    async healReplicas() {
      await Promise.all(living().map((server) => call(server, 'CONFIG', 'SET', 'masterauth', PASSWORD)));
    },
    losePrimary: async () => lose((await shard()).primary),
    loseReplica: async () => lose((await shard()).replicas[0]!),
    async restartPrimary() {
      const { server } = (await shard()).primary;
      await server.kill();
      await server.start();
    },
    async moveAway() {
      const { primary, replicas } = await shard();
      await until('a replica follows', async () => (await Promise.all(replicas.map(isFollowing))).includes(true));
      for (const { server } of replicas) {
        if (await isFollowing({ server })) {
          await call(server, 'CLUSTER', 'FAILOVER');
          break;
        }
      }
      await until('another server is the primary', async () => (await shard()).primary.id !== primary.id);
    },
    async isCopied() {
      const { primary, replicas } = await shard();
      const offsets = await Promise.all([primary, ...replicas].map(offsetOf));
      return replicas.length > 0 && new Set(offsets).size === 1;
    },
    async moveSlot() {
      const slot = slots[0]!;
      const { primary } = await shard();
      const all = await views();
      const target = all.find(({ id, isMaster, ranges }) => isMaster && id !== primary.id && ranges.length > 0)!;
      await call(target.server, 'CLUSTER', 'SETSLOT', slot, 'IMPORTING', primary.id);
      await call(primary.server, 'CLUSTER', 'SETSLOT', slot, 'MIGRATING', target.id);
      const to = ['127.0.0.1', target.server.port];
      for (;;) {
        const keys = (await call(primary.server, 'CLUSTER', 'GETKEYSINSLOT', slot, 100)) as string[];
        if (keys.length === 0) break;
        await call(primary.server, 'MIGRATE', ...to, '', 0, MOVE_MS, 'AUTH', PASSWORD, 'KEYS', ...keys);
      }
      for (const { server } of [target, primary]) await call(server, 'CLUSTER', 'SETSLOT', slot, 'NODE', target.id);
      await until('another server is the primary', async () => (await shard()).primary.id === target.id);
    },
    async mend() {
      await cluster.healReplicas();
      await until('a server is the primary', async () => (await shard()) !== undefined);
      for (const id of lostIds.splice(0)) {
        await Promise.all(living().map((server) => call(server, 'CLUSTER', 'FORGET', id).catch(() => undefined)));
      }
      for (const server of servers.filter(({ isLost }) => isLost)) {
        await server.start();
        server.isLost = false;
        await joinShard(server);
      }
      await until('a replica follows the primary', async () => {
        const { replicas } = await shard();
        return (await Promise.all(replicas.map(isFollowing))).includes(true);
      });
      slots = [...slots.slice(1), slots[0]!];
    },
    dispose,
  };
  return cluster;
}
