import { type ClientRequest, request as httpRequest, type IncomingHttpHeaders } from 'node:http';
import { request as httpsRequest } from 'node:https';
import type { Duplex } from 'node:stream';
import { urlToHttpOptions } from 'node:url';
import { promisify } from 'node:util';
import { brotliDecompress, gunzip, inflate } from 'node:zlib';
import got, { type RequestFunction } from 'got';
import { classifyFailure, type GatewayResponse, MAX_BODY_BYTES } from './classify-attempt.ts';
import type { AttemptCause, GatewayEvidence } from './gateway.ts';
import type { GatewayAgent } from './gateway-agent.ts';

/** The result of one request. */
export type Exchange =
  | ({ readonly kind: 'response'; readonly retryAfter: string | undefined } & GatewayResponse)
  | { readonly kind: 'failed'; readonly cause: AttemptCause; readonly evidence: GatewayEvidence };

/** Sends one request, with JSON as its body or none, and resolves with the response or the failure. Never rejects. */
export type SendRequest = (
  method: 'POST' | 'GET',
  url: string,
  options?: { readonly body?: string; readonly onNewConnection?: boolean },
) => Promise<Exchange>;

export interface LeanGotOptions {
  /** The gateway's address. Every request goes to this host and port. */
  readonly url: string;
  readonly agent: GatewayAgent;
  /** For a whole request, from its connection to the end of its response. */
  readonly timeoutMs: number;
}

/**
 * Sends requests by got at the least CPU, by three tricks. Saved CPU of the worker for each payment, medians of three to seven
 * rounds. *Drain*: as `npm run bench -- drain`. *Small heap*: a fresh worker with WORKER_TURN_MS=25 and
 * `--no-allocation-site-pretenuring --max-semi-space-size=8 --max-old-space-size=60` at 200 payments a second.
 *
 * | trick                               | drain | small heap                                | to take it out             |
 * |-------------------------------------|-------|-------------------------------------------|----------------------------|
 * | got's streams, not its promises,    | 9 %   | 19 %, 5 instead of 14 full collections    | `await client(url, …)`; it |
 * | and `letGo`, which needs them       |       |                                           | has no limit on a body     |
 * | `letGo` alone                       | 4 %   | 9 %, 4 instead of 11 full collections     | delete it and its call     |
 * | `requestTo`                         | 3 %   | 4 %                                       | delete it and its option   |
 */
export function createLeanGot({ url: baseUrl, agent, timeoutMs }: LeanGotOptions): SendRequest {
  const client = got.extend({
    agent: agent.keepAlive,
    timeout: { request: timeoutMs },
    // The job retries, where it is visible. A redirect would send the payment to an address that no operator has set.
    retry: { limit: 0 },
    followRedirect: false,
    throwHttpErrors: false,
    // `decode` has a limit on the size, which got does not have.
    decompress: false,
    request: requestTo(new URL(baseUrl)),
  });

  return (method, url, { body, onNewConnection = false } = {}) =>
    new Promise((resolve) => {
      const stream =
        body === undefined
          ? client.stream(url, { method, headers: NO_CACHE })
          : client.stream(url, { method, body, headers: JSON_TYPE, ...(onNewConnection && { agent: agent.fresh }) });
      let request: ClientRequest | undefined;
      const chunks: Buffer[] = [];
      let size = 0;
      // The first call decides: a promise settles once. Later events of the same exchange have no effect.
      const fail = (error: Error) => resolve({ kind: 'failed', ...classifyFailure(agent.phaseOf(request), error) });
      const respond = (usable: Buffer | undefined) => {
        const { statusCode, headers } = stream.response!;
        const retryAfter = headers['retry-after'];
        const text = usable === undefined ? undefined : decode(usable, headers);
        if (typeof text !== 'object') resolve({ kind: 'response', statusCode, retryAfter, body: text });
        else void text.then((decoded) => resolve({ kind: 'response', statusCode, retryAfter, body: decoded }));
      };
      // After a 101 the connection carries no HTTP, or the response to this request. No other request may use it.
      const refuseSwitch = () => {
        const code = `http_${SWITCHING_PROTOCOLS}`;
        fail(Object.assign(new Error('the server switched to another protocol'), { code }));
        stream.destroy();
      };
      stream.once('request', (made: ClientRequest) => {
        request = made;
        // got listens to this event, so Node leaves the connection to got, and got's stream would never end.
        made.once('upgrade', (_response, socket: Duplex) => {
          socket.destroy();
          refuseSwitch();
        });
      });
      // A 101 without an Upgrade header.
      stream.once('response', ({ statusCode }: { statusCode: number }) => {
        if (statusCode === SWITCHING_PROTOCOLS) refuseSwitch();
      });
      stream.on('data', (chunk: Buffer) => {
        size += chunk.length;
        if (size <= MAX_BODY_BYTES) {
          chunks.push(chunk);
          return;
        }
        respond(undefined);
        stream.destroy();
      });
      stream.on('end', () => {
        respond(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks));
        setImmediate(letGo, stream);
      });
      stream.on('error', (error: Error) => (stream.response === undefined ? fail(error) : respond(undefined)));
    });
}

