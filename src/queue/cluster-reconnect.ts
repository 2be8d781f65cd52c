import type { Cluster, Redis } from 'ioredis';

/** Private parts of ioredis 5. */
interface Inside {
  readonly connectionPool: {
    readonly nodes: { readonly all: Readonly<Record<string, Node | undefined>> };
    removeNode(key: string): void;
    removeAllListeners(event: 'drain'): void;
  };
  setStatus(status: Status): void;
  /** Asks one node whether the cluster serves all slots. */
  readyCheck(callback: ReadyCheck): void;
  /** Starts the next attempt to connect, or ends the cluster when `disconnect()` has closed it. */
  handleCloseEvent(): void;
}

type ReadyCheck = (error?: Error | null, failedState?: string) => void;

interface Node {
  readonly status: string;
  /** `disconnect()` was called, and it has not ended. */
  readonly manuallyClosing: boolean;
}

type Status = 'connecting' | 'connect' | 'ready' | 'disconnecting' | 'close' | 'reconnecting' | 'end';

/** A closed cluster that has begun to connect again, or never will. */
const CLOSED: readonly Status[] = ['close', 'reconnecting', 'end'];

/** How long a node may take to say whether the cluster is ready for commands. ioredis gives its slot table as long. */
const READY_CHECK_MS = 1_000;

/**
 * Makes every reconnect of a cluster come to an end. BullMQ's worker closes its blocking connection and connects it anew when a
 * wait for a job was too long, as after a change of masters, and awaits each step without a time limit. With ioredis 5 as it is,
 * such a worker sometimes takes nothing more.
 *
 * A cluster that disconnects is `disconnecting` until its connections have ended, then `close`, and from there `reconnecting` or
 * `end`. In ioredis:
 * - `connect()` never settles when the cluster is not ready for commands at the first attempt. After the loss of a master it is
 *   not: this is what stopped workers.
 * - The check whether it is ready waits for a node that hangs, for 15 s.
 * - The first connection that ends closes the cluster. The next ones close it again, also after `end`: then it stays `close`.
 * - They take the new connection to the same node out of the pool, which knows only the address.
 * - Without a connection, or while the addresses of its nodes are looked up, it stays `disconnecting`.
 * - A late MOVED reply gives it a connection that nothing uses or ends, and it stays `disconnecting`.
 */
export function settleReconnects(cluster: Cluster): void {
  const inside = cluster as unknown as Inside;
  settleConnect(cluster);
  limitReadyCheck(inside);
  closeWithLastNode(cluster, inside);
  keepNewNodes(inside.connectionPool);
  disconnectWithoutNodes(cluster, inside);
}

function settleConnect(cluster: Cluster): void {
  const connect = cluster.connect.bind(cluster);
  cluster.connect = () => {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const fail = () => reject(new Error('Connection is closed.'));
    // The end of the old connections would close the new ones.
    if (statusOf(cluster) === 'disconnecting') fail();
    else {
      cluster.once('ready', resolve);
      cluster.once('end', fail);
      connect().then(resolve, reject);
    }
    return promise.finally(() => {
      cluster.off('ready', resolve);
      cluster.off('end', fail);
    });
  };
}

function limitReadyCheck(inside: Inside): void {
  const readyCheck = inside.readyCheck.bind(inside);
  inside.readyCheck = (callback) => {
    let isOver = false;
    const settle: ReadyCheck = (error, state) => {
      clearTimeout(timer);
      if (!isOver) callback(error, state);
      isOver = true;
    };
    const timer = setTimeout(() => settle(new Error('the ready check got no reply')), READY_CHECK_MS);
    readyCheck(settle);
  };
}

function closeWithLastNode(cluster: Cluster, inside: Inside): void {
  /** Those in the pool, and those that left it and have not ended. */
  const open = new Set<Redis>();
  inside.connectionPool.removeAllListeners('drain');
  cluster.on('+node', (node: Redis) => {
    open.add(node);
    if (statusOf(cluster) === 'disconnecting') node.disconnect();
  });
  cluster.on('-node', (node: Redis) => {
    open.delete(node);
    if (open.size === 0 && !CLOSED.includes(statusOf(cluster))) inside.setStatus('close');
  });
}

/** ioredis removes a node by its address: when it disconnects it, and once more when its connection has ended. */
function keepNewNodes(pool: Inside['connectionPool']): void {
  const remove = pool.removeNode.bind(pool);
  pool.removeNode = (key) => {
    const node = pool.nodes.all[key];
    if (node?.manuallyClosing || node?.status === 'end') remove(key);
  };
}

function disconnectWithoutNodes(cluster: Cluster, inside: Inside): void {
  const disconnect = cluster.disconnect.bind(cluster);
  cluster.disconnect = (reconnect = false) => {
    const status = statusOf(cluster);
    if (status === 'end' || (status === 'reconnecting' && reconnect)) return;
    // While it connects it has no node before it knows their addresses.
    const isWithout = status === 'reconnecting' || (status === 'connecting' && cluster.nodes().length === 0);
    disconnect(reconnect);
    if (!isWithout) return;
    process.nextTick(() => {
      if (statusOf(cluster) !== 'disconnecting') return;
      inside.setStatus('close');
      inside.handleCloseEvent();
    });
  };
}

const statusOf = (cluster: Cluster) => cluster.status as Status;
