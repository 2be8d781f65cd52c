import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { connect, createServer, type Socket } from 'node:net';
import { expect } from 'chai';
import { HttpGateway } from '../../src/gateways/http-gateway.ts';
import { after } from '../support/cleanup.ts';

const PAYMENT = { correlationId: '4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3', amountCents: 1990 };

function gatewayAt(port: number): HttpGateway {
  const config = { url: `http://127.0.0.1:${port}`, poolSize: 2, poolTimeoutMs: 1_000, receiveTimeoutMs: 150 };
  const gateway = new HttpGateway('default', config);
  after(() => gateway.close());
  return gateway;
}

/** A listener that was stopped, with its backlog full: connecting to it neither succeeds nor fails. */
async function listenerThatDoesNotAccept(): Promise<number> {
  const script =
    "require('net').createServer().listen({ port: 0, host: '127.0.0.1', backlog: 1 }, function () { console.log(this.address().port) })";
  const child = spawn(process.execPath, ['-e', script]);
  after(() => child.kill('SIGKILL'));
  const [line] = await once(child.stdout, 'data');
  const port = Number(line);
  child.kill('SIGSTOP');
  for (let tries = 0; tries < 20; tries += 1) {
    const socket = connect(port, '127.0.0.1').on('error', () => {});
    after(() => socket.destroy());
    // On this machine a connection is there in far less; the one that is not has met the full backlog.
    const isConnected = await Promise.race([
      once(socket, 'connect').then(() => true),
      new Promise((resolve) => setTimeout(resolve, 200, false)),
    ]);
    if (!isConnected) return port;
  }
  throw new Error('the backlog takes any number of connections');
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
    after(async () => {
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

  it('returns not_sent when the time ends in connecting', async () => {
    const outcome = await gatewayAt(await listenerThatDoesNotAccept()).send(PAYMENT);
    expect(outcome).to.include({ kind: 'not_sent', reason: 'unreachable' });
  });
});
