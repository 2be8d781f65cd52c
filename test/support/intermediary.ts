import { once } from 'node:events';
import {
  Agent,
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  type OutgoingHttpHeaders,
  request,
  type ServerResponse,
} from 'node:http';
import { freePort } from '../../dev/local/ports.ts';

/** A request that reached the intermediary, with its complete body. */
export interface InterceptedRequest {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  /** In lower case: from the path of a look-up, from the body of a payment. Undefined where there is none. */
  readonly correlationId: string | undefined;
  readonly headers: IncomingHttpHeaders;
  readonly body: string;
  /** As performance.now() counts. */
  readonly receivedAtMs: number;
  /** Counts the connections to this intermediary, from 1: two requests with the same number came over the same one. */
  readonly connection: number;
  /** Whether the caller got a response of the intermediary's own. */
  readonly isIntercepted: boolean;
  /** The status the caller was sent; undefined until then. */
  readonly status: number | undefined;
}

/** A response of the intermediary's own. Its content-length is added. A function writes the response itself. */
export type OwnResponse =
  | { readonly status: number; readonly headers?: OutgoingHttpHeaders; readonly body?: string | Buffer }
  | ((request: InterceptedRequest, response: ServerResponse) => void);

/** How the intermediary treats one kind of request. */
export interface Interception {
  /**
   * `before` (the default): the gateway never gets the request. `during`: the gateway gets the request, but the caller gets
   * its response at once, so a slow gateway charges later. `after`: the caller gets this response in place of one that says
   * that the payment is on record (2xx, 422); any other passes.
   */
  readonly when?: 'before' | 'during' | 'after';
  readonly response: OwnResponse;
  /** Only every so many requests of this kind is intercepted, counted from `set`; the others pass. 1 (all) by default. */
  readonly every?: number;
}

/** What is intercepted; a kind of request that is absent passes. `{}` passes everything. */
export interface IntermediaryMode {
  /** `POST /payments`. */
  readonly payments?: Interception;
  /** `GET /payments/{id}`. */
  readonly lookUps?: Interception;
}

export interface IntermediaryOptions {
  /** Whether `requests` is filled. It takes about 2 KB per request, so long runs turn it off. Default true. */
  recordRequests?: boolean;
}

export interface Intermediary extends AsyncDisposable {
  /** Without a trailing slash. */
  readonly url: string;
  readonly port: number;
  /** Takes effect for requests whose body is complete from now on. */
  set(mode: IntermediaryMode): void;
  /** Everything that was received, in order, live. */
  readonly requests: readonly InterceptedRequest[];
  /** Drops every connection. May be called again. */
  close(): Promise<void>;
}

const HTML = { 'content-type': 'text/html' };
const JSON_TYPE = { 'content-type': 'application/json' };

const page = (status: number, title: string): OwnResponse => ({
  status,
  headers: HTML,
  body: `<html>\r\n<head><title>${title}</title></head>\r\n<body>\r\n<center><h1>${title}</h1></center>\r\n<hr><center>nginx</center>\r\n</body>\r\n</html>\r\n`,
});

const json = (status: number, value: unknown): OwnResponse => ({
  status,
  headers: JSON_TYPE,
  body: JSON.stringify(value),
});

/** Responses that proxies, load balancers, firewalls and ingress controllers give in a gateway's place. */
export const OWN_RESPONSES = {
  empty500: { status: 500 },
  html500: page(500, '500 Internal Server Error'),
  /** Go's ReverseProxy, when the connection behind it breaks. */
  empty502: { status: 502 },
  html502: page(502, '502 Bad Gateway'),
  empty503: { status: 503 },
  html503: page(503, '503 Service Temporarily Unavailable'),
  retryLater503: { status: 503, headers: { 'retry-after': '2' } },
  empty504: { status: 504 },
  html504: page(504, '504 Gateway Time-out'),
  empty400: { status: 400 },
  /** nginx, when plain HTTP reaches a TLS port. */
  html400: page(400, '400 The plain HTTP request was sent to HTTPS port'),
  json400: json(400, { message: 'Bad Request' }),
  empty404: { status: 404 },
  html404: page(404, '404 Not Found'),
  /** A host that serves nothing yet. */
  welcome200: page(200, 'Welcome to nginx!'),
  empty200: { status: 200 },
  declined200: json(200, { status: 'declined' }),
  /** A decline that names the payment. */
  declinedById200: (({ correlationId }, response) =>
    respond(response, json(200, { correlationId, status: 'declined' }) as Canned)) as OwnResponse,
  /** Everything that was posted, requestedAt included. */
  echo200: (({ body }, response) => respond(response, { status: 200, headers: JSON_TYPE, body })) as OwnResponse,
  accepted202: json(202, { message: 'accepted' }),
  empty202: { status: 202 },
  empty204: { status: 204 },
  redirect302: { status: 302, headers: { location: '/login' } },
} as const satisfies Record<string, OwnResponse>;

type Canned = Exclude<OwnResponse, (...args: never[]) => void>;

interface Upstream {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly body: Buffer;
}

/** Hop-by-hop headers, and those that the next request or response sets itself. */
const NOT_FORWARDED = ['connection', 'keep-alive', 'transfer-encoding', 'host', 'content-length'];

