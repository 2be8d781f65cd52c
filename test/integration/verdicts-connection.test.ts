import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { eventually, type TestEnv } from '../support/relay.ts';
import { charged, hang, html, raw, respond, scriptedGateway } from '../support/scripted-gateway.ts';
import { type ScriptedRelay, scriptedRelay } from '../support/scripted-relay.ts';
import { groupsSideBySide } from '../support/side-by-side.ts';
import { testCertificate, trustTestCa } from '../support/test-tls.ts';

/** A TCP server with this handler for each connection. Closed after the test. */
async function serve(onConnection: (socket: Socket) => void): Promise<number> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket.on('error', () => {}).on('close', () => sockets.delete(socket)));
    onConnection(socket);
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  atTestEnd(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await once(server, 'close');
  });
  return (server.address() as AddressInfo).port;
}

/** Nothing can be sent to a primary at this address, so all payments must be paid at the fallback. */
async function expectNotSent(url: string): Promise<void> {
  const relay = await scriptedRelay({ GATEWAY_PRIMARY_URL: url, FALLBACK_ON: 'not_sent', FALLBACK_AFTER_MS: 'never' });
  const ids = await relay.postMany(6);
  await relay.work();
  await relay.recorded(ids);
  await relay.drained();
  await relay.expectTrueBooks();
  expect(relay.fallback.posts).to.have.length(6);
}

/** The payments may have reached the primary, so they must be listed as unresolved and never reach the fallback. */
async function expectUnresolved(relay: ScriptedRelay, ids: readonly string[]): Promise<void> {
  const startedAtMs = performance.now();
  await eventually(async () => {
    const listed = new Set(await relay.unresolved());
    return performance.now() > startedAtMs + 1_000 && ids.every((id) => listed.has(id));
  });
  expect(relay.fallback.posts).to.deep.equal([]);
  expect(await relay.deadLetters()).to.deep.equal([]);
}

const WILLING: TestEnv = { FALLBACK_ON: 'not_sent', FALLBACK_AFTER_MS: '0' };

