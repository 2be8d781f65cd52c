import { once } from 'node:events';
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createTlsServer, type ServerOptions } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { text } from 'node:stream/consumers';
import { atTestEnd } from './cleanup.ts';

/** One `POST /payments`, or one `GET /payments/{id}` (then without amount and requestedAt), as it reached the gateway. */
export interface Arrival {
  readonly correlationId: string;
  readonly amount: number;
  readonly requestedAt: string;
  /** 1 for the first request of its kind with this id. */
  readonly attempt: number;
  /** The connection that carried it, numbered from 1. */
  readonly connection: number;
  readonly atMs: number;
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

/** What a gateway has on record under an id: what the charge stored. */
export interface OnRecord {
  readonly amount: number;
  readonly requestedAt: string;
}

/** What the gateway does with one request. */
export type Reply = (arrival: Arrival, gateway: ScriptedGateway) => void;

type Text = string | Buffer | ((arrival: Arrival) => string | Buffer);

export type ScriptedGateway = Awaited<ReturnType<typeof scriptedGateway>>;

/** The body of the challenge's gateway: the same for every payment. */
export const CHALLENGE_BODY = JSON.stringify({ message: 'payment processed successfully' });

/** A complete HTTP response. */
export function respond(status: number, body: Text = '', headers: Readonly<Record<string, string>> = {}): Reply {
  return (arrival) => {
    const content = typeof body === 'function' ? body(arrival) : body;
    arrival.response.writeHead(status, headers).end(content);
  };
}

/** A complete response with this value as JSON. */
export function json(status: number, value: unknown, headers: Readonly<Record<string, string>> = {}): Reply {
  return respond(status, JSON.stringify(value), { 'content-type': 'application/json', ...headers });
}

/** A complete HTML page, as proxies and firewalls send them. */
export function html(status: number, title: string, headers: Readonly<Record<string, string>> = {}): Reply {
  const page = `<html>\r\n<head><title>${title}</title></head>\r\n<body><center><h1>${title}</h1></center></body>\r\n</html>\r\n`;
  return respond(status, page, { 'content-type': 'text/html', ...headers });
}

/** These bytes as they are, HTTP or not. Then the connection stays open, closes in order, or is reset. */
export function raw(bytes: string | Buffer, ending: 'stay' | 'close' | 'reset'): Reply {
  return ({ request: { socket } }) => {
    const end = () => {
      if (ending === 'close') socket.end();
      if (ending === 'reset') socket.resetAndDestroy();
    };
    if (bytes.length === 0) end();
    else socket.write(bytes, end);
  };
}

/** No response at all. */
export const hang: Reply = () => {};

/** The gateway charges the payment, then the caller gets this: from the gateway itself or from a proxy in front of it. */
export function charged(reply: Reply): Reply {
  return (arrival, gateway) => {
    gateway.charge(arrival);
    reply(arrival, gateway);
  };
}

/** What a correct gateway does: it charges an id once, and responds 422 to it from then on. */
export const accept: Reply = (arrival, gateway) => {
  if (gateway.onRecord.has(arrival.correlationId))
    json(422, { message: 'CorrelationId already exists' })(arrival, gateway);
  else charged(respond(200, CHALLENGE_BODY))(arrival, gateway);
};

/** What a correct gateway responds to a look-up. */
export const tell: Reply = (arrival, gateway) => {
  const { correlationId } = arrival;
  const found = gateway.onRecord.get(correlationId);
  (found ? json(200, { correlationId, ...found }) : json(404, { message: 'not found' }))(arrival, gateway);
};

/**
 * A gateway whose every response the test chooses, request by request; without a script it is a correct one.
 * Closed after the test, with all its connections.
 * @param options `tls` makes it an HTTPS server; `port` and `onRecord` are for one that replaces another.
 */
export async function scriptedGateway({
  tls,
  port = 0,
  onRecord: before = new Map(),
}: {
  tls?: ServerOptions;
  port?: number;
  onRecord?: ReadonlyMap<string, OnRecord>;
} = {}) {
  const onRecord = new Map(before);
  const posts: Arrival[] = [];
  const lookUps: Arrival[] = [];
  const connections = new Map<Socket, number>();
  const attempts = new Map<string, number>();

  async function receive(request: IncomingMessage, response: ServerResponse): Promise<void> {
    // The caller hung up. That is no error of the test.
    response.on('error', () => {});
    const received = await text(request).catch(() => undefined);
    if (received === undefined) return;
    const { socket } = request;
    if (!connections.has(socket)) connections.set(socket, connections.size + 1);
    const isPost = request.method === 'POST';
    const payment = isPost
      ? (JSON.parse(received) as { correlationId: string; amount: number; requestedAt: string })
      : { correlationId: request.url!.split('/').at(-1)!, amount: Number.NaN, requestedAt: '' };
    const key = `${request.method} ${payment.correlationId}`;
    attempts.set(key, (attempts.get(key) ?? 0) + 1);
    const arrival: Arrival = {
      ...payment,
      attempt: attempts.get(key)!,
      connection: connections.get(socket)!,
      atMs: performance.now(),
      request,
      response,
    };
    (isPost ? posts : lookUps).push(arrival);
    const reply = isPost ? (gateway.onPayment(arrival) ?? accept) : (gateway.onLookUp(arrival) ?? tell);
    reply(arrival, gateway);
  }

  const listener = (request: IncomingMessage, response: ServerResponse) => void receive(request, response);
  const server = tls ? createTlsServer(tls, listener) : createServer(listener);
  server.on('connection', (socket: Socket) => socket.on('error', () => {}));
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  let closing: Promise<unknown> | undefined;
  const close = () => {
    closing ??= once(server.close(), 'close');
    server.closeAllConnections();
    return closing;
  };
  atTestEnd(close);

  const gateway = {
    url: `${tls ? 'https' : 'http'}://127.0.0.1:${(server.address() as AddressInfo).port}`,
    port: (server.address() as AddressInfo).port,
    close,
    /** What it has charged, by id. */
    onRecord: onRecord as ReadonlyMap<string, OnRecord>,
    /** Every payment it got, oldest first. */
    posts: posts as readonly Arrival[],
    /** Every look-up it got, oldest first. */
    lookUps: lookUps as readonly Arrival[],
    /** The test's script for payments. Undefined: {@link accept}. */
    onPayment: (_arrival: Arrival): Reply | undefined => undefined,
    /** The test's script for look-ups. Undefined: {@link tell}. */
    onLookUp: (_arrival: Arrival): Reply | undefined => undefined,
    /** Stores a payment, unless its id is known. */
    charge({ correlationId, amount, requestedAt }: Arrival): void {
      if (!onRecord.has(correlationId)) onRecord.set(correlationId, { amount, requestedAt });
    },
    postsOf: (correlationId: string) => posts.filter((each) => each.correlationId === correlationId),
    lookUpsOf: (correlationId: string) => lookUps.filter((each) => each.correlationId === correlationId),
  };
  return gateway;
}
