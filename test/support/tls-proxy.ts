import { readFileSync } from 'node:fs';
import { connect, createServer, type Server, type Socket } from 'node:net';
import { createSecureContext, TLSSocket } from 'node:tls';
import { fileURLToPath } from 'node:url';
import { atTestEnd } from './cleanup.ts';

/**
 * tls/ca.pem is a certificate authority that no machine trusts. tls/localhost.pem, with its key tls/localhost.key, is its
 * certificate for localhost, valid for 100 years. The key of the authority was deleted, so it can sign nothing else.
 */
const file = (name: string) => fileURLToPath(new URL(`./tls/${name}`, import.meta.url));

/** For NODE_EXTRA_CA_CERTS. */
export const PRIVATE_CA = file('ca.pem');

export interface TlsProxy {
  readonly port: number;
  /** All connections, whether or not their client trusted the certificate. */
  readonly connections: number;
  /** Connections whose client trusted the certificate, as it sent something through TLS. */
  readonly trusted: number;
}

/**
 * A TLS server in front of a plain one on 127.0.0.1, closed after the test. So TLS can be tested with a Redis or a
 * PostgreSQL that was built without it.
 * @param protocol PostgreSQL's clients ask in plain text whether the server speaks TLS, before they start TLS.
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
    // A client that does not trust the certificate ends the handshake with an error. So does the end of the test.
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
      // SSLRequest: eight bytes. The client sends nothing else before the reply.
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
