import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Exchange } from './api-document.ts';

interface Started {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
}

/**
 * Reports every response of a server in this process, once it is complete. Node says when a request starts, so
 * the server needs no hook for this. What a connection gets without a request is not reported.
 * @returns a function that ends the reports
 */
export function watchResponses(port: number, onResponse: (exchange: Exchange) => void): () => void {
  const onStart = (message: unknown) => {
    const { request, response } = message as Started;
    if (request.socket.localPort !== port) return;
    const parts: Buffer[] = [];
    const { write, end } = response;
    const keep = (part: unknown) => {
      if (typeof part === 'string' || part instanceof Uint8Array) parts.push(Buffer.from(part as Uint8Array));
    };
    response.write = ((...args: Parameters<typeof write>) => {
      keep(args[0]);
      return write.apply(response, args);
    }) as typeof write;
    response.end = ((...args: Parameters<typeof end>) => {
      keep(args[0]);
      return end.apply(response, args);
    }) as typeof end;
    const { method = '', url = '' } = request;
    response.once('finish', () =>
      onResponse({
        method,
        path: url,
        status: response.statusCode,
        headers: headersOf(response),
        text: Buffer.concat(parts).toString('utf8'),
      }),
    );
  };
  subscribe('http.server.request.start', onStart);
  return () => {
    unsubscribe('http.server.request.start', onStart);
  };
}

/** Also of a head that `writeHead` has sent: Node does not keep that as headers. */
function headersOf(response: ServerResponse): Record<string, unknown> {
  const { _header: head } = response as unknown as { _header: string };
  const lines = head.split('\r\n').slice(1);
  return Object.fromEntries(
    lines.filter(Boolean).map((line) => {
      const colon = line.indexOf(':');
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    }),
  );
}
