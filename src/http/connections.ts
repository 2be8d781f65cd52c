import { type IncomingMessage, type RequestListener, type Server, type ServerResponse, STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { events, HUNG_UP } from '../telemetry/events.ts';
import { SECURITY_HEADERS } from './security-headers.ts';

/** How many requests of one connection are under way at most. Browsers and proxies do not pipeline; 32 serve a client that does. */
export const MAX_UNDER_WAY = 32;

/**
 * Serves the requests of a server's connections, and bounds what one connection can cause.
 *
 * Pipelining: a client may send requests without waiting for their responses. Node starts every request that it has read,
 * so a single connection could fill the memory. Here at most {@link MAX_UNDER_WAY} requests of a connection are under way.
 * Later ones wait in order, and the connection is not read until one ends.
 *
 * Bytes that are not HTTP: Node responds to them at once, without a body, and drops the responses to the complete
 * requests before them. Here those responses go out first, and the error has our JSON body.
 */
export function serveConnections(server: Server, handler: RequestListener): void {
  const connections = new WeakMap<Socket, Connection>();
  server.on('connection', (socket: Socket) => {
    const connection: Connection = { underWay: 0, latest: undefined, waiting: [], unread: [], failure: undefined };
    connections.set(socket, connection);
    parseInSlices(socket, connection);
  });

  for (const event of ['request', 'checkExpectation'] as const) {
    server.on(event, (request, response) => {
      const connection = connections.get(request.socket)!;
      if (connection.underWay < MAX_UNDER_WAY) start(request, response, connection);
      else connection.waiting.push([request, response]);
    });
  }
  server.on('connect', (_request, socket: Duplex) => endUnmatched(socket, METHOD_NOT_ALLOWED));

  function start(request: IncomingMessage, response: ServerResponse, connection: Connection): void {
    connection.underWay += 1;
    connection.latest = request;
    const startedAtMs = performance.now();
    const failure = failureOfHead(request);
    response.once('close', () => {
      if (events.requestFinished.hasSubscribers) {
        report(request, response, startedAtMs, response.writableEnded ? failure : connection.failure);
      }
      ended(request, connection);
    });
    if (failure === undefined) handler(request, response as Parameters<RequestListener>[1]);
    else response.writeHead(failure.status, headersOf(failure)).end(bodyOf(failure));
  }

  function ended(request: IncomingMessage, connection: Connection): void {
    connection.underWay -= 1;
    if (connection.latest === request) connection.latest = undefined;
    const { socket } = request;
    if (socket.destroyed) return;
    const next = connection.waiting.shift();
    if (next !== undefined) start(...next, connection);
    else if (connection.unread.length > 0) socket.resume();
    if (connection.failure !== undefined) endIfSettled(socket, connection, connection.failure);
  }

  server.on('clientError', (error: NodeJS.ErrnoException, socket: Socket) => {
    // A client that has closed or reset its connection reads no response.
    if (!socket.writable || error.code === 'ECONNRESET') {
      socket.destroy();
      return;
    }
    const connection = connections.get(socket)!;
    connection.failure = FAILURES.get(error.code) ?? MALFORMED;
    endIfSettled(socket, connection, connection.failure);
  });
}

interface Connection {
  /** Requests that were started and whose responses have not ended. */
  underWay: number;
  /** The one that was started last, while it is under way. Only its body may still be coming. */
  latest: IncomingMessage | undefined;
  /** Requests that are parsed and not started, in the order of their arrival. */
  readonly waiting: [request: IncomingMessage, response: ServerResponse][];
  /** What was read and not parsed. */
  unread: Buffer[];
  /** Why the server will close the connection: what came last is not HTTP, or came too late. */
  failure: Failure | undefined;
}

interface Failure {
  readonly status: number;
  readonly code: string;
}

/** Most requests fit into one slice. Smaller slices would cost a payment of usual size a second call of the parser. */
const SLICE_BYTES = 512;

/**
 * Node reads 64 KiB at once, and its parser makes every request in them, up to a thousand of some KB each, before we can hold
 * one back. So the parser gets what is read in slices, and none while requests wait. This costs 1.7 µs a request, because
 * Node's parser no longer reads the socket by itself.
 */
function parseInSlices(socket: Socket, connection: Connection): void {
  const [parse] = socket.listeners('data') as [(bytes: Buffer) => void];
  const isHeld = () => connection.waiting.length > 0 || connection.failure !== undefined || socket.destroyed;
  const feed = () => {
    while (connection.unread.length > 0 && !isHeld()) {
      const [bytes, ...rest] = connection.unread as [Buffer, ...Buffer[]];
      connection.unread = bytes.length > SLICE_BYTES ? [bytes.subarray(SLICE_BYTES), ...rest] : rest;
      parse.call(socket, bytes.length > SLICE_BYTES ? bytes.subarray(0, SLICE_BYTES) : bytes);
    }
    if (connection.unread.length > 0) socket.pause();
  };
  socket.off('data', parse);
  // Node leaves the reading to the listeners of this event.
  socket.on('data', (bytes: Buffer) => {
    connection.unread.push(bytes);
    feed();
  });
  // Node resumes a connection for the next body as well.
  socket.on('resume', feed);
}

/** What Node would respond to without a body: createServer leaves the first to us, and emits `checkExpectation` for the second. */
function failureOfHead({ headers, httpVersion }: IncomingMessage): Failure | undefined {
  if (headers.host === undefined && httpVersion === '1.1') return MALFORMED;
  const isKnownExpectation = headers.expect === undefined || headers.expect.toLowerCase() === '100-continue';
  return isKnownExpectation ? undefined : { status: 417, code: 'expectation_failed' };
}

/** By the code of Node's parser, https://nodejs.org/api/http.html#event-clienterror. */
const FAILURES: ReadonlyMap<string | undefined, Failure> = new Map([
  ['HPE_HEADER_OVERFLOW', { status: 431, code: 'headers_too_large' }],
  ['HPE_CHUNK_EXTENSIONS_OVERFLOW', { status: 413, code: 'payload_too_large' }],
  ['ERR_HTTP_REQUEST_TIMEOUT', { status: 408, code: 'request_timeout' }],
]);

const MALFORMED: Failure = { status: 400, code: 'malformed_request' };
const METHOD_NOT_ALLOWED: Failure = { status: 405, code: 'method_not_allowed' };

/** What Express, the app and its error handler have noted about a request. Nothing when the handler is another, or was not called. */
interface Noted {
  readonly route?: { readonly path: string };
  readonly locals?: { readonly mount?: string; readonly errorCode?: string };
}

/** @param failure what the server itself responded with */
function report(
  { method = '', route }: IncomingMessage & Pick<Noted, 'route'>,
  { writableEnded, statusCode, locals }: ServerResponse & Pick<Noted, 'locals'>,
  startedAtMs: number,
  failure: Failure | undefined,
): void {
  events.requestFinished.publish({
    route: locals?.mount ?? route?.path ?? UNMATCHED,
    method,
    status: writableEnded ? statusCode : (failure?.status ?? HUNG_UP),
    code: locals?.errorCode ?? failure?.code,
    durationMs: performance.now() - startedAtMs,
  });
}

const UNMATCHED = 'unmatched';

/** Ends a connection on which no request is under way. What was sent is no request that the API knows, but it counts as one. */
function endUnmatched(socket: Duplex, failure: Failure): void {
  if (events.requestFinished.hasSubscribers) {
    const { status, code } = failure;
    events.requestFinished.publish({ route: UNMATCHED, method: '', status, code, durationMs: 0 });
  }
  end(socket, failure);
}

/** Responds with the failure once the complete requests before it have their responses. */
function endIfSettled(socket: Socket, { underWay, latest, waiting }: Connection, failure: Failure): void {
  const incomplete = latest === undefined || latest.complete ? 0 : 1;
  if (underWay !== incomplete || waiting.length > 0) return;
  // The incomplete request reports the failure itself when its response closes.
  if (incomplete === 0) endUnmatched(socket, failure);
  else end(socket, failure);
}

function end(socket: Duplex, failure: Failure): void {
  const headers = Object.entries(headersOf(failure)).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(
    `HTTP/1.1 ${failure.status} ${STATUS_CODES[failure.status]}\r\n${headers.join('')}\r\n${bodyOf(failure)}`,
    // A client that never closes its half must not keep the connection.
    () => socket.destroy(),
  );
}

function bodyOf({ code }: Failure): string {
  return JSON.stringify({ error: code });
}

function headersOf(failure: Failure): Readonly<Record<string, string | number>> {
  return {
    'Content-Type': 'application/json; charset=utf-8',
    'Content-Length': Buffer.byteLength(bodyOf(failure)),
    Connection: 'close',
    ...SECURITY_HEADERS,
  };
}
