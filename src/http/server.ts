import { lstatSync, unlinkSync } from 'node:fs';
import { createServer, type RequestListener, type Server } from 'node:http';
import { connect, Server as NetServer } from 'node:net';
import type { Config } from '../config.ts';
import { within } from '../process/deadline.ts';
import { serveConnections } from './connections.ts';

/** A listening server. */
export interface HttpServer {
  /** Undefined for a Unix socket. */
  readonly port: number | undefined;
  /**
   * Closes the server without dropping a request: it accepts no new connection, closes each connection after its next
   * response, and closes idle connections last.
   * @param deadline in ms on the clock of `performance.now()`
   */
  drain(deadline: number): Promise<void>;
  /** Closes the server and every connection at once. Requests under way get no response. */
  abort(): Promise<void>;
}

/** A slow client must not keep a connection for long. A request has at most 64 KiB, so it arrives well within these limits. */
const HEADERS_TIMEOUT_MS = 5_000;
const REQUEST_TIMEOUT_MS = 8_000;
const TIMEOUT_CHECK_MS = 1_000;

/** Bounds memory and file descriptors: an idle connection takes some 10 KB. Node closes further ones at once. */
const MAX_CONNECTIONS = 8_192;

/**
 * How many new connections may wait to be accepted. The system's own limit may be lower (Linux: `net.core.somaxconn`, 4,096).
 * With Node's 511 a larger burst of connections would wait a whole second: Linux ignores what does not fit, and the client
 * tries again after that.
 */
const BACKLOG = MAX_CONNECTIONS;

/** @throws the error of listening: another process has the address, or we may not use it. */
export async function startServer(
  handler: RequestListener,
  { keepAliveTimeoutMs, ...address }: Pick<Config, 'host' | 'port' | 'keepAliveTimeoutMs'>,
): Promise<HttpServer> {
  const server = createServer({
    keepAliveTimeout: keepAliveTimeoutMs,
    headersTimeout: HEADERS_TIMEOUT_MS,
    requestTimeout: REQUEST_TIMEOUT_MS,
    connectionsCheckingInterval: TIMEOUT_CHECK_MS,
    requireHostHeader: false,
  });
  serveConnections(server, handler);
  server.maxConnections = MAX_CONNECTIONS;
  await listen(server, address);
  const bound = server.address();
  return {
    port: typeof bound === 'string' ? undefined : bound?.port,
    drain: (deadline) => drain(server, deadline),
    async abort() {
      const closed = new Promise((resolve) => server.close(resolve));
      server.closeAllConnections();
      await closed;
    },
  };
}

/**
 * Listens at an address and a port, or at a Unix socket when `host` is a path. Any process that can reach the socket's
 * directory may use it. Replaces the socket of a killed process, but not a socket at which another process listens.
 * @throws the error of listening: another process has the address, or we may not use it.
 */
async function listen(server: Server, { host, port }: { host: string; port: number }): Promise<void> {
  if (!host.startsWith('/')) return listening(server, { host, port, backlog: BACKLOG });
  const options = { path: host, readableAll: true, writableAll: true, backlog: BACKLOG };
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

/** Whether a socket's process has died. Other files refuse connections as well, but we must not remove those. */
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

/** How long keep-alive connections may send a last request. Its response tells the client to close. */
const LAST_REQUESTS_MS = 500;

/** How long an upload in progress may take after that. */
const SLOW_UPLOADS_MS = 3_000;

async function drain(server: Server, deadline: number): Promise<void> {
  // The close() of an HTTP server ends idle connections at once, although a load balancer may be sending on one.
  const closed = new Promise<void>((resolve) => NetServer.prototype.close.call(server, () => resolve()));
  server.prependListener('request', (_request, response) => response.setHeader('Connection', 'close'));
  await within(performance.now() + LAST_REQUESTS_MS, closed);
  // Repeated, because a response to an earlier request did not tell its client to close.
  const closeIdle = setInterval(() => server.closeIdleConnections(), 50);
  // A complete request gets its response within a second. After that only clients with an unfinished body are left.
  await within(Math.min(performance.now() + SLOW_UPLOADS_MS, deadline - LAST_REQUESTS_MS), closed);
  clearInterval(closeIdle);
  server.closeAllConnections();
  await closed;
}
