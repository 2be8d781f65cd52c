import { lstatSync, unlinkSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import { connect, Server as NetServer } from 'node:net';
import { within } from '../process/deadline.ts';

/** A server that listens. */
export interface HttpServer {
  /** Undefined at a Unix socket. */
  readonly port: number | undefined;
  /**
   * Ends it without leaving a request unanswered: nothing new is accepted, every further answer closes its connection, and only
   * then are the silent connections closed. @param deadline in ms as `performance.now()` counts
   */
  drain(deadline: number): Promise<void>;
}

/** nginx keeps its connections for 60 s; the end that closes first must be nginx's, or a request meets a closed socket. */
const KEEP_ALIVE_MS = 65_000;

/** @throws the error of listening: the address is taken, or not ours to take. */
export async function startServer(
  handler: RequestListener,
  address: { readonly host: string; readonly port: number },
): Promise<HttpServer> {
  const server = createServer({ keepAliveTimeout: KEEP_ALIVE_MS }, handler);
  await listen(server, address);
  const bound = server.address();
  return {
    port: typeof bound === 'string' ? undefined : bound?.port,
    drain: (deadline) => drain(server, deadline),
  };
}

/**
 * Starts to listen at an address and a port, or, when `host` is a path, at a Unix socket that whoever can reach its
 * directory may use. A socket that a killed process has left is taken over; one at which somebody listens is not.
 * @throws the error of listening: it is taken, or not ours to take.
 */
async function listen(server: Server, { host, port }: { host: string; port: number }): Promise<void> {
  if (!host.startsWith('/')) return listening(server, { host, port });
  const options = { path: host, readableAll: true, writableAll: true };
  try {
    await listening(server, options);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || !(await isAbandoned(host))) throw error;
    unlinkSync(host);
    await listening(server, options);
  }
}

function listening(server: Server, options: Parameters<Server['listen']>[0]): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(options, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** A file that is no socket refuses connections, too, and is not ours to remove. */
async function isAbandoned(path: string): Promise<boolean> {
  if (!lstatSync(path).isSocket()) return false;
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(false);
    });
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code === 'ECONNREFUSED'));
  });
}

/** How long kept connections get to bring a last request, and with its answer the word that this was the last. */
const LAST_REQUESTS_MS = 500;

/** How long, after that, an upload under way may take. */
const SLOW_UPLOADS_MS = 3_000;

async function drain(server: Server, deadline: number): Promise<void> {
  // An HTTP server's own close ends idle connections at once, into which a load balancer may be sending just now.
  const closed = new Promise<void>((resolve) => NetServer.prototype.close.call(server, () => resolve()));
  server.prependListener('request', (_request, response) => response.setHeader('Connection', 'close'));
  await within(performance.now() + LAST_REQUESTS_MS, closed);
  // Again and again, for those whose request came before the signal and whose answer did not tell them to close.
  const closeIdle = setInterval(() => server.closeIdleConnections(), 50);
  // Every request is answered within a second of its body; what is left by then is a client that does not send it.
  await within(Math.min(performance.now() + SLOW_UPLOADS_MS, deadline - LAST_REQUESTS_MS), closed);
  clearInterval(closeIdle);
  server.closeAllConnections();
  await closed;
}
