import { type Agent, type IncomingHttpHeaders, request } from 'node:http';
import supertest from 'supertest';

/** supertest on a running server. Each connection ends with its response, so no server waits for it when it closes. */
export function http(url: string) {
  return supertest.agent(url).set('Connection', 'close');
}

export interface HttpResponse {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly elapsedMs: number;
}

/**
 * One request exactly as given: any bytes, any headers, any path. supertest would correct them. A list of parts is sent
 * chunked, without a content-length.
 * @throws the error of the connection when no complete response came
 */
export function exchange(
  url: string,
  {
    method = 'POST',
    headers = {},
    body,
    agent = false,
  }: {
    method?: string;
    headers?: Readonly<Record<string, string | number>>;
    body?: string | Buffer | readonly (string | Buffer)[];
    agent?: Agent | false;
  } = {},
): Promise<HttpResponse> {
  return new Promise((resolve, reject) => {
    const startedAt = performance.now();
    const sent = request(url, { method, agent, headers }, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('error', reject);
      response.on('end', () =>
        resolve({
          status: response.statusCode!,
          headers: response.headers,
          text: Buffer.concat(parts).toString('utf8'),
          elapsedMs: performance.now() - startedAt,
        }),
      );
    });
    sent.on('error', reject);
    if (typeof body === 'string' || Buffer.isBuffer(body)) {
      sent.end(body);
    } else {
      for (const part of body ?? []) sent.write(part);
      sent.end();
    }
  });
}