const SWITCHING_PROTOCOLS = 101;

const JSON_TYPE = { 'content-type': 'application/json' };
/** A cache in between would respond with what was on record some time ago. */
const NO_CACHE = { 'cache-control': 'no-cache' };

type Decompress = (bytes: Buffer, options: { maxOutputLength: number }) => Promise<Buffer>;

/** A Map, because the name comes from the network: an object would also find `constructor`. */
const DECOMPRESS: ReadonlyMap<string, Decompress> = new Map([
  ['gzip', promisify<Buffer, { maxOutputLength: number }, Buffer>(gunzip)],
  ['x-gzip', promisify<Buffer, { maxOutputLength: number }, Buffer>(gunzip)],
  ['deflate', promisify<Buffer, { maxOutputLength: number }, Buffer>(inflate)],
  ['br', promisify<Buffer, { maxOutputLength: number }, Buffer>(brotliDecompress)],
]);

/** The text of a body; of a compressed one, a promise of it. Undefined when the body is not usable. */
function decode(bytes: Buffer, headers: IncomingHttpHeaders): string | undefined | Promise<string | undefined> {
  const encoding = headers['content-encoding']?.trim().toLowerCase() ?? 'identity';
  if (bytes.length === 0) return hasProvenEnd(headers) ? '' : undefined;
  if (encoding === 'identity') return bytes.toString();
  return DECOMPRESS.get(encoding)?.(bytes, { maxOutputLength: MAX_BODY_BYTES }).then(String, () => undefined);
}

/**
 * Whether an empty body is certainly complete. Without a length or chunks a body ends with its connection, and a lost
 * connection looks the same (RFC 9112, 6.3). A body that is JSON proves its end itself.
 */
function hasProvenEnd(headers: IncomingHttpHeaders): boolean {
  return headers['content-length'] !== undefined || /\bchunked\s*$/i.test(headers['transfer-encoding'] ?? '');
}

/**
 * Makes Node's request with the six options that it needs. got passes some thirty, most of them unset, and Node copies all of
 * them for each request.
 */
function requestTo(base: URL): RequestFunction {
  const send = base.protocol === 'https:' ? httpsRequest : httpRequest;
  const { hostname, port } = urlToHttpOptions(base);
  return ({ pathname, search }, { method, headers, agent }, onResponse) =>
    send({ hostname, port, path: pathname + search, method, headers, agent }, onResponse);
}

/**
 * Ends an exchange whose response was read, and removes all its references. V8 may allocate a closure that is assigned to a
 * property in the old generation. Node 24's writable streams have such a closure, and it refers to the stream. So got's
 * stream and all it refers to, some 12 KB for each payment, outlive the quick collections: only a full one frees them.
 */
function letGo(exchange: Duplex): void {
  // The gateway responded before it read the request: got still writes it.
  if (!exchange.writableFinished) return;
  exchange.once('close', () => {
    for (const [key, value] of Object.entries(exchange)) {
      if (typeof value === 'object' || typeof value === 'function') Reflect.set(exchange, key, undefined);
    }
  });
  exchange.destroy();
}
