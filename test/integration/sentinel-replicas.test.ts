import { once } from 'node:events';
import { type AddressInfo, createServer } from 'node:net';
import { expect } from 'chai';
import { loadConfig } from '../../src/config.ts';
import { NotReplicatedError } from '../../src/queue/redis-errors.ts';
import { countPromotable } from '../../src/queue/sentinel-replicas.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { sharedRedis } from '../support/services.ts';

/** A server of our own. @param reply to the bytes of a client; undefined: none. @returns its address */
async function serverWith(reply: (sent: string) => string | undefined): Promise<string> {
  const server = createServer((socket) => {
    atTestEnd(() => socket.destroy());
    socket.on('error', () => {});
    socket.on('data', (data) => {
      const bytes = reply(data.toString());
      if (bytes !== undefined) socket.write(bytes);
    });
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  atTestEnd(() => new Promise((resolve) => server.close(resolve)));
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

const hungServer = () => serverWith(() => undefined);

/** Knows of replicas with these flags. */
function sentinel(...flags: string[]): Promise<string> {
  const bulk = (text: string) => `$${text.length}\r\n${text}\r\n`;
  const replicas = flags.map((each) => `*4\r\n${['name', 'any', 'flags', each].map(bulk).join('')}`);
  const list = `*${replicas.length}\r\n${replicas.join('')}`;
  const replyTo = (command: string) =>
    command.includes('REPLICAS')
      ? list
      : /^\*1\r\n\$4\r\ninfo\r\n/i.test(command)
        ? bulk('redis_version:7.2.0')
        : '+OK\r\n';
  // ioredis sends several commands at once.
  return serverWith((sent) =>
    sent
      .split(/(?=\*\d+\r\n)/)
      .map(replyTo)
      .join(''),
  );
}

const REFUSED = '127.0.0.1:1';

function count(...sentinels: string[]): Promise<number> {
  const env = { REDIS_SENTINELS: sentinels.join(','), REDIS_MASTER_NAME: 'payments' };
  return countPromotable(loadConfig({ ...env, DATABASE_URL: 'postgres://localhost/none' }).redis);
}

const failureOf = (...sentinels: string[]) => count(...sentinels).catch((error: unknown) => error);

describe('the replicas that may have been promoted', () => {
  it('are as many as any sentinel knows of', async () => {
    const [one, two] = await Promise.all([sentinel('slave'), sentinel('slave', 'slave')]);
    expect(await count(REFUSED, one, two)).to.equal(2);
  });

  it('are those that a sentinel has yet to connect to as well, but not those that are down', async () => {
    const flags = ['slave', 'slave,disconnected', 's_down,slave,disconnected', 's_down,o_down,slave'];
    expect(await count(await sentinel(...flags))).to.equal(2);
  });

  it('are unknown, and not none, while every sentinel hangs or is down', async () => {
    const startedAt = performance.now();
    expect(await failureOf(await hungServer(), REFUSED)).to.be.instanceOf(NotReplicatedError);
    // A client waits for it.
    expect(performance.now() - startedAt).to.be.below(1_000);
  });

  it('are unknown when the server is no sentinel, and the error says so', async () => {
    const { host } = new URL((await sharedRedis()).url);
    const failure = await failureOf(host);
    expect(failure).to.be.instanceOf(NotReplicatedError);
    expect(String(failure)).to.match(/unknown command/i);
  });
});
