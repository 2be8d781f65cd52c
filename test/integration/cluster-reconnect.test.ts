import { expect } from 'chai';
import type { Cluster, Redis } from 'ioredis';
import { freePort } from '../../dev/local/ports.ts';
import type { ManagedServer } from '../../dev/local/processes.ts';
import { startRedis } from '../../dev/local/redis.ts';
import { redisCommand } from '../../dev/local/redis-command.ts';
import { loadConfig } from '../../src/config.ts';
import { createWorkerConnection } from '../../src/queue/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { eventually } from '../support/relay.ts';
import { sideBySide } from '../support/side-by-side.ts';
import { PATIENCE_MS } from '../support/stack.ts';

const SLOTS = 16_384;
const HALF = SLOTS / 2;

/** Two keys, each in the slots of another master. */
const KEYS = ['b', 'a'];

/** A cluster of two masters without replicas. @param slots how many slots are served; all by default */
async function twoMasters(slots = SLOTS): Promise<[ManagedServer, ManagedServer]> {
  const start = async () => {
    const busPort = await freePort();
    const server = await startRedis({ args: ['--cluster-enabled', 'yes', '--cluster-port', String(busPort)] });
    atTestEnd(() => server.dispose());
    return { server, busPort };
  };
  const [first, second] = await Promise.all([start(), start()]);
  await redisCommand(first.server, 'CLUSTER', 'SET-CONFIG-EPOCH', 1);
  await redisCommand(second.server, 'CLUSTER', 'SET-CONFIG-EPOCH', 2);
  await redisCommand(first.server, 'CLUSTER', 'ADDSLOTSRANGE', 0, HALF - 1);
  await redisCommand(second.server, 'CLUSTER', 'ADDSLOTSRANGE', HALF, slots - 1);
  await redisCommand(first.server, 'CLUSTER', 'MEET', '127.0.0.1', second.server.port, second.busPort);
  const servers = [first.server, second.server] as [ManagedServer, ManagedServer];
  const state = slots === SLOTS ? 'ok' : 'fail';
  await eventually(async () => {
    const infos = await Promise.all(servers.map((server) => redisCommand(server, 'CLUSTER', 'INFO')));
    return infos.every(
      (info) => String(info).includes(`cluster_state:${state}`) && /cluster_size:2/.test(String(info)),
    );
  }, PATIENCE_MS);
  return servers;
}

function connectTo(...servers: ManagedServer[]): Cluster {
  const nodes = servers.map(({ port }) => `127.0.0.1:${port}`).join(',');
  const { redis } = loadConfig({ REDIS_URL: `redis://${nodes.split(',')[0]}`, REDIS_CLUSTER_NODES: nodes });
  const cluster = createWorkerConnection(redis) as Cluster;
  cluster.on('error', () => {});
  atTestEnd(() => cluster.disconnect());
  return cluster;
}

