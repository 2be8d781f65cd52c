import type { ManagedServer } from './processes.ts';
import { redisCommand, until } from './redis-command.ts';

const SLOTS = 16_384;

/** A replica is cut from its master by a wrong password. The others still hear it over the bus, so that it can be promoted. */
export const PASSWORD = 'cluster';

/** A server of the cluster. */
export interface ClusterServer extends ManagedServer {
  readonly busPort: number;
  isLost: boolean;
}

/** What a server of the cluster says about itself. */
export interface View {
  readonly server: ClusterServer;
  readonly id: string;
  readonly isMaster: boolean;
  /** The id of its master, for a replica. */
  readonly masterId: string;
  readonly epoch: number;
  readonly ranges: readonly (readonly [first: number, last: number])[];
}

/** Makes a cluster of servers that are empty. @param count how many of them are masters: the first ones */
export async function form(servers: readonly ClusterServer[], count: number): Promise<void> {
  const ids = await Promise.all(servers.map(async (server) => String(await call(server, 'CLUSTER', 'MYID'))));
  const masters = servers.slice(0, count);
  await Promise.all(
    masters.map(async (server, index) => {
      const [first, next] = [index, index + 1].map((part) => Math.round((part * SLOTS) / count)) as [number, number];
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
    servers.slice(count).map((server, index) => call(server, 'CLUSTER', 'REPLICATE', ids[index % count]!)),
  );
  await until('the cluster serves all slots and all replicas follow', async () => {
    const infos = await Promise.all(servers.map((server) => call(server, 'CLUSTER', 'INFO')));
    if (!infos.every((info) => String(info).includes('cluster_state:ok'))) return false;
    const following = await Promise.all(servers.slice(count).map((server) => isFollowing({ server })));
    if (following.includes(false)) return false;
    // A master promotes only a replica that the other masters know as its replica.
    const seen = await Promise.all(servers.map((server) => call(server, 'CLUSTER', 'NODES')));
    return seen.every((text) => [...String(text).matchAll(/slave [0-9a-f]{40}/g)].length === servers.length - count);
  });
}

export async function meet(server: ClusterServer, other: ClusterServer): Promise<void> {
  await call(server, 'CLUSTER', 'MEET', '127.0.0.1', other.port, other.busPort);
}

/** The servers whose handshake with this one has ended. */
export async function knownIds(server: ClusterServer): Promise<Set<string>> {
  const lines = String(await call(server, 'CLUSTER', 'NODES')).split('\n');
  return new Set(lines.filter((line) => !/handshake|fail|noaddr/.test(line)).map((line) => line.slice(0, 40)));
}

/** @throws when it does not respond */
export async function viewOf(server: ClusterServer): Promise<View> {
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

export async function isFollowing({ server }: { server: ManagedServer }): Promise<boolean> {
  const info = await call(server, 'INFO', 'replication').catch(() => '');
  return String(info).includes('master_link_status:up');
}

/** Up to where the server has the writes of its shard. */
export async function offsetOf({ server }: View): Promise<string | undefined> {
  const info = String(await call(server, 'INFO', 'replication'));
  return /^(?:slave_repl_offset|master_repl_offset):(\d+)/m.exec(info)?.[1];
}

export function urlOf({ port }: ManagedServer): string {
  return `redis://:${PASSWORD}@127.0.0.1:${port}`;
}

export const call = ({ port }: ManagedServer, command: string, ...args: (string | number)[]) =>
  redisCommand({ port, password: PASSWORD }, command, ...args);
