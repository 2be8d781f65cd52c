import { connect, createServer, type Server, type Socket } from 'node:net';
import { freePort } from './local/ports.ts';

/** What a network can do to the bytes between two processes. */
export type ProxyFault =
  /** Everything passes. */
  | { readonly kind: 'none' }
  /** Every chunk arrives so much later, in both directions and in order. */
  | { readonly kind: 'delay'; readonly ms: number }
  /** What the client sends arrives. The first byte of a reply cuts the connection, so the reply is lost. */
  | { readonly kind: 'cut_replies' }
  /** As `cut_replies`, by a reset (RST) instead of an orderly end. */
  | { readonly kind: 'reset_replies' }
  /** Connections are accepted and stay open. Nothing passes in either direction, without an error. */
  | { readonly kind: 'black_hole' }
  /** The server's side of every connection is closed. The client's side stays open and silent. */
  | { readonly kind: 'half_open' }
  /** The port is closed: new connections are refused, existing ones are reset. */
  | { readonly kind: 'refuse' };

export interface TcpProxy {
  readonly port: number;
  /** Takes effect on existing and on new connections. */
  set(fault: ProxyFault): Promise<void>;
  /** Leads new connections to another port, as a virtual address does after a failover. Resets the existing ones. */
  leadTo(port: number): void;
  /** Resets all existing connections, once. */
  resetAll(): void;
  close(): Promise<void>;
}

interface Pair {
  readonly client: Socket;
  readonly server: Socket;
  /** What is under way to each side. */
  readonly delayed: ReadonlyMap<Socket, Delayed[]>;
}

interface Delayed {
  readonly chunk: Buffer;
  /** In ms of `performance.now()`. */
  readonly dueAtMs: number;
}

/** A proxy on a port of 127.0.0.1 in front of another port. It injects the network's faults. */
export async function createTcpProxy(targetPort: number): Promise<TcpProxy> {
  let fault: ProxyFault = { kind: 'none' };
  let target = targetPort;
  const pairs = new Set<Pair>();
  const resetting = new WeakSet<Socket>();
  let listener: Server | undefined;
  // A port of our own range: while the proxy refuses connections, the system must not give its port to another process.
  const ownPort = await freePort();

  function accept(client: Socket): void {
    const server = connect(target, '127.0.0.1');
    const pair = { client, server, delayed: new Map<Socket, Delayed[]>([client, server].map((to) => [to, []])) };
    pairs.add(pair);
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      from.setNoDelay(true);
      from.on('data', (chunk) => pass(chunk, from, to, pair));
      // The close below passes a reset on to the other side.
      from.on('error', () => {});
      from.on('close', () => {
        // In half_open and black_hole one side outlives the other. It must still be reset when the fault ends.
        if (to.destroyed) pairs.delete(pair);
        if (from === server && fault.kind === 'half_open') return;
        if (fault.kind !== 'black_hole' && !resetting.has(to)) to.destroy();
      });
    }
    if (fault.kind === 'half_open') server.destroy();
  }

  function pass(chunk: Buffer, from: Socket, to: Socket, { client, server, delayed }: Pair): void {
    switch (fault.kind) {
      case 'none':
        delay(chunk, to, delayed.get(to)!, 0);
        return;
      case 'delay':
        delay(chunk, to, delayed.get(to)!, fault.ms);
        return;
      case 'cut_replies':
      case 'reset_replies':
        if (from === client) to.write(chunk);
        else if (fault.kind === 'cut_replies') client.destroy();
        else reset(client);
        if (from === server) server.destroy();
        return;
      case 'black_hole':
      case 'half_open':
      case 'refuse':
        return;
    }
  }

  /** TCP keeps the order of bytes, also when a delay has become shorter. */
  function delay(chunk: Buffer, to: Socket, queue: Delayed[], ms: number): void {
    const nowMs = performance.now();
    const dueAtMs = Math.max(nowMs + ms, queue.at(-1)?.dueAtMs ?? 0);
    if (dueAtMs <= nowMs) {
      to.write(chunk);
      return;
    }
    queue.push({ chunk, dueAtMs });
    setTimeout(() => {
      // Timers of different lengths may fire out of turn, so each writes the chunk whose turn it is.
      const next = queue.shift()!;
      if (!to.destroyed) to.write(next.chunk);
    }, dueAtMs - nowMs);
  }

  /**
   * Not by `resetAndDestroy`: it ends the socket first, waits until all is written, and only then resets it. While an end is
   * under way a reset fails and leaves the handle open for ever. So this marks the socket as that function does (Node 24,
   * lib/net.js), and destroys it at once; one that has been ended already is closed instead.
   */
  function reset(socket: Socket): void {
    resetting.add(socket);
    if (!socket.writableEnded && !socket.connecting) Reflect.set(socket, 'resetAndClosing', true);
    socket.destroy();
  }

  function resetAll(): void {
    for (const { client, server } of pairs) {
      reset(client);
      reset(server);
    }
  }

  async function listen(): Promise<void> {
    if (listener) return;
    const created = createServer(accept);
    await new Promise<void>((resolve, reject) => {
      created.once('error', reject);
      created.listen(ownPort, '127.0.0.1', resolve);
    });
    listener = created;
  }

  async function stopListening(): Promise<void> {
    const stopping = listener;
    listener = undefined;
    if (stopping) await new Promise((resolve) => stopping.close(resolve));
  }

  await listen();
  return {
    port: ownPort,
    async set(next) {
      const previous = fault;
      fault = next;
      if (next.kind === 'half_open') for (const { server } of pairs) server.destroy();
      // Bytes were dropped, so these connections cannot go on.
      if (['black_hole', 'half_open'].includes(previous.kind) && previous.kind !== next.kind) resetAll();
      if (next.kind === 'refuse') {
        const stopped = stopListening();
        resetAll();
        await stopped;
      } else {
        await listen();
      }
    },
    leadTo(port) {
      target = port;
      resetAll();
    },
    resetAll,
    async close() {
      const stopped = stopListening();
      resetAll();
      await stopped;
    },
  };
}
