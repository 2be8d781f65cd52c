import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { expect } from 'chai';
import { HttpGateway } from '../../src/gateways/http-gateway.ts';
import { atTestEnd } from '../support/cleanup.ts';

const PAYMENT = { correlationId: '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3', amountCents: 1990 };

function gatewayAt(port: number, { host = '127.0.0.1', path = '' } = {}): HttpGateway {
  const config = { url: `http://${host}:${port}${path}`, poolSize: 2, poolTimeoutMs: 1_000, receiveTimeoutMs: 150 };
  const gateway = new HttpGateway('default', config);
  atTestEnd(() => gateway.close());
  return gateway;
}

/** A listener that was stopped, with its backlog full: connecting to it neither succeeds nor fails. */
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
    // On this machine a connection is there in far less; the one that is not has met the full backlog.
    const isConnected = await Promise.race([
      once(socket, 'connect').then(() => true),
      new Promise((resolve) => setTimeout(resolve, 200, false)),
    ]);
    if (!isConnected) return port;
  }
  throw new Error('the backlog takes any number of connections');
}

async function serve(onConnection: (socket: Socket) => void, host = '127.0.0.1'): Promise<number> {
  const server = createServer(onConnection).listen(0, host);
  atTestEnd(() => server.close());
  await once(server, 'listening');
  return (server.address() as { port: number }).port;
}

describe('HttpGateway over a real network', () => {
  it('returns unknown when no answer comes to a request, on a new connection and on a kept one', async () => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => {
      sockets.push(socket);
      // The first request is answered, so that the connection is kept; what follows is not.
      socket.once('data', () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n'));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    atTestEnd(async () => {
      for (const socket of sockets) socket.destroy();
      server.close();
    });
    const gateway = gatewayAt((server.address() as { port: number }).port);
    expect((await gateway.send(PAYMENT)).kind).to.equal('paid');
    expect((await gateway.send(PAYMENT)).kind).to.equal('unknown');
    expect(sockets).to.have.length(1);
    server.removeAllListeners('connection').on('connection', (socket: Socket) => sockets.push(socket));
    expect((await gateway.send(PAYMENT)).kind).to.equal('unknown');
    expect(sockets).to.have.length(2);
  });

  it('keeps its connection when it has let go of the exchange before', async () => {
    let connections = 0;
    const port = await serve((socket) => {
      connections += 1;
      socket.on('data', () => socket.write('HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}'));
    });
    const gateway = gatewayAt(port);
    for (let payments = 0; payments < 3; payments += 1) {
      expect((await gateway.send(PAYMENT)).kind).to.equal('paid');
      // Two turns: the exchange is let go of in the first, and its stream closes in the second.
      for (let turns = 0; turns < 2; turns += 1) await new Promise(setImmediate);
    }
    expect(connections).to.equal(1);
  });

  it('takes no harm from a connection that is reset after the answer', async () => {
    const closed = Promise.withResolvers<void>();
    const port = await serve((socket) => {
      socket.once('close', closed.resolve);
      socket.once('data', () =>
        socket.write('HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}', () =>
          socket.resetAndDestroy(),
        ),
      );
    });
    // Whether the answer or the reset is read first is up to the network; mocha fails on an error that nobody catches.
    expect((await gatewayAt(port).send(PAYMENT)).kind).to.be.oneOf(['paid', 'unknown']);
    await closed.promise;
    await new Promise(setImmediate);
  });

  it('sends to the path of an IPv6 address, and reads an answer that comes in pieces', async function () {
    // Where IPv6 is turned off there is nothing to send to.
    if (
      !Object.values(networkInterfaces())
        .flat()
        .some((it) => it?.address === '::1')
    )
      this.skip();
    let request = '';
    const answer = Buffer.from('HTTP/1.1 400 Bad Request\r\nContent-Length: 7\r\n\r\nbad é!');
    const port = await serve((socket) => {
      socket.setNoDelay(true).on('data', (data) => {
        request += data;
        if (!request.endsWith('}')) return;
        // In the midst of the é, and not before the first piece has been read.
        socket.write(answer.subarray(0, -2), () => setImmediate(() => socket.write(answer.subarray(-2))));
      });
    }, '::1');
    const outcome = await gatewayAt(port, { host: '[::1]', path: '/v1' }).send(PAYMENT);
    expect(outcome).to.deep.equal({ kind: 'invalid', cause: 'HTTP 400: bad é!' });
    expect(request).to.match(/^POST \/v1\/payments HTTP\/1.1\r\n/);
    expect(request.toLowerCase()).to.include(`host: [::1]:${port}\r\n`);
  });

  it('returns unknown when the connection ends in the midst of an answer', async () => {
    const port = await serve((socket) => {
      socket.once('data', () => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf'));
    });
    const outcome = await gatewayAt(port).send(PAYMENT);
    expect(outcome.kind).to.equal('unknown');
  });

  it('returns not_sent when the time ends in connecting', async () => {
    const outcome = await gatewayAt(await listenerThatDoesNotAccept()).send(PAYMENT);
    expect(outcome).to.include({ kind: 'not_sent', reason: 'unreachable' });
  });
});