/**
 * An HTTP reverse proxy in front of a gateway, on a port of 127.0.0.1, that can respond in the gateway's place. At first
 * everything passes. When the connection to the gateway fails or breaks, the caller gets an empty 502, as from Go's
 * ReverseProxy. There is no time limit. A request that was forwarded stays forwarded when its caller hangs up.
 */
export async function createIntermediary(
  targetUrl: string,
  { recordRequests = true }: IntermediaryOptions = {},
): Promise<Intermediary> {
  const target = new URL(targetUrl);
  const agent = new Agent({ keepAlive: true });
  const requests: Writable<InterceptedRequest>[] = [];
  const connections = new WeakMap<object, number>();
  let connectionsTotal = 0;
  let mode: IntermediaryMode = {};
  let seen = { payments: 0, lookUps: 0 };

  function interceptionOf({ method, path }: InterceptedRequest): Interception | undefined {
    const kind = kindOf(method, path);
    const interception = kind && mode[kind];
    if (!interception) return undefined;
    seen[kind] += 1;
    return seen[kind] % (interception.every ?? 1) === 0 ? interception : undefined;
  }

  async function handle(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const body = await readAll(incoming);
    const received: Writable<InterceptedRequest> = {
      method: incoming.method!,
      path: incoming.url!,
      correlationId: idOf(incoming.url!, body),
      headers: incoming.headers,
      body: body.toString(),
      receivedAtMs: performance.now(),
      connection: connections.get(incoming.socket)!,
      isIntercepted: false,
      status: undefined,
    };
    if (recordRequests) requests.push(received);
    const interception = interceptionOf(received);
    const when = interception?.when ?? 'before';
    const forwarded = interception && when === 'before' ? undefined : forward(incoming, body);
    // `during`: its response is not used.
    forwarded?.catch(() => {});
    const isPassing = !interception || when === 'after';
    const upstream = isPassing ? await forwarded!.catch(() => undefined) : undefined;
    if (interception && (!isPassing || isOnRecord(upstream))) {
      received.isIntercepted = true;
      if (typeof interception.response === 'function') interception.response(received, outgoing);
      else respond(outgoing, interception.response);
    } else {
      respond(outgoing, upstream ? passedOn(upstream) : OWN_RESPONSES.empty502);
    }
    received.status = outgoing.statusCode;
  }

  function forward({ method, url, headers }: IncomingMessage, body: Buffer): Promise<Upstream> {
    return new Promise((resolve, reject) => {
      const upstream = request(
        new URL(`${target.pathname.replace(/\/$/, '')}${url}`, target),
        { method: method!, agent, headers: { ...kept(headers), 'content-length': body.length } },
        (response) => {
          readAll(response).then(
            (read) => resolve({ status: response.statusCode!, headers: response.headers, body: read }),
            reject,
          );
        },
      );
      upstream.on('error', reject);
      upstream.end(body);
    });
  }

  const server = createServer((incoming, outgoing) => {
    outgoing.on('error', () => {});
    // The caller hung up before its request was complete.
    handle(incoming, outgoing).catch(() => outgoing.destroy());
  });
  // Longer than callers keep their connections alive, so the intermediary never closes one that a caller is about to use.
  server.keepAliveTimeout = 130_000;
  server.on('connection', (socket) => connections.set(socket, ++connectionsTotal));
  const port = await freePort();
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');

  let closing: Promise<void> | undefined;
  const close = () => {
    closing ??= new Promise<void>((resolve) => {
      server.close(() => resolve());
      server.closeAllConnections();
      agent.destroy();
    });
    return closing;
  };
  return {
    url: `http://127.0.0.1:${port}`,
    port,
    set(next) {
      mode = next;
      seen = { payments: 0, lookUps: 0 };
    },
    requests,
    close,
    [Symbol.asyncDispose]: close,
  };
}

type Writable<T> = { -readonly [Key in keyof T]: T[Key] };

function kindOf(method: string, path: string): keyof IntermediaryMode | undefined {
  if (method === 'POST' && path === '/payments') return 'payments';
  return method === 'GET' && /^\/payments\/[0-9a-f-]{36}$/i.test(path) ? 'lookUps' : undefined;
}

function idOf(path: string, body: Buffer): string | undefined {
  const id = /^\/payments\/([0-9a-f-]{36})$/i.exec(path) ?? /"correlationId":\s*"([^"]*)"/.exec(body.toString());
  return id?.[1]?.toLowerCase();
}

async function readAll(stream: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = [];
  for await (const chunk of stream) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks);
}

function kept(headers: IncomingHttpHeaders): OutgoingHttpHeaders {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => !NOT_FORWARDED.includes(name)));
}

function isOnRecord(upstream: Upstream | undefined): boolean {
  return upstream !== undefined && ((upstream.status >= 200 && upstream.status < 300) || upstream.status === 422);
}

function passedOn({ status, headers, body }: Upstream): Canned {
  return { status, headers: kept(headers), body };
}

function respond(response: ServerResponse, { status, headers = {}, body = '' }: Canned): void {
  const hasNoBody = status === 204 || status === 304;
  response.writeHead(status, { ...headers, ...(!hasNoBody && { 'content-length': Buffer.byteLength(body) }) });
  response.end(hasNoBody ? undefined : body);
}
