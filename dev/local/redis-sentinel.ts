import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { freePort } from './ports.ts';
import { type ManagedServer, managedServer, temporaryDirectory } from './processes.ts';
import { ensureRedis, REDIS_CONFIGURATION } from './redis.ts';
import { redisCommand, until } from './redis-command.ts';
import type { RedisTopology } from './redis-topology.ts';

const SERVERS = 3;
const SENTINELS = 3;
const QUORUM = 2;

const MASTER_NAME = 'payments';
const PASSWORD = 'server';
const SENTINEL_PASSWORD = 'sentinel';

export interface RedisSentinel extends RedisTopology {
  readonly name: 'sentinel';
  /** All of them, in no order. */
  readonly servers: readonly ManagedServer[];
  /** The server that is the primary now. A test may make it hang. */
  primary(): Promise<ManagedServer>;
}

interface Server extends ManagedServer {
  readonly dir: string;
  /** It was killed and its data were removed. */
  isLost: boolean;
}

/**
 * A primary and two replicas, and three sentinels that promote a replica when two of them miss the primary.
 *
 * A cut link is a wrong password: the replica asks for the primary's writes in vain, the sentinels reach it all the same. The
 * primary sees that the connection has closed; for WAIT that is the same as a silent one.
 * @param appendfsync of every server. `DURABILITY=disk` and `replica` need `always`
 */
