import { readFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { createSecureContext, TLSSocket } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { atTestEnd } from './cleanup.ts';

/**
 * A certificate authority that no machine knows, and a server's certificate of it for localhost, valid for 100 years:
 * tls/ca.pem, tls/localhost.pem, tls/localhost.key. The key of the authority was thrown away, so it can vouch for nothing else.
 */
const file = (name: string) => fileURLToPath(new URL(`./tls/${name}`, import.meta.url));

/** For NODE_EXTRA_CA_CERTS. */
export const PRIVATE_CA = file('ca.pem');

export interface TlsProxy {
  readonly port: number;
  /** Connections that came, whether or not their client trusted the certificate. */
  readonly connections: number;
  /** Connections whose client trusted the certificate: it sent something through TLS. */
  readonly trusted: number;
}

/**
 * A TLS server in front of a plain one on 127.0.0.1, closed after the test. So TLS is tested with any Redis and PostgreSQL, also with
 * those that were built without it.
 * @param protocol PostgreSQL's clients ask in plain text whether TLS is spoken, before they begin with it.
 */
export async function createTlsProxy(targetPort: number, protocol: 'plain' | 'postgres' = 'plain'): Promise<TlsProxy> {
  const secureContext = createSecureContext({
    key: readFileSync(file('localhost.key')),
    cert: readFileSync(file('localhost.pem')),
  });
  const sockets = new Set<Socket>();
  const counts = { connections: 0, trusted: 0 };

  function encrypt(socket: Socket): void {
    const client = new TLSSocket(socket, { isServer: true, secureContext });
    const server = connect(targetPort, '127.0.0.1');
    sockets.add(server);
    client.once('data', () => {
      counts.trusted += 1;
    });
    client.pipe(server).pipe(client);
    // A client that does not trust us ends the handshake with an error, and so does everything at the end of the test.
    for (const [one, other] of [
      [client, server],
      [server, client],
    ] as const) {
      one.on('error', () => other.destroy());
      one.on('close', () => other.destroy());
    }
  }

  const listener: Server = createServer((socket) => {
    counts.connections += 1;
    sockets.add(socket);
    socket.on('error', () => {});
    if (protocol === 'plain') encrypt(socket);
    else {
      // SSLRequest: eight bytes, and nothing else before the answer.
      socket.once('data', () => {
        socket.write('S');
        encrypt(socket);
      });
    }
  });
  await new Promise<void>((resolve) => listener.listen(0, '127.0.0.1', resolve));
  atTestEnd(() => {
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => listener.close(resolve));
  });
  const { port } = listener.address() as { port: number };
  return {
    port,
    get connections() {
      return counts.connections;
    },
    get trusted() {
      return counts.trusted;
    },
  };
}
