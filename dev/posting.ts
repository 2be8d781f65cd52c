import { connect, type Socket } from 'node:net';

export interface PostingOptions {
  readonly port: number;
  readonly connections: number;
  readonly body: (index: number) => string;
  /** The expected status. Default 204. */
  readonly status?: number;
  /** Default: until `stop`. */
  readonly count?: number;
  readonly onResponse: (isExpected: boolean, latencyMs: number) => void;
}

export interface Posting {
  /** Sends nothing more. Requests under way still get their response. */
  stop(): void;
  /** After the last response. Rejects when a connection fails. */
  readonly ended: Promise<void>;
}

/**
 * Posts payments to an API node of this machine over keep-alive connections. Each connection sends its next request after the
 * response to the last one. This client speaks just enough HTTP to do so, because it shares the cores with the server that it
 * measures.
 */
export function startPosting(options: PostingOptions): Posting {
  const { port, connections, body, status = 204, count = Number.POSITIVE_INFINITY, onResponse } = options;
  let left = count;
  let sent = 0;
  const expected = `HTTP/1.1 ${status}`;

  function post(socket: Socket): Promise<void> {
    return new Promise<void>((resolve, reject) => {
      let sentAt = 0;
      let received = '';
      const next = () => {
        if (left <= 0) {
          socket.end();
          resolve();
          return;
        }
        const text = body(sent);
        left -= 1;
        sent += 1;
        sentAt = performance.now();
        socket.write(
          `POST /payments HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(text)}\r\n\r\n${text}`,
        );
      };
      socket.on('connect', next);
      socket.on('error', reject);
      socket.on('data', (chunk: string) => {
        received += chunk;
        const end = received.indexOf('\r\n\r\n');
        if (end === -1) return;
        const length = Number(/content-length: (\d+)/i.exec(received)?.[1] ?? 0);
        if (received.length < end + 4 + length) return;
        onResponse(received.startsWith(expected), performance.now() - sentAt);
        received = '';
        next();
      });
    });
  }

  const ended = Promise.all(
    Array.from({ length: connections }, () => {
      const socket = connect(port, '127.0.0.1');
      socket.setNoDelay(true);
      socket.setEncoding('latin1');
      return post(socket);
    }),
  );
  return {
    stop() {
      left = 0;
    },
    ended: ended.then(() => undefined),
  };
}
