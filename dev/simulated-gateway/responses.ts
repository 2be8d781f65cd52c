import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';

/** A payment has about 120 bytes. A much larger body is a mistake and must not fill the memory. */
const MAX_BODY_BYTES = 64 * 1024;

export function readBody(req: IncomingMessage, res: ServerResponse, use: (body: Buffer) => void): void {
  const chunks: Buffer[] = [];
  let size = 0;
  req.on('data', (chunk: Buffer) => {
    size += chunk.length;
    if (size <= MAX_BODY_BYTES) chunks.push(chunk);
  });
  req.on('end', () => {
    if (size > MAX_BODY_BYTES) sendJson(res, 413, { message: `the body exceeds ${MAX_BODY_BYTES} bytes` });
    else use(chunks.length === 1 ? (chunks[0] as Buffer) : Buffer.concat(chunks));
  });
}

export interface PreparedBody {
  headers: OutgoingHttpHeaders;
  body: string;
}

export function preparedJson(value: unknown): PreparedBody {
  const body = JSON.stringify(value);
  return {
    headers: { 'Content-Type': 'application/json; charset=utf-8', 'Content-Length': Buffer.byteLength(body) },
    body,
  };
}

export function tooMany(retryAfterSeconds: number): PreparedBody {
  const body = 'Too many requests. Try again later.';
  const headers = { 'Content-Type': 'text/plain', 'Content-Length': body.length, 'Retry-After': retryAfterSeconds };
  return { headers, body };
}

export function sendJson(res: ServerResponse, status: number, value: unknown): void {
  send(res, status, preparedJson(value));
}

/** When the caller has hung up it writes nothing, without an error. */
export function send(res: ServerResponse, status: number, prepared?: PreparedBody): void {
  if (prepared) res.writeHead(status, prepared.headers).end(prepared.body);
  else res.writeHead(status, status === 204 ? {} : { 'Content-Length': 0 }).end();
}

/** In pieces, so that a million payments neither block other requests nor take up memory as one string. */
export function streamJsonArray(res: ServerResponse, items: Iterable<unknown>): void {
  res.writeHead(200, { 'Content-Type': 'application/json; charset=utf-8' });
  pipeline(Readable.from(jsonPieces(items)), res).catch(() => res.destroy()); // the reader left
}

function* jsonPieces(items: Iterable<unknown>): Generator<string> {
  let piece = '[';
  let separator = '';
  for (const item of items) {
    piece += separator + JSON.stringify(item);
    separator = ',';
    if (piece.length < 65_536) continue;
    yield piece;
    piece = '';
  }
  yield `${piece}]`;
}
