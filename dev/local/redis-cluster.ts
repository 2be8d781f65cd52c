import { readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { QUEUE_PREFIX } from '../../src/queue/payment-queue.ts';
import { freePort } from './ports.ts';
import type { ManagedServer } from './processes.ts';
import { startRedis } from './redis.ts';
import { redisCommand, until } from './redis-command.ts';
import type { RedisTopology } from './redis-topology.ts';

const MASTERS = 3;
const REPLICAS_OF_EACH = 2;
const SLOTS = 16_384;

/** A replica is cut from its master by a wrong password. The others still hear it over the bus, so that it can be promoted. */
const PASSWORD = 'cluster';

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

interface ClusterServer extends ManagedServer {
  readonly busPort: number;
  isLost: boolean;
}

/** What a server of the cluster says about itself. */
interface View {
  readonly server: ClusterServer;
  readonly id: string;
  readonly isMaster: boolean;
  /** The id of its master, for a replica. */
  readonly masterId: string;
  readonly epoch: number;
  readonly ranges: readonly (readonly [first: number, last: number])[];
}

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
 * A Redis Cluster of three masters with two replicas each. The primary is the master that serves the slot of the queue's keys.
 * @param prefix what every key of the queue begins with
 * @param command the path of another server, such as Valkey's
 */
export async function startRedisCluster({
  prefix = QUEUE_PREFIX,
  command,
  say,
}: {
  prefix?: string;
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

  let slot = -1;
  /** The ids of servers that were lost. They must be forgotten, or the others wait for them. */
  const lostIds: string[] = [];

  try {
    await Promise.all(Array.from({ length: MASTERS * (1 + REPLICAS_OF_EACH) }, startServer));
    await form(servers);
    slot = Number(await call(servers[0]!, 'CLUSTER', 'KEYSLOT', `${prefix}:`));
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
    async cutReplicas(count = REPLICAS_OF_EACH) {
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
    },
    dispose,
  };
  return cluster;
}

/** Makes a cluster of servers that are empty: the first ones are the masters. */
async function form(servers: readonly ClusterServer[]): Promise<void> {
  const ids = await Promise.all(servers.map(async (server) => String(await call(server, 'CLUSTER', 'MYID'))));
  const masters = servers.slice(0, MASTERS);
  await Promise.all(
    masters.map(async (server, index) => {
      const [first, next] = [index, index + 1].map((part) => Math.round((part * SLOTS) / MASTERS)) as [number, number];
      await call(server, 'CLUSTER', 'SET-CONFIG-EPOCH', index + 1);
      await call(server, 'CLUSTER', 'ADDSLOTSRANGE', first, next - 1);
    }),
  );
  // Each meets each: hearsay takes seconds.
  await Promise.all(
    servers.map(async (server, index) => {
      for (const other of servers.slice(index + 1)) await meet(server, other);
    }),
  );
  await until('all servers know each other', async () => {
    const known = await Promise.all(servers.map(knownIds));
    return known.every((seen) => ids.every((id) => seen.has(id)));
  });
  await Promise.all(
    servers.slice(MASTERS).map((server, index) => call(server, 'CLUSTER', 'REPLICATE', ids[index % MASTERS]!)),
  );
  await until('the cluster serves all slots and all replicas follow', async () => {
    const infos = await Promise.all(servers.map((server) => call(server, 'CLUSTER', 'INFO')));
    if (!infos.every((info) => String(info).includes('cluster_state:ok'))) return false;
    const following = await Promise.all(servers.slice(MASTERS).map((server) => isFollowing({ server })));
    if (following.includes(false)) return false;
    // A master promotes only a replica that the other masters know as its replica.
    const seen = await Promise.all(servers.map((server) => call(server, 'CLUSTER', 'NODES')));
    return seen.every((text) => [...String(text).matchAll(/slave [0-9a-f]{40}/g)].length === servers.length - MASTERS);
  });
}

async function meet(server: ClusterServer, other: ClusterServer): Promise<void> {
  await call(server, 'CLUSTER', 'MEET', '127.0.0.1', other.port, other.busPort);
}

/** The servers whose handshake with this one has ended. */
async function knownIds(server: ClusterServer): Promise<Set<string>> {
  const lines = String(await call(server, 'CLUSTER', 'NODES')).split('\n');
  return new Set(lines.filter((line) => !/handshake|fail|noaddr/.test(line)).map((line) => line.slice(0, 40)));
}

/** @throws when it does not respond */
async function viewOf(server: ClusterServer): Promise<View> {
  const text = String(await call(server, 'CLUSTER', 'NODES'));
  const line = text.split('\n').find((each) => each.includes('myself'))!;
  const [id, , flags, masterId, , , epoch, , ...slots] = line.split(' ');
  return {
    server,
    id: id!,
    isMaster: flags!.includes('master'),
    masterId: masterId!,
    epoch: Number(epoch),
    // Those in brackets are on their way to another master.
    ranges: slots
      .filter((range) => !range.startsWith('['))
      .map((range) => {
        const [first, last = first] = range.split('-').map(Number);
        return [first!, last!] as const;
      }),
  };
}

async function isFollowing({ server }: { server: ManagedServer }): Promise<boolean> {
  const info = await call(server, 'INFO', 'replication').catch(() => '');
  return String(info).includes('master_link_status:up');
}

/** Up to where the server has the writes of its shard. */
async function offsetOf({ server }: View): Promise<string | undefined> {
  const info = String(await call(server, 'INFO', 'replication'));
  return /^(?:slave_repl_offset|master_repl_offset):(\d+)/m.exec(info)?.[1];
}

function urlOf({ port }: ManagedServer): string {
  return `redis://:${PASSWORD}@127.0.0.1:${port}`;
}

const call = ({ port }: ManagedServer, command: string, ...args: (string | number)[]) =>
  redisCommand({ port, password: PASSWORD }, command, ...args);