/** @throws when the promise does not settle: nothing else would end a scenario that hangs */
async function settled<T>(promise: Promise<T>, what: string): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: did not happen`)), PATIENCE_MS);
  });
  return await Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Not `once` of Node: it rejects at the error events of lost connections. */
const next = (emitter: Cluster | Redis, event: string) =>
  settled(new Promise<void>((resolve) => emitter.once(event, () => resolve())), event);

/** Private parts of ioredis 5. */
interface Pool {
  reset(nodes: readonly object[]): void;
  findOrCreate(node: object): Redis;
}

const poolOf = (cluster: Cluster) => (cluster as unknown as { readonly connectionPool: Pool }).connectionPool;

const addressOf = ({ port }: ManagedServer) => ({ host: '127.0.0.1', port });

/** Connected to both masters. */
async function inUse(servers: readonly ManagedServer[]): Promise<Cluster> {
  const cluster = connectTo(...servers);
  await Promise.all(KEYS.map((key) => cluster.get(key)));
  return cluster;
}

describe('connection to a Redis Cluster', () => {
  sideBySide({
    'is connected when the cluster becomes ready at a later attempt': async () => {
      const [first, second] = await twoMasters(SLOTS - 1);
      const cluster = connectTo(first, second);
      // Not ready for commands: it is told to close, and connects anew.
      await next(cluster, 'reconnecting');
      cluster.disconnect();
      await next(cluster, 'end');
      const connected = cluster.connect();
      await next(cluster, 'reconnecting');
      await redisCommand(second, 'CLUSTER', 'ADDSLOTS', SLOTS - 1);
      await settled(connected, 'connected');
      expect(await cluster.get(KEYS[0]!)).to.equal(null);
    },

    'fails to connect when it is closed meanwhile': async () => {
      const cluster = connectTo(...(await twoMasters(SLOTS - 1)));
      await next(cluster, 'reconnecting');
      cluster.disconnect();
      await next(cluster, 'end');
      const failed = cluster.connect().then(
        () => false,
        () => true,
      );
      await next(cluster, 'reconnecting');
      cluster.disconnect();
      expect(await settled(failed, 'failed')).to.equal(true);
    },

    'tries again when the nodes hang before they say whether they are ready': async () => {
      const servers = await twoMasters();
      const cluster = connectTo(...servers);
      await next(cluster, 'connect');
      for (const server of servers) server.signal('SIGSTOP');
      const hungAt = performance.now();
      await next(cluster, 'reconnecting');
      // A worker destroys a silent socket after 15 s.
      expect(performance.now() - hungAt).to.be.below(8_000);
      for (const server of servers) server.signal('SIGCONT');
      await next(cluster, 'ready');
    },

    'stays at its end when all of its connections have ended': async () => {
      const cluster = await inUse(await twoMasters());
      const ends = cluster.nodes().map((node) => next(node, 'end'));
      expect(ends).to.have.length(2);
      cluster.disconnect();
      await Promise.all([...ends, next(cluster, 'end')]);
      expect(cluster.status).to.equal('end');
    },

    'keeps the new connection to a node when the old one ends': async () => {
      const servers = await twoMasters();
      const cluster = await inUse(servers);
      const pool = poolOf(cluster);
      const isFirst = ({ options }: Redis) => options.port === servers[0].port;
      const ended = next(cluster.nodes().find(isFirst)!, 'end');
      // As a slot table does that lacks the node, and a MOVED reply that names it.
      pool.reset([addressOf(servers[1])]);
      const added = pool.findOrCreate(addressOf(servers[0]));
      await ended;
      expect(cluster.nodes()).to.include(added);
    },

    'connects again when it is told to before it knows its nodes': async () => {
      const cluster = connectTo(...(await twoMasters()));
      cluster.disconnect(true);
      await next(cluster, 'ready');
      expect(await cluster.get(KEYS[0]!)).to.equal(null);
    },

    'ends when it is closed before it knows its nodes': async () => {
      const cluster = connectTo(...(await twoMasters()));
      cluster.disconnect();
      await next(cluster, 'end');
      expect(cluster.status).to.equal('end');
    },

    'ends when it is closed between two attempts, and connects again when the nodes are back': async () => {
      const servers = await twoMasters();
      const cluster = await inUse(servers);
      await Promise.all(servers.map((server) => server.kill()));
      await eventually(() => cluster.status === 'reconnecting', PATIENCE_MS);
      cluster.disconnect();
      await next(cluster, 'end');
      await Promise.all(servers.map((server) => server.start()));
      await settled(cluster.connect(), 'connected');
      expect(await cluster.get(KEYS[0]!)).to.equal(null);
    },

    'closes when a MOVED reply comes meanwhile': async () => {
      const servers = await twoMasters();
      const cluster = await inUse(servers);
      cluster.disconnect(true);
      // What ioredis does with the reply, which names a node that it does not know yet.
      poolOf(cluster).findOrCreate({ ...addressOf(servers[0]), host: 'localhost' });
      await next(cluster, 'ready');
      expect(await cluster.get(KEYS[0]!)).to.equal(null);
    },
  });
});
