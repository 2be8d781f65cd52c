import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer as createHttpServer, type IncomingMessage, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { brotliCompressSync, deflateSync, gzipSync } from 'node:zlib';
import { expect } from 'chai';
import type { GatewayConfig } from '../../src/config.ts';
import type { AttemptHistory, AttemptOutcome } from '../../src/gateways/gateway.ts';
import { HttpGateway } from '../../src/gateways/http-gateway.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { recordingLogger } from '../support/logger.ts';
import { testCertificate, trustTestCa } from '../support/test-tls.ts';

const ID = '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3';
const PAYMENT = { correlationId: ID, amountCents: 1990 };
const FIRST: AttemptHistory = { isFirst: true, isUnresolved: false, onNewConnection: false };
const IN_DOUBT: AttemptHistory = { isFirst: false, isUnresolved: false, onNewConnection: true };
const REFUSAL = 'HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n';

const KIB = 1024;

function gatewayAt(url: string, config: Partial<GatewayConfig> = {}): HttpGateway {
  const defaults = { poolSize: 2, poolTimeoutMs: 1_000, receiveTimeoutMs: 150, connectionMaxAgeMs: 60_000 };
  const gateway = new HttpGateway(
    'primary',
    { url, empty500: 'unknown', ...defaults, ...config },
    recordingLogger().logger,
  );
  atTestEnd(() => gateway.close());
  return gateway;
}

const local = (port: number) => `http://127.0.0.1:${port}`;

