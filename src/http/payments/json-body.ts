import { isUtf8 } from 'node:buffer';
import type { IncomingMessage } from 'node:http';
import { InvalidJsonError, PayloadTooLargeError } from '../../errors.ts';

/** The largest body accepted, in bytes. */
export const MAX_BODY_BYTES = 64 * 1024;

/** A body as it came and as it reads. */
export interface JsonBody {
  readonly text: string;
  readonly value: unknown;
}

/**
 * Reads a body as JSON, whatever its content type says. It does the one thing that is needed here; `express.json` also
 * looks at types, encodings and charsets, on the path that every payment takes.
 * @throws InvalidJsonError for anything but a JSON text in UTF-8: an empty body and a compressed one, too.
 * @throws PayloadTooLargeError as soon as more than {@link MAX_BODY_BYTES} are announced or have come.
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
