import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import { InvalidJsonError, PayloadTooLargeError } from '../../errors.ts';

/** The largest body accepted, in bytes. */
export const MAX_BODY_BYTES = 64 * 1024;

/** A body as its text and as its parsed value. */
export interface JsonBody {
  readonly text: string;
  readonly value: unknown;
}

/**
 * Reads a body as JSON, whatever its content type. Every payment takes this path, so it does no more than that:
 * `express.json` would also inspect types, encodings and charsets.
 * @throws InvalidJsonError unless the body is a JSON text in UTF-8; also for an empty and for a compressed body.
 * @throws PayloadTooLargeError as soon as more than {@link MAX_BODY_BYTES} are announced or received.
 */
export async function readJsonBody(request: IncomingMessage): Promise<JsonBody> {
  const bytes = await readBytes(request);
  if (!isUtf8(bytes)) throw new InvalidJsonError('the body is not UTF-8');
  const text = bytes.toString('utf8');
  try {
    return { text, value: JSON.parse(text) };
  } catch (cause) {
    throw new InvalidJsonError('the body is not JSON', { cause });
  }
}

function readBytes(request: IncomingMessage): Promise<Buffer> {
  return new Promise((resolve, reject) => {
    if (Number(request.headers['content-length']) > MAX_BODY_BYTES) return reject(tooLarge());
    const chunks: Buffer[] = [];
    let size = 0;
    request.on('data', (chunk: Buffer) => {
      size += chunk.length;
      if (size > MAX_BODY_BYTES) reject(tooLarge());
      else chunks.push(chunk);
    });
    request.on('end', () => resolve(chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks)));
    request.on('error', reject);
  });
}

function tooLarge(): PayloadTooLargeError {
  return new PayloadTooLargeError(`the body is larger than ${MAX_BODY_BYTES} bytes`);
}