export async function startRedisSentinel({
  appendfsync = 'always',
  say = () => {},
}: {
  appendfsync?: 'always' | 'everysec';
  say?: (line: string) => void;
} = {}): Promise<RedisSentinel> {
  const command = ensureRedis(say);
  const servers: Server[] = [];
  const sentinels: ManagedServer[] = [];
  /** The port of the primary that a server without data follows. */
  let followed: number | undefined;

  /** A server that keeps its configuration beside its data, because the sentinels have it rewritten. */
  async function startServer(): Promise<void> {
    const port = await freePort();
    const dir = temporaryDirectory('redis');
    const configuration = join(dir, 'redis.conf');
    const server = managedServer({
      url: `redis://:${PASSWORD}@127.0.0.1:${port}`,
      port,
      dir,
      isKept: false,
      stopSignal: 'SIGTERM',
      process() {
        if (!existsSync(configuration)) writeFileSync(configuration, serverConfiguration(port, dir));
        return { command, args: [configuration], readyWhen: /Ready to accept connections/ };
      },
    });
    await server.start();
    servers.push(Object.assign(server, { dir, isLost: false }));
  }

  function serverConfiguration(port: number, dir: string): string {
    return [
      readFileSync(REDIS_CONFIGURATION, 'utf8'),
      ...listen(port, dir),
      `appendfsync ${appendfsync}`,
      `requirepass ${PASSWORD}`,
      `masterauth ${PASSWORD}`,
      // By default a primary waits 5 s for further replicas before it sends its data, and none confirms meanwhile.
      'repl-diskless-sync-delay 0',
      ...(followed === undefined ? [] : [`replicaof 127.0.0.1 ${followed}`]),
      '',
    ].join('\n');
  }

  /** They know each other from the start. To find each other takes them seconds. */
  async function startSentinels(primaryPort: number): Promise<void> {
    const planned = await Promise.all(
      Array.from({ length: SENTINELS }, async () => ({ port: await freePort(), id: randomBytes(20).toString('hex') })),
    );
    for (const { port, id } of planned) {
      const dir = temporaryDirectory('sentinel');
      const configuration = join(dir, 'sentinel.conf');
      const lines = [
        ...listen(port, dir),
        `requirepass ${SENTINEL_PASSWORD}`,
        `sentinel myid ${id}`,
        `sentinel monitor ${MASTER_NAME} 127.0.0.1 ${primaryPort} ${QUORUM}`,
        `sentinel auth-pass ${MASTER_NAME} ${PASSWORD}`,
        // As docs/operating.md recommends.
        `sentinel down-after-milliseconds ${MASTER_NAME} 1000`,
        `sentinel failover-timeout ${MASTER_NAME} 3000`,
        ...planned
          .filter((other) => other.port !== port)
          .map((other) => `sentinel known-sentinel ${MASTER_NAME} 127.0.0.1 ${other.port} ${other.id}`),
        '',
      ];
      writeFileSync(configuration, lines.join('\n'));
      const url = `redis://:${SENTINEL_PASSWORD}@127.0.0.1:${port}`;
      const process = () => ({ command, args: [configuration, '--sentinel'], readyWhen: /\+monitor master/ });
      const sentinel = managedServer({ url, port, dir, isKept: false, stopSignal: 'SIGTERM', process });
      sentinels.push(sentinel);
      await sentinel.start();
    }
  }

  const call = ({ port }: ManagedServer, ...args: [string, ...(string | number)[]]) =>
    redisCommand({ port, password: PASSWORD }, ...args);
  const ask = ({ port }: ManagedServer, ...args: string[]) =>
    redisCommand({ port, password: SENTINEL_PASSWORD }, 'SENTINEL', ...args);

  /** What each sentinel that responds says about the primary. */
  async function views(): Promise<Record<string, string>[]> {
    const seen = await Promise.all(
      sentinels.map((sentinel) => ask(sentinel, 'MASTER', MASTER_NAME).catch(() => undefined)),
    );
    return seen.filter((view) => view !== undefined).map((view) => pairs(view as string[]));
  }

  /** As the sentinel with the newest view says. @throws when no sentinel responds */
  async function primary(): Promise<Server> {
    const [newest] = (await views()).toSorted((a, b) => Number(b['config-epoch']) - Number(a['config-epoch']));
    if (newest === undefined) throw new Error('no sentinel responds');
    return servers.find(({ port }) => port === Number(newest['port']))!;
  }

  async function replicas(): Promise<Server[]> {
    const current = await primary();
    return servers.filter((server) => server !== current && !server.isLost);
  }

  async function lose(server: Server): Promise<void> {
    server.isLost = true;
    await server.kill();
    for (const entry of readdirSync(server.dir)) rmSync(join(server.dir, entry), { recursive: true });
  }

  const replication = async (server: ManagedServer) => String(await call(server, 'INFO', 'replication'));

  async function isFollowing(server: ManagedServer, ofPort: number): Promise<boolean> {
    const info = await replication(server).catch(() => '');
    return info.includes(`master_port:${ofPort}\r`) && info.includes('master_link_status:up');
  }

  async function setPasswordForPrimary(of: readonly ManagedServer[], password: string): Promise<void> {
    await Promise.all(of.map((server) => call(server, 'CONFIG', 'SET', 'masterauth', password)));
  }

  async function dispose(): Promise<void> {
    await Promise.all([...sentinels, ...servers].map((server) => server.dispose()));
  }

  try {
    await startServer();
    followed = servers[0]!.port;
    while (servers.length < SERVERS) await startServer();
    await until('the replicas follow', async () =>
      (await Promise.all(servers.slice(1).map((server) => isFollowing(server, followed!)))).every(Boolean),
    );
    await startSentinels(followed);
    await until('all sentinels know all', async () => {
      const seen = await views();
      const isComplete = (view: Record<string, string>) =>
        Number(view['num-slaves']) === SERVERS - 1 && Number(view['num-other-sentinels']) === SENTINELS - 1;
      return seen.length === SENTINELS && seen.every(isComplete);
    });
    for (const sentinel of sentinels) {
      await until('a quorum is there', async () =>
        String(await ask(sentinel, 'CKQUORUM', MASTER_NAME)).startsWith('OK'),
      );
    }
  } catch (error) {
    await dispose();
    throw error;
  }

  const topology: RedisSentinel = {
    name: 'sentinel',
    env: {
      // Only its password counts.
      REDIS_URL: `redis://:${PASSWORD}@127.0.0.1`,
      REDIS_SENTINELS: sentinels.map(({ port }) => `127.0.0.1:${port}`).join(','),
      REDIS_MASTER_NAME: MASTER_NAME,
      REDIS_SENTINEL_PASSWORD: SENTINEL_PASSWORD,
    },
    servers,
    primary,
    async primaryUrl() {
      return (await primary()).url;
    },
    async cutReplicas(count = SERVERS - 1) {
      const cut = (await replicas()).slice(0, count);
      await setPasswordForPrimary(cut, 'wrong');
      await Promise.all(cut.map((server) => call(server, 'CLIENT', 'KILL', 'TYPE', 'master')));
    },
    healReplicas: async () => setPasswordForPrimary(await replicas(), PASSWORD),
    async losePrimary() {
      await lose(await primary());
      // The cut was between them and this server.
      await topology.healReplicas();
    },
    async loseReplica() {
      await lose((await replicas())[0]!);
    },
    async restartPrimary() {
      const restarted = await primary();
      await restarted.kill();
      await restarted.start();
    },
    async moveAway() {
      const before = await primary();
      await until('a sentinel begins the failover', async () => {
        await ask(sentinels[0]!, 'FAILOVER', MASTER_NAME);
        return true;
      });
      await until('another server is the primary', async () => (await primary()) !== before);
    },
    async mend() {
      await topology.healReplicas();
      await until('a server is the primary', async () => (await replication(await primary())).includes('role:master'));
      followed = (await primary()).port;
      for (const server of servers.filter(({ isLost }) => isLost)) {
        await server.start();
        server.isLost = false;
      }
      // The sentinels take 10 s to make a replica of a primary that was replaced.
      await until('all replicas follow', async () => {
        const { port } = await primary();
        return (await Promise.all((await replicas()).map((server) => isFollowing(server, port)))).every(Boolean);
      });
    },
    dispose,
  };
  return topology;
}

function listen(port: number, dir: string): string[] {
  return [`port ${port}`, 'bind 127.0.0.1', `dir ${dir}`, 'daemonize no', 'logfile ""'];
}

/** A reply that lists names and values by turns. */
function pairs(list: readonly string[]): Record<string, string> {
  return Object.fromEntries(
    Array.from({ length: list.length / 2 }, (_, index) => list.slice(2 * index, 2 * index + 2)),
  ) as Record<string, string>;
}
