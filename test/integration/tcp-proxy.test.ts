import { once } from 'node:events';
import { type AddressInfo, connect, createServer } from 'node:net';
import { expect } from 'chai';
import { createTcpProxy } from '../../dev/tcp-proxy.ts';
import { atTestEnd } from '../support/cleanup.ts';

describe('TCP proxy', () => {
  it('keeps the order of what passes when a delay ends', async () => {
    const server = createServer((socket) => socket.pipe(socket).on('error', () => {}));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    atTestEnd(() => server.close());
    const proxy = await createTcpProxy((server.address() as AddressInfo).port);
    atTestEnd(proxy.close);
    const client = connect(proxy.port, '127.0.0.1').setEncoding('utf8');
    atTestEnd(() => client.destroy());
    let received = '';
    const exchange = async (sent: string) => {
      client.write(sent);
      while (!received.endsWith(sent)) received += (await once(client, 'data'))[0];
    };
    await exchange('a');
    await proxy.set({ kind: 'delay', ms: 200 });
    client.write('b');
    await new Promise((resolve) => setTimeout(resolve, 50));
    await proxy.set({ kind: 'none' });
    await exchange('c');
    expect(received).to.equal('abc');
  });

  it('resets clients that were half-open when the fault ends, so that it can refuse connections afterwards', async () => {
    const server = createServer((socket) => socket.on('error', () => {}));
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    atTestEnd(() => server.close());
    const proxy = await createTcpProxy((server.address() as AddressInfo).port);
    atTestEnd(proxy.close);
    const client = connect(proxy.port, '127.0.0.1');
    atTestEnd(() => client.destroy());
    const [socket] = (await once(server, 'connection')) as [NodeJS.EventEmitter];
    const serverSideClosed = once(socket, 'close');
    await proxy.set({ kind: 'half_open' });
    await serverSideClosed;
    const [error] = await Promise.all([
      new Promise<NodeJS.ErrnoException>((resolve) => client.once('error', resolve)),
      proxy.set({ kind: 'refuse' }),
    ]);
    expect(error.code).to.equal('ECONNRESET');
  });
});
