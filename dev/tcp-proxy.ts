import { connect, createServer, type Server, type Socket } from 'node:net';
import { freePort } from './local/ports.ts';

/** What a network may do to the bytes between two processes. */
export type ProxyFault =
  /** Everything passes. */
  | { readonly kind: 'none' }
  /** Every chunk, in both directions, comes so much later; the order is kept. */
  | { readonly kind: 'delay'; readonly ms: number }
  /** What the client sends arrives; the first byte of an answer cuts the connection, so that the answer is lost. */
  | { readonly kind: 'cut_replies' }
  /** As `cut_replies`, by a reset (RST) instead of an orderly end. */
  | { readonly kind: 'reset_replies' }
  /** Connections are accepted and kept; nothing passes in either direction, and nobody is told. */
  | { readonly kind: 'black_hole' }
  /** The server's side of every connection is closed; the client's stays open and silent. */
  | { readonly kind: 'half_open' }
  /** Nobody listens: connecting is refused, and the connections there were are reset. */
  | { readonly kind: 'refuse' };

export interface TcpProxy {
  readonly port: number;
  /** Takes effect on the connections there are and on new ones. */
  set(fault: ProxyFault): Promise<void>;
  /** Resets the connections there are, once. */
  resetAll(): void;
  close(): Promise<void>;
}

interface Pair {
  readonly client: Socket;
  readonly server: Socket;
}

/** A proxy on a port of 127.0.0.1 in front of another, through which the network's faults are injected. */
export async function createTcpProxy(targetPort: number): Promise<TcpProxy> {
  let fault: ProxyFault = { kind: 'none' };
  const pairs = new Set<Pair>();
  let listener: Server | undefined;
  // Not the system's choice: while the proxy refuses, nobody else may come to listen there.
  const ownPort = await freePort();

  function accept(client: Socket): void {
    const server = connect(targetPort, '127.0.0.1');
    const pair = { client, server };
    pairs.add(pair);
    for (const [from, to] of [
      [client, server],
      [server, client],
    ] as const) {
      from.setNoDelay(true);
      from.on('data', (chunk) => pass(chunk, from, to, pair));
      // A reset on one side is passed on by the close below.
      from.on('error', () => {});
      from.on('close', () => {
        // A side that outlives the other, half-open or in a black hole, must still be reset when the fault ends.
        if (to.destroyed) pairs.delete(pair);
        if (from === server && fault.kind === 'half_open') return;
        if (fault.kind !== 'black_hole') to.destroy();
      });
    }
    if (fault.kind === 'half_open') server.destroy();
  }

  function pass(chunk: Buffer, from: Socket, to: Socket, { client, server }: Pair): void {
    switch (fault.kind) {
      case 'none':
        to.write(chunk);
        return;
      case 'delay':
        setTimeout(() => {
          if (!to.destroyed) to.write(chunk);
        }, fault.ms);
        return;
      case 'cut_replies':
      case 'reset_replies':
        if (from === client) to.write(chunk);
        else if (fault.kind === 'cut_replies') client.destroy();
        else client.resetAndDestroy();
        if (from === server) server.destroy();
        return;
      case 'black_hole':
      case 'half_open':
      case 'refuse':
        return;
    }
  }

  function resetAll(): void {
    for (const { client, server } of pairs) {
      client.resetAndDestroy();
      server.resetAndDestroy();
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
      // Bytes were swallowed: a connection that lost some must not go on as if nothing had happened.
      if (['black_hole', 'half_open'].includes(previous.kind) && previous.kind !== next.kind) resetAll();
      if (next.kind === 'refuse') {
        const stopped = stopListening();
        resetAll();
        await stopped;
      } else {
        await listen();
      }
    },
    resetAll,
    async close() {
      const stopped = stopListening();
      resetAll();
      await stopped;
    },
  };
}