/** A TCP server with this handler for each connection. Closed after the test, with its connections. */
async function serve(onConnection: (socket: Socket, number: number) => void, host = '127.0.0.1'): Promise<number> {
  const sockets = new Set<Socket>();
  let connections = 0;
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => {}).on('close', () => sockets.delete(socket)));
    connections += 1;
    onConnection(socket, connections);
  }).listen(0, host);
  atTestEnd(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

/** A server that sends these bytes for each request, and then ends the connection as given. */
function serveBytes(bytes: string | Buffer, ending: 'stay' | 'end' | 'reset' = 'stay'): Promise<number> {
  return serve((socket) =>
    socket.on('data', () =>
      socket.write(bytes, () => {
        if (ending === 'end') socket.end();
        if (ending === 'reset') socket.resetAndDestroy();
      }),
    ),
  );
}

/** An HTTP server; with a certificate, over TLS. */
async function serveHttp(
  listener: (request: IncomingMessage, response: ServerResponse) => void,
  { certificate, host = '127.0.0.1' }: { certificate?: ReturnType<typeof testCertificate>; host?: string } = {},
): Promise<number> {
  const server = certificate ? createHttpsServer(certificate, listener) : createHttpServer(listener);
  server.listen(0, host);
  atTestEnd(() => {
    server.close();
    server.closeAllConnections();
  });
  await once(server, 'listening');
  return (server.address() as AddressInfo).port;
}

/** The outcome of one attempt when the gateway responds with this body. */
async function sendFor(
  status: number,
  body: Buffer | string,
  headers: Record<string, string> = {},
  config: Partial<GatewayConfig> = {},
): Promise<AttemptOutcome> {
  const port = await serveHttp((request, response) => {
    request.resume();
    if (request.method === 'POST') response.writeHead(status, headers).end(body);
    else response.writeHead(404).end();
  });
  return gatewayAt(local(port), config).send(PAYMENT, FIRST);
}

const codeOf = (outcome: AttemptOutcome) => ('cause' in outcome ? outcome.cause.code : undefined);

/** A stopped listener with a full backlog: connecting to it neither succeeds nor fails. */
async function listenerThatDoesNotAccept(): Promise<number> {
  const script =
    "require('net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, function () { console.log(this.address().port) })";
  const child = spawn(process.execPath, ['-e', script]);
  atTestEnd(() => child.kill('SIGKILL'));
  const [line] = await once(child.stdout, 'data');
  const port = Number(line);
  child.kill('SIGSTOP');
  for (let tries = 0; tries < 20; tries += 1) {
    const socket = connect(port, '127.0.0.1').on('error', () => {});
    atTestEnd(() => socket.destroy());
    // A local connection takes far less. One that is not there by then has met the full backlog.
    const isConnected = await Promise.race([
      once(socket, 'connect').then(() => true),
      new Promise((resolve) => setTimeout(resolve, 200, false)),
    ]);
    if (!isConnected) return port;
  }
  throw new Error('the backlog accepts any number of connections');
}

/** A port on which nothing listens. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  await once(server.close(), 'close');
  return port;
}

const hasIpv6 = () =>
  Object.values(networkInterfaces())
    .flat()
    .some((it) => it?.address === '::1');

describe('HttpGateway over a real network', () => {
  describe('without a connection', () => {
    async function expectNotSent(url: string, code?: string): Promise<void> {
      const gateway = gatewayAt(url);
      const outcome = await gateway.send(PAYMENT, FIRST);
      expect(outcome).to.include({ kind: 'not_sent', reason: 'unreachable', evidence: 'not_sent' });
      if (code !== undefined) expect(codeOf(outcome)).to.equal(code);
      expect(gateway.hasFreeConnection).to.equal(true);
    }

    it('returns not_sent when the connection is refused', async () => {
      await expectNotSent(local(await freePort()), 'ECONNREFUSED');
    });

    it('returns not_sent when the name is not found', async () => {
      await expectNotSent('http://gateway.invalid:8001');
    });

    it('returns not_sent when the time-out ends while connecting', async () => {
      await expectNotSent(local(await listenerThatDoesNotAccept()), 'ETIMEDOUT');
    });

    it('returns not_sent when the connection is reset in the TLS handshake', async () => {
      const port = await serve((socket) => socket.once('data', () => socket.resetAndDestroy()));
      await expectNotSent(`https://127.0.0.1:${port}`, 'ECONNRESET');
    });

    it('returns not_sent when the connection ends in the TLS handshake', async () => {
      await expectNotSent(`https://127.0.0.1:${await serve((socket) => socket.once('data', () => socket.end()))}`);
    });

    it('returns not_sent when the time-out ends in the TLS handshake', async () => {
      await expectNotSent(`https://127.0.0.1:${await serve((socket) => socket.resume())}`, 'ETIMEDOUT');
    });

    it('returns not_sent when the port speaks plain HTTP instead of TLS', async () => {
      await expectNotSent(`https://127.0.0.1:${await serveBytes('HTTP/1.1 400 Bad Request\r\n\r\n', 'end')}`);
    });

    it('returns not_sent when the certificate cannot be trusted, and sends nothing', async () => {
      trustTestCa();
      for (const name of ['self-signed', 'other-name'] as const) {
        let requests = 0;
        const closed = Promise.withResolvers<void>();
        const certificate = testCertificate(name);
        const server = createHttpsServer(certificate, () => {
          requests += 1;
        });
        server.on('connection', (socket: Socket) => socket.on('error', () => {}).once('close', () => closed.resolve()));
        server.listen(0, '127.0.0.1');
        atTestEnd(() => server.close());
        await once(server, 'listening');
        await expectNotSent(`https://127.0.0.1:${(server.address() as AddressInfo).port}`);
        await closed.promise;
        expect(requests).to.equal(0);
      }
    });
  });

  describe('with a connection, but no complete head', () => {
    async function expectNoResponse(port: number, code?: string): Promise<void> {
      const gateway = gatewayAt(local(port));
      const outcome = await gateway.send(PAYMENT, FIRST);
      expect(outcome).to.include({ kind: 'unknown', evidence: 'no_response' });
      if (code !== undefined) expect(codeOf(outcome)).to.equal(code);
      expect(gateway.hasFreeConnection).to.equal(true);
    }

    it('returns unknown when the connection is reset', async () => {
      await expectNoResponse(
        await serve((socket) => socket.once('data', () => socket.resetAndDestroy())),
        'ECONNRESET',
      );
    });

    it('returns unknown when the connection ends', async () => {
      await expectNoResponse(await serve((socket) => socket.once('data', () => socket.end())));
    });

    it('returns unknown when the head is cut off', async () => {
      await expectNoResponse(await serveBytes('HTTP/1.1 429 Too Many Requests\r\nContent-', 'end'));
    });

    it('returns unknown when the time-out ends in the head', async () => {
      await expectNoResponse(await serveBytes('HTTP/1.1 429 Too Many Requests\r\nContent-'), 'ETIMEDOUT');
    });

    it('returns unknown when the response is not HTTP', async () => {
      await expectNoResponse(await serveBytes('SSH-2.0-OpenSSH_9.6\r\n'));
    });

    it('returns unknown when the headers have no end', async () => {
      const isClosed = Promise.withResolvers<void>();
      const port = await serve((socket) => {
        socket.once('close', () => isClosed.resolve());
        socket.once('data', () => {
          socket.write('HTTP/1.1 429 Too Many Requests\r\n');
          const more = () => {
            while (!socket.destroyed && socket.write(`X-Filler: ${'x'.repeat(1_000)}\r\n`));
            if (!socket.destroyed) socket.once('drain', more);
          };
          more();
        });
      });
      await expectNoResponse(port, 'HPE_HEADER_OVERFLOW');
      await isClosed.promise;
    });

    it('returns unknown when only informational responses come', async () => {
      await expectNoResponse(await serveBytes('HTTP/1.1 100 Continue\r\n\r\n'), 'ETIMEDOUT');
    });

    it('returns unknown for a 101, and closes its connection', async () => {
      for (const headers of ['', 'Connection: Upgrade\r\nUpgrade: websocket\r\n']) {
        const isClosed = Promise.withResolvers<void>();
        const port = await serve((socket) => {
          socket.once('close', () => isClosed.resolve());
          socket.once('data', () => socket.write(`HTTP/1.1 101 Switching Protocols\r\n${headers}\r\n`));
        });
        await expectNoResponse(port, 'http_101');
        await isClosed.promise;
      }
    });

    it('returns unknown when TLS breaks after the handshake', async () => {
      trustTestCa();
      const port = await serveHttp((request) => request.socket.destroy(), {
        certificate: testCertificate('localhost'),
      });
      const outcome = await gatewayAt(`https://127.0.0.1:${port}`).send(PAYMENT, FIRST);
      expect(outcome).to.include({ kind: 'unknown', evidence: 'no_response' });
    });

    it('returns unknown when a keep-alive connection is reset under the next payment', async () => {
      let connections = 0;
      const port = await serve((socket, number) => {
        connections = number;
        socket.once('data', () => {
          socket.write(REFUSAL);
          socket.once('data', () => socket.resetAndDestroy());
        });
      });
      const gateway = gatewayAt(local(port));
      expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('refused');
      expect(await gateway.send(PAYMENT, FIRST)).to.include({ kind: 'unknown', evidence: 'no_response' });
      expect(connections).to.equal(1);
    });

    it('returns unknown when no response comes on a keep-alive connection, and then on a new one', async () => {
      let connections = 0;
      const port = await serve((socket, number) => {
        connections = number;
        // Only the first request of the first connection gets a response.
        if (number === 1) socket.once('data', () => socket.write(REFUSAL));
        else socket.resume();
      });
      const gateway = gatewayAt(local(port));
      expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('refused');
      expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('unknown');
      expect(connections).to.equal(1);
      expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('unknown');
      expect(connections).to.equal(2);
    });
  });

  describe('bodies', () => {
    it('reads 64 KiB and not a byte more', async () => {
      const jsonOf = (size: number) => JSON.stringify('x'.repeat(size - 2));
      expect((await sendFor(400, jsonOf(64 * KIB))).kind).to.equal('doubtful');
      expect((await sendFor(400, jsonOf(64 * KIB + 1))).kind).to.equal('unknown');
    });

    it('reads compressed bodies', async () => {
      for (const [encoding, body] of [
        ['gzip', gzipSync('{}')],
        ['x-gzip', gzipSync('{}')],
        ['GZIP', gzipSync('{}')],
        ['deflate', deflateSync('{}')],
        ['br', brotliCompressSync('{}')],
        ['identity', Buffer.from('{}')],
      ] as const) {
        const outcome = await sendFor(400, body, { 'content-encoding': encoding });
        expect(outcome.kind, encoding).to.equal('doubtful');
      }
    });

    it('decompresses 64 KiB and not a byte more', async () => {
      const gzipped = (size: number) => gzipSync(JSON.stringify('x'.repeat(size - 2)));
      const gzip = { 'content-encoding': 'gzip' };
      expect((await sendFor(400, gzipped(64 * KIB), gzip)).kind).to.equal('doubtful');
      expect((await sendFor(400, gzipped(64 * KIB + 1), gzip)).kind).to.equal('unknown');
      expect((await sendFor(400, gzipped(50_000 * KIB), gzip)).kind).to.equal('unknown');
    });

    it('does not use a body whose encoding is unknown or wrong', async () => {
      for (const encoding of ['zstd', 'gzip, br', 'constructor', '__proto__', 'toString', 'gzip', 'br', 'deflate']) {
        const outcome = await sendFor(400, '{}', { 'content-encoding': encoding });
        expect(outcome.kind, encoding).to.equal('unknown');
      }
      const cut = gzipSync('{}').subarray(0, -4);
      expect((await sendFor(400, cut, { 'content-encoding': 'gzip' })).kind, 'cut').to.equal('unknown');
    });

    it('takes a 500 as refused only when its empty body is certainly complete', async () => {
      const kindFor = async (response: string, ending: 'stay' | 'end' | 'reset') => {
        const port = await serveBytes(`HTTP/1.1 500 Internal Server Error\r\n${response}`, ending);
        return (await gatewayAt(local(port), { empty500: 'refused' }).send(PAYMENT, FIRST)).kind;
      };
      expect(await kindFor('Content-Length: 0\r\n\r\n', 'stay')).to.equal('refused');
      expect(await kindFor('Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n', 'stay')).to.equal('refused');
      expect(await kindFor('\r\n', 'end')).to.equal('unknown');
      expect(await kindFor('\r\n', 'reset')).to.equal('unknown');
      expect(await kindFor('Content-Length: 2\r\n\r\n', 'end')).to.equal('unknown');
      expect(await kindFor('Transfer-Encoding: chunked\r\n\r\n', 'end')).to.equal('unknown');
      expect(await kindFor('Transfer-Encoding: chunked\r\n\r\n', 'stay')).to.equal('unknown');
    });

    it('looks up when a 2xx is cut off, reset, too slow or too large after its head', async () => {
      const head = 'HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n{"message"';
      for (const [body, ending] of [
        ['', 'end'],
        ['', 'reset'],
        ['', 'stay'],
        [`: "${'x'.repeat(100_000)}`, 'stay'],
      ] as const) {
        let lookUps = 0;
        let requestedAt = '';
        const port = await serveHttp((request, response) => {
          if (request.method === 'GET') {
            lookUps += 1;
            response.end(JSON.stringify({ amount: 19.9, requestedAt }));
            return;
          }
          request.once('data', (chunk: Buffer) => {
            requestedAt = JSON.parse(String(chunk)).requestedAt;
            const { socket } = request;
            socket.write(head + body, () => {
              if (ending === 'end') socket.end();
              if (ending === 'reset') socket.resetAndDestroy();
            });
          });
        });
        const gateway = gatewayAt(local(port));
        const outcome = await gateway.send(PAYMENT, FIRST);
        // The reset may overtake the head.
        if (ending === 'reset' && outcome.kind === 'unknown') continue;
        expect(outcome, ending).to.deep.equal({
          kind: 'paid',
          onRecord: { amountCents: 1990, requestedAt: new Date(requestedAt) },
        });
        expect(lookUps).to.equal(1);
        expect(gateway.hasFreeConnection).to.equal(true);
      }
    });

    it('ends an endless slow body at the time-out, and closes its connection', async () => {
      const isClosed = Promise.withResolvers<void>();
      const port = await serve((socket) => {
        socket.once('data', () => {
          socket.write('HTTP/1.1 502 Bad Gateway\r\nTransfer-Encoding: chunked\r\n\r\n');
          const trickle = setInterval(() => socket.write('1\r\nx\r\n'), 5);
          socket.once('close', () => {
            clearInterval(trickle);
            isClosed.resolve();
          });
        });
      });
      const gateway = gatewayAt(local(port), { poolSize: 1 });
      expect(await gateway.send(PAYMENT, FIRST)).to.include({ kind: 'unknown', evidence: 'response' });
      expect(gateway.hasFreeConnection).to.equal(true);
      await isClosed.promise;
    });

    it('uses little memory for 64 large bodies at once, and closes their connections', async function () {
      this.timeout(30_000);
      const script = `
        const body = Buffer.alloc(20e6, 'x');
        let open = 0;
        const server = require('http').createServer((request, response) => {
          request.resume();
          response.on('error', () => {});
          response.writeHead(502, { 'content-length': body.length }).end(body);
        });
        server.on('connection', (socket) => {
          open += 1;
          socket.on('close', () => { open -= 1; if (open === 0) console.log('closed'); });
        });
        server.listen(0, '127.0.0.1', () => console.log(server.address().port));`;
      const child = spawn(process.execPath, ['-e', script]);
      atTestEnd(() => child.kill('SIGKILL'));
      const [line] = await once(child.stdout, 'data');
      const gateway = gatewayAt(local(Number(line)), { poolSize: 64, receiveTimeoutMs: 10_000 });
      const closed = once(child.stdout, 'data');
      let mostBytes = 0;
      const before = memory();
      const watch = setInterval(() => {
        mostBytes = Math.max(mostBytes, memory() - before);
      }, 1);
      atTestEnd(() => clearInterval(watch));
      const outcomes = await Promise.all(Array.from({ length: 64 }, () => gateway.send(PAYMENT, FIRST)));
      expect(new Set(outcomes.map(({ kind }) => kind))).to.deep.equal(new Set(['unknown']));
      expect(String((await closed)[0])).to.equal('closed\n');
      // In full they are 1,280 MB. 64 times the limit, and the chunk that exceeds it, are 8 MB.
      expect(mostBytes).to.be.below(100e6);
    });
  });

  describe('connections', () => {
    it('keeps a connection alive after it has let go of an exchange', async () => {
      let connections = 0;
      const port = await serve((socket, number) => {
        connections = number;
        socket.on('data', () => socket.write(REFUSAL));
      });
      const gateway = gatewayAt(local(port));
      for (let payments = 0; payments < 3; payments += 1) {
        expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('refused');
        // Two turns: the exchange is let go of in the first, and its stream closes in the second.
        for (let turns = 0; turns < 2; turns += 1) await new Promise(setImmediate);
      }
      expect(connections).to.equal(1);
    });

    it('sends a doubted payment over a new connection, and closes that afterwards', async () => {
      const closed = Promise.withResolvers<void>();
      const requests: number[] = [];
      const port = await serve((socket, number) => {
        if (number === 2) socket.once('close', () => closed.resolve());
        socket.on('data', () => {
          requests.push(number);
          socket.write(REFUSAL);
        });
      });
      const gateway = gatewayAt(local(port));
      await gateway.send(PAYMENT, FIRST);
      await gateway.send(PAYMENT, IN_DOUBT);
      await closed.promise;
      await gateway.send(PAYMENT, IN_DOUBT);
      await gateway.send(PAYMENT, FIRST);
      expect(requests).to.deep.equal([1, 2, 3, 1]);
    });

    it('closes an idle connection at its maximum age', async () => {
      const closed = Promise.withResolvers<void>();
      let connections = 0;
      const port = await serve((socket, number) => {
        connections = number;
        socket.once('close', () => closed.resolve());
        socket.on('data', () => socket.write(REFUSAL));
      });
      const gateway = gatewayAt(local(port), { connectionMaxAgeMs: 30 });
      await gateway.send(PAYMENT, FIRST);
      await closed.promise;
      expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('refused');
      expect(connections).to.equal(2);
    });

    it('finishes the request in flight when its connection reaches the maximum age, and then closes it', async () => {
      const closed = Promise.withResolvers<void>();
      const port = await serve((socket) => {
        socket.once('close', () => closed.resolve());
        socket.on('data', () => setTimeout(() => socket.write(REFUSAL), 60));
      });
      const gateway = gatewayAt(local(port), { connectionMaxAgeMs: 10, receiveTimeoutMs: 1_000 });
      expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('refused');
      await closed.promise;
    });

    it('never has more requests in flight than places in its pool', async () => {
      const inFlight: ServerResponse[] = [];
      let most = 0;
      const port = await serveHttp((request, response) => {
        request.resume();
        inFlight.push(response);
        most = Math.max(most, inFlight.length);
        if (inFlight.length < 2) return;
        setImmediate(() => {
          for (const each of inFlight.splice(0)) each.writeHead(429).end();
        });
      });
      const gateway = gatewayAt(local(port), { receiveTimeoutMs: 2_000 });
      const outcomes = await Promise.all(Array.from({ length: 20 }, () => gateway.send(PAYMENT, FIRST)));
      expect(outcomes.map(({ kind }) => kind)).to.deep.equal(Array(20).fill('refused'));
      expect(most).to.equal(2);
    });

    it('survives a reset after the response', async () => {
      const closed = Promise.withResolvers<void>();
      const port = await serve((socket) => {
        socket.once('close', closed.resolve);
        socket.once('data', () =>
          socket.write('HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}', () =>
            socket.resetAndDestroy(),
          ),
        );
      });
      // The network decides whether the response or the reset is read first. mocha fails on an uncaught error.
      expect((await gatewayAt(local(port)).send(PAYMENT, FIRST)).kind).to.be.oneOf(['refused', 'unknown']);
      await closed.promise;
      await new Promise(setImmediate);
    });

    it('accepts a response that comes before the request was read, and gives the place back', async () => {
      const port = await serve((socket) => socket.pause().write(REFUSAL));
      const gateway = gatewayAt(local(port), { poolSize: 1 });
      expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('refused');
      expect(gateway.hasFreeConnection).to.equal(true);
    });

    it('does not use bytes from an idle connection as the response to the next payment', async () => {
      const isClosed = Promise.withResolvers<void>();
      const port = await serve((socket, number) => {
        if (number === 1) {
          socket.once('close', () => isClosed.resolve());
          socket.once('data', () => {
            socket.write(REFUSAL);
            setTimeout(() => socket.write('HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\n{}'), 30);
          });
        } else socket.on('data', () => socket.write(REFUSAL));
      });
      const gateway = gatewayAt(local(port));
      expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('refused');
      await isClosed.promise;
      expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('refused');
    });
  });

  describe('addresses', () => {
    it('sends to the path of an IPv6 address, and reads a response in pieces', async function () {
      // Without IPv6 on this machine there is no such address.
      if (!hasIpv6()) this.skip();
      let request = '';
      const response = Buffer.from('HTTP/1.1 400 Bad Request\r\nContent-Length: 9\r\n\r\n"bad é!"');
      const port = await serve((socket) => {
        socket.setNoDelay(true).on('data', (data) => {
          request += data;
          if (!request.endsWith('}')) return;
          // Cut inside the é. The second piece is sent when the first one has been read.
          socket.write(response.subarray(0, -3), () => setImmediate(() => socket.write(response.subarray(-3))));
        });
      }, '::1');
      const outcome = await gatewayAt(`http://[::1]:${port}/v1`).send(PAYMENT, FIRST);
      expect(outcome).to.deep.equal({
        kind: 'doubtful',
        evidence: 'response',
        cause: { code: 'http_400', detail: 'HTTP 400: "bad é!"' },
      });
      expect(request).to.match(/^POST \/v1\/payments HTTP\/1.1\r\n/);
      expect(request.toLowerCase()).to.include(`host: [::1]:${port}\r\n`);
    });

    it('sends over TLS to a name and to an IPv4 address, with SNI only for the name', async () => {
      trustTestCa();
      for (const host of ['localhost', '127.0.0.1']) {
        let seen: unknown[] = [];
        const port = await serveHttp(
          (request, response) => {
            const { servername } = request.socket as Socket & { servername?: string | false };
            seen = [request.method, request.url, request.headers.host, servername];
            request.resume();
            response.writeHead(429).end();
          },
          { certificate: testCertificate('localhost') },
        );
        const gateway = gatewayAt(`https://${host}:${port}/v1`, { receiveTimeoutMs: 2_000 });
        expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('refused');
        expect((await gateway.send(PAYMENT, IN_DOUBT)).kind).to.equal('refused');
        expect(seen).to.deep.equal([
          'POST',
          '/v1/payments',
          `${host}:${port}`,
          host === 'localhost' ? 'localhost' : false,
        ]);
      }
    });

    it('sends over TLS to an IPv6 address', async function () {
      // Without IPv6 on this machine there is no such address.
      if (!hasIpv6()) this.skip();
      trustTestCa();
      const port = await serveHttp(
        (request, response) => {
          request.resume();
          response.writeHead(429).end();
        },
        { certificate: testCertificate('localhost'), host: '::1' },
      );
      const gateway = gatewayAt(`https://[::1]:${port}`, { receiveTimeoutMs: 2_000 });
      expect((await gateway.send(PAYMENT, FIRST)).kind).to.equal('refused');
    });
  });
});

/** The memory of this process inside and outside of V8's heap, in bytes. */
function memory(): number {
  const { heapUsed, external, arrayBuffers } = process.memoryUsage();
  return heapUsed + external + arrayBuffers;
}