describe('connections to a gateway', () => {
  groupsSideBySide(
    {
      'verdict without a connection': {
        'is not_sent when the connection is refused': async () => {
          await expectNotSent(`http://127.0.0.1:${await freePort()}`);
        },
        'is not_sent when the name is not found': async () => {
          await expectNotSent('http://gateway.invalid:8001');
        },
        'is not_sent when the certificate is self-signed': async () => {
          const { url } = await scriptedGateway({ tls: testCertificate('self-signed') });
          await expectNotSent(url);
        },
        'is not_sent when the certificate is for another name': async () => {
          trustTestCa();
          const { url } = await scriptedGateway({ tls: testCertificate('other-name') });
          await expectNotSent(url);
        },
        'is not_sent when the port speaks plain HTTP instead of TLS': async () => {
          const { port } = await scriptedGateway();
          await expectNotSent(`https://127.0.0.1:${port}`);
        },
        'is not_sent when the connection is reset in the TLS handshake': async () => {
          const port = await serve((socket) => socket.once('data', () => socket.resetAndDestroy()));
          await expectNotSent(`https://127.0.0.1:${port}`);
        },
        'is not_sent when the connection ends in the TLS handshake': async () => {
          const port = await serve((socket) => socket.once('data', () => socket.end()));
          await expectNotSent(`https://127.0.0.1:${port}`);
        },
        'is not_sent when the TLS handshake takes too long': async () => {
          await expectNotSent(`https://127.0.0.1:${await serve(() => {})}`);
        },
        'sends a payment over TLS with a trusted certificate': async () => {
          trustTestCa();
          const secure = await scriptedGateway({ tls: testCertificate('localhost') });
          const relay = await scriptedRelay({ GATEWAY_PRIMARY_URL: secure.url, ...WILLING });
          await relay.work();
          const ids = await relay.postMany(4);
          await relay.recorded(ids);
          expect([...secure.onRecord.keys()].sort()).to.deep.equal([...ids].sort());
          expect(relay.fallback.posts).to.deep.equal([]);
        },
      },

      'verdict on a connection that breaks after it was ready': {
        'is unknown when TLS breaks after the request was carried out': async () => {
          trustTestCa();
          const secure = await scriptedGateway({ tls: testCertificate('localhost') });
          /** By the local port of the connection to the gateway. */
          const clients = new Map<number | undefined, Socket>();
          const port = await serve((client) => {
            const upstream = connect(secure.port, '127.0.0.1').on('error', () => {});
            upstream.once('connect', () => clients.set(upstream.localPort, client));
            client.pipe(upstream).pipe(client, { end: false });
            client.on('close', () => upstream.destroy());
          });
          let isWell = false;
          secure.onPayment = () =>
            isWell
              ? undefined
              : // Bytes in the TLS stream that the other end never sent.
                charged(({ request: { socket } }) =>
                  clients.get(socket.remotePort)!.end(Buffer.from(`1703030040${'00'.repeat(64)}`, 'hex')),
                );
          const relay = await scriptedRelay({ GATEWAY_PRIMARY_URL: `https://127.0.0.1:${port}`, ...WILLING });
          const ids = await relay.postMany(4);
          await relay.work();
          await expectUnresolved(relay, ids);
          isWell = true;
          const rows = await relay.recorded(ids);
          expect([...rows.values()].map(({ requestedAt }) => requestedAt).sort()).to.deep.equal(
            [...secure.onRecord.values()].map(({ requestedAt }) => requestedAt).sort(),
          );
          expect(relay.fallback.posts).to.deep.equal([]);
        },
        'is unknown when the server requires a client certificate, which fails after the handshake': async () => {
          trustTestCa();
          const { url } = await scriptedGateway({
            tls: {
              ...testCertificate('localhost'),
              requestCert: true,
              rejectUnauthorized: true,
              minVersion: 'TLSv1.3',
            },
          });
          const relay = await scriptedRelay({ GATEWAY_PRIMARY_URL: url, ...WILLING });
          const ids = await relay.postMany(3);
          await relay.work();
          await expectUnresolved(relay, ids);
        },
        'is unknown when a keep-alive connection is reset under the next request': async () => {
          const relay = await scriptedRelay({ ...WILLING, PAYMENT_QUEUE_MAX_CONCURRENCY: '1' });
          await relay.work();
          await relay.recorded([await relay.post()]);
          let isWell = false;
          relay.primary.onPayment = () => (isWell ? undefined : charged(raw('', 'reset')));
          const ids = await relay.postMany(2);
          await eventually(() => relay.primary.postsOf(ids[0]!).length > 0);
          expect(relay.primary.postsOf(ids[0]!)[0]!.connection, 'the keep-alive connection').to.equal(1);
          await expectUnresolved(relay, ids);
          isWell = true;
          await relay.recorded(ids);
          await relay.expectTrueBooks();
          expect(relay.fallback.posts).to.deep.equal([]);
        },
        'stays unknown when the port is closed after the request was sent': async () => {
          const port = await freePort();
          const relay = await scriptedRelay({ GATEWAY_PRIMARY_URL: `http://127.0.0.1:${port}`, ...WILLING });
          const first = await scriptedGateway({ port });
          first.onPayment = () => charged(raw('', 'reset'));
          const ids = await relay.postMany(3);
          await relay.work();
          await eventually(() => ids.every((id) => first.postsOf(id).length > 0));
          await first.close();
          await expectUnresolved(relay, ids);
          const second = await scriptedGateway({ port, onRecord: first.onRecord });
          await relay.recorded(ids);
          expect(second.posts.length).to.be.at.least(3);
          expect(relay.fallback.posts).to.deep.equal([]);
        },
      },

      "a gateway's connections": {
        'are replaced after GATEWAY_CONNECTION_MAX_AGE_MS': async () => {
          const relay = await scriptedRelay({
            GATEWAY_CONNECTION_MAX_AGE_MS: '1000',
            PAYMENT_QUEUE_MAX_CONCURRENCY: '1',
          });
          const { primary } = relay;
          await relay.work();
          const ids: string[] = [];
          const deadline = performance.now() + 6_000;
          // With a payment every 50 ms the connection is never idle for long.
          while ((primary.posts.at(-1)?.connection ?? 0) < 3 && performance.now() < deadline) {
            ids.push(await relay.post());
            await sleep(50);
          }
          await relay.recorded(ids);
          const uses = Map.groupBy([...primary.posts, ...primary.lookUps], ({ connection }) => connection);
          expect(uses.size, 'connections').to.be.at.least(3);
          const replaced = [...uses.values()].slice(0, -1);
          const agesMs = replaced.map(
            (its) => Math.max(...its.map(({ atMs }) => atMs)) - Math.min(...its.map(({ atMs }) => atMs)),
          );
          expect(Math.max(...agesMs), 'age of the oldest').to.be.below(1_300);
          expect(Math.min(...replaced.map((its) => its.length)), 'requests of a connection').to.be.greaterThan(3);
          await relay.expectTrueBooks();
        },
        'do not open the circuit when the pool has no free place': async () => {
          const relay = await scriptedRelay({
            GATEWAY_POOL_SIZE: '1',
            GATEWAY_POOL_TIMEOUT_MS: '50',
            PAYMENT_QUEUE_MAX_CONCURRENCY: '8',
            FALLBACK_ON: 'pool_timeout',
            FALLBACK_AFTER_MS: 'never',
          });
          const { primary, fallback } = relay;
          primary.onPayment = ({ attempt }) =>
            attempt === 1 && primary.posts.length === 1
              ? (arrival, gateway) => void sleep(600).then(() => charged(respond(200))(arrival, gateway))
              : undefined;
          const ids = await relay.postMany(6);
          const { entries } = await relay.work();
          await relay.recorded(ids);
          await relay.expectTrueBooks();
          expect(primary.onRecord.size, 'at the primary').to.be.at.least(1);
          expect(fallback.onRecord.size, 'at the fallback').to.be.at.least(3);
          const opened = entries.filter((entry) => entry['state'] === 'open');
          expect(opened).to.deep.equal([]);
        },
      },

      'the log of a circuit that opens': {
        'names the gateway, its URL, the cause and the payments that wait': async () => {
          const relay = await scriptedRelay({ FALLBACK_ON: 'pool_timeout', FALLBACK_AFTER_MS: 'never' });
          relay.primary.onPayment = () => html(403, 'Attention Required!');
          const { entries } = await relay.work();
          await relay.postMany(8);
          const opened = await eventually(() => entries.find((entry) => entry['state'] === 'open'));
          expect(opened['gateway']).to.be.oneOf(['primary']);
          expect(opened['url']).to.be.a('string').and.include(relay.primary.url);
          expect(opened['waiting']).to.be.a('number');
          // The status and the start of the body, in any field.
          expect(JSON.stringify(opened)).to.include('403').and.to.include('Attention Required!');
          expect(opened).to.have.property('since');
        },
        'is repeated when the cause changes': async () => {
          const relay = await scriptedRelay({
            FALLBACK_ON: 'pool_timeout',
            FALLBACK_AFTER_MS: 'never',
            GATEWAY_RECEIVE_TIMEOUT_MS: '200',
          });
          let reply = respond(502);
          relay.primary.onPayment = () => reply;
          const { entries } = await relay.work();
          await relay.postMany(6);
          const lines = () => entries.filter((entry) => entry['state'] === 'open');
          const causes = () => new Set(lines().map((entry) => JSON.stringify([entry['code'], entry['cause']])));
          await eventually(() => causes().size === 1);
          reply = hang;
          await eventually(() => causes().size === 2, 30_000);
          // One line for each cause at once; a cause is repeated after a minute.
          expect(lines().length, 'lines of the outage').to.be.below(6);
        },
      },
    },
    { atOnce: 17 },
  );
});
