import { hash } from 'node:crypto';
import calculateSlot from 'cluster-key-slot';
import { Cluster, type Redis } from 'ioredis';
import type { Config, RedisConfig } from '../config.ts';
import { within } from '../process/deadline.ts';
import { type PaymentQueueName, queueKey } from './bullmq-layout.ts';
import { connectToNode, createProducerConnection, PRODUCER_COMMAND_TIMEOUT_MS } from './redis.ts';
import { isErrorReply, NotReplicatedError } from './redis-errors.ts';
import { createReplicaQuorum } from './replica-quorum.ts';
import { type Command, defineScript, readScript } from './scripts.ts';
import { countPromotable } from './sentinel-replicas.ts';

/**
 * Writes what must survive the loss of Redis' machine: a write counts only when replicas have confirmed it, by `WAIT`
 * (replica-quorum.ts says how many). A replica with `appendfsync always` confirms when it has the write on its disk.
 *
 * `WAIT` blocks its connection, so a writer has one of its own. In a cluster it goes to the node itself that serves the queue:
 * `WAIT` names no key, so a cluster client would send it to any node.
 */
export interface ReplicatedWriter {
  /**
   * A script as a function of its keys and arguments, which waits for the replicas. Everything that this server had carried out
   * before is on them then, too.
   *
   * The script must write: since Redis 7.2 `WAIT` covers what the connection has written last, and without a new write returns
   * at once.
   *
   * The function throws NotReplicatedError when the script was carried out and too few replicas have confirmed it in time, or
   * when it was not carried out because no sentinel says how many must; otherwise what Redis replies, or that it does not
   * respond. Then the script may have been carried out, too.
   * @param keyCount how many of the arguments are keys
   */
  script<Reply>(lua: string, keyCount: number): Command<Reply>;
  close(): void;
}

/** How long a replica may take to confirm. Below the time limit of a command. */
const CONFIRM_MS = PRODUCER_COMMAND_TIMEOUT_MS - 100;

/** How long a write waits for the connection. A refused one takes milliseconds. */
const CONNECTING_MS = 200;

/** At least so long between two new connections because no replica confirms: this may be the right server all the same. */
const LEAVE_EVERY_MS = 1_000;

/**
 * @param redis the connection that knows the cluster
 * @param key a key of the queue, for its slot
 */
export function createReplicatedWriter({
  config,
  redis,
  key,
}: {
  config: RedisConfig;
  redis: Redis | Cluster;
  key: string;
}): ReplicatedWriter {
  const link = redis instanceof Cluster ? nodeLink(config, redis, key) : masterLink(config);

  const quorum = createReplicaQuorum();

  /** Of each connection: the scripts that its server has. A new one may lack them: Redis does not replicate scripts. */
  const servers = new WeakMap<Redis, { readonly shas: Set<string>; readonly seen: Promise<void> }>();

  function serverOf(connection: Redis) {
    let server = servers.get(connection);
    if (server === undefined) {
      server = { shas: new Set(), seen: meet(connection) };
      servers.set(connection, server);
      connection.once('close', () => servers.delete(connection));
      // The next write asks again.
      server.seen.catch(() => servers.delete(connection));
    }
    return server;
  }

  async function meet(connection: Redis): Promise<void> {
    const [promotable, replication] = await Promise.all([
      quorum.isUnused ? link.countPromotable() : 0,
      connection.info('replication'),
    ]);
    quorum.connected(replication, promotable);
  }

  /** Before the write itself, because WAIT would not cover a script that is sent again after NOSCRIPT. */
  async function prepare(connection: Redis, lua: string, sha: string): Promise<void> {
    const { shas, seen } = serverOf(connection);
    await seen;
    if (shas.has(sha)) return;
    await connection.script('LOAD', lua);
    shas.add(sha);
  }

  /** @throws the error of the script or of WAIT, or NotReplicatedError */
  async function write<Reply>(
    connection: Redis,
    sha: string,
    keyCount: number,
    args: Parameters<Command<Reply>>,
  ): Promise<Reply> {
    const { wanted } = quorum;
    const pipeline = connection.pipeline();
    pipeline.evalsha(sha, keyCount, ...args);
    pipeline.call('WAIT', String(wanted), String(CONFIRM_MS));
    pipeline.call('INFO', 'replication');
    const [written, waited, info] = (await pipeline.exec())!;
    const error = written![0] ?? waited![0];
    if (error) throw error;
    const confirmed = waited![1] as number;
    // Without the right to INFO it is undefined.
    const replication = typeof info?.[1] === 'string' ? info[1] : undefined;
    const isConfirmed = quorum.isEnough(confirmed, wanted, replication);
    if (replication !== undefined) quorum.looked(replication);
    if (isConfirmed) return written![1] as Reply;
    throw new NotReplicatedError(
      `${confirmed} of ${wanted} replicas of Redis have confirmed a write within ${CONFIRM_MS} ms: are they connected, and do they keep up?`,
    );
  }

  return {
    script<Reply>(lua: string, keyCount: number): Command<Reply> {
      const sha = hash('sha1', lua);
      return async (...keysAndArguments) => {
        const connection = await link.open();
        try {
          await prepare(connection, lua, sha);
          return await write<Reply>(connection, sha, keyCount, keysAndArguments);
        } catch (error) {
          if (error instanceof NotReplicatedError) link.leaveSometimes();
          else if (isWrongServer(error as Error)) link.leave();
          else servers.delete(connection);
          throw error;
        }
      };
    },
    close: () => link.close(),
  };
}

/** A new connection may find another server: this one did not respond, is no longer the master, or does not serve the key. */
function isWrongServer(error: Error): boolean {
  return !isErrorReply(error) || /^(MOVED|ASK|READONLY|MASTERDOWN|CLUSTERDOWN|UNBLOCKED)\b/.test(error.message);
}

/** The connection of a writer, made anew whenever that may find a better server. */
interface Link {
  /** @throws when there is no connection */
  open(): Promise<Redis>;
  leave(): void;
  /** The server may be one that the others have given up. Does nothing soon after the last time. */
  leaveSometimes(): void;
  /** How many replicas of its server may have been promoted; 0 when nothing promotes them. @throws NotReplicatedError when nobody says it */
  countPromotable(): Promise<number>;
  close(): void;
}

/** To the one server, or to the master that the sentinels name. ioredis connects again by itself. */
function masterLink(config: RedisConfig): Link {
  const connection = createProducerConnection(config) as Redis;
  connection.on('error', ignore);
  let isLeaving = false;
  connection.on('close', () => {
    isLeaving = false;
  });
  const leave = () => {
    // Once: each time ioredis adds a listener to the socket, and a server that hangs closes it late.
    if (connection.status !== 'ready' || isLeaving) return;
    isLeaving = true;
    connection.disconnect(true);
  };
  return {
    open: () => ready(connection),
    leave,
    leaveSometimes: atMostEvery(LEAVE_EVERY_MS, leave),
    countPromotable: () => countPromotable(config),
    close: () => connection.disconnect(),
  };
}

/** To the node of a cluster that serves the key. The cluster's own connection knows which one that is. */
function nodeLink(config: RedisConfig, cluster: Cluster, key: string): Link {
  let current: { readonly node: string; readonly connection: Redis } | undefined;
  const slot = calculateSlot(key);

  function drop(): void {
    current?.connection.disconnect();
    current = undefined;
  }
  const leave = () => {
    drop();
    cluster.refreshSlotsCache();
  };

  return {
    async open() {
      const node = cluster.slots[slot]?.[0];
      if (node === undefined) throw new Error('the cluster does not say which node serves the queue');
      if (current?.node !== node || current.connection.status === 'end') {
        drop();
        const connection = connectToNode(config, addressOf(node));
        connection.on('error', ignore);
        current = { node, connection };
      }
      try {
        return await ready(current.connection);
      } catch (error) {
        leave();
        throw error;
      }
    },
    leave,
    leaveSometimes: atMostEvery(LEAVE_EVERY_MS, leave),
    // After the master the slot table names the replicas that the cluster does not hold for dead.
    countPromotable: async () => (cluster.slots[slot]?.length ?? 1) - 1,
    close: drop,
  };
}

/** @param node as the cluster's slot table has it: `host:port`, where an IPv6 address has colons of its own */
function addressOf(node: string): { host: string; port: number } {
  const colon = node.lastIndexOf(':');
  return { host: node.slice(0, colon), port: Number(node.slice(colon + 1)) };
}

async function ready(connection: Redis): Promise<Redis> {
  if (connection.status !== 'ready') {
    const { promise: settled, resolve } = Promise.withResolvers<void>();
    connection.on('ready', resolve);
    connection.on('close', resolve);
    await within(performance.now() + CONNECTING_MS, settled);
    connection.off('ready', resolve);
    connection.off('close', resolve);
  }
  // `disconnect` and the events change it behind the back of the types.
  if ((connection.status as string) !== 'ready') throw new Error('Connection is closed.');
  return connection;
}

/** A lost connection fails its commands. Without a listener its event would end the process. */
function ignore(): void {}

function atMostEvery(intervalMs: number, run: () => void): () => void {
  let nextAtMs = Number.NEGATIVE_INFINITY;
  return () => {
    if (performance.now() < nextAtMs) return;
    nextAtMs = performance.now() + intervalMs;
    run();
  };
}

/**
 * A script that counts when a replica has confirmed it, if there is a writer; otherwise as `defineScript`.
 * @param name of the script in `scripts/`, whose text is the default of `lua`
 */
export function defineWrite<Reply>(
  { redis, writer }: { redis: Redis | Cluster; writer: ReplicatedWriter | undefined },
  name: string,
  keyCount: number,
  lua = readScript(name),
): Command<Reply> {
  return writer ? writer.script<Reply>(lua, keyCount) : defineScript<Reply>(redis, name, keyCount, lua);
}

/** The writer of a process, where `DURABILITY` asks for one. @param redis the connection that the process uses otherwise */
export function writerFor(
  { redis: config, queue: { durability } }: Pick<Config, 'redis' | 'queue'>,
  redis: Redis | Cluster,
  queue: PaymentQueueName,
): ReplicatedWriter | undefined {
  return durability === 'replica' ? createReplicatedWriter({ config, redis, key: queueKey(queue, 'meta') }) : undefined;
}
