import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { setImmediate } from 'node:timers/promises';
import { expect } from 'chai';
import { MAX_UNDER_WAY } from '../../src/http/connections.ts';
import { startServer } from '../../src/http/server.ts';
import { startApiProcess } from '../support/api-process.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { http } from '../support/http-client.ts';
import { connectedApi, lookInto } from '../support/queue.ts';
import { aPayment, eventually } from '../support/relay.ts';
import { freshDatabase } from '../support/services.ts';

/** A connection to a local port; `received` is all that came back. */
async function connection(port: number) {
  const socket = connect(port, '127.0.0.1');
  atTestEnd(() => socket.destroy());
  socket.on('error', () => {});
  const client = { socket, received: '' };
  socket.on('data', (data) => {
    client.received += data;
  });
  await once(socket, 'connect');
  return client;
}

/** A server whose requests end when the test says so. */
async function heldServer() {
  const held: (() => void)[] = [];
  const paths: string[] = [];
  const server = await startServer(
    (request, response) => {
      paths.push(request.url!);
      request.on('error', () => {});
      request.resume().once('end', () => held.push(() => response.end()));
    },
    { host: '127.0.0.1', port: 0, keepAliveTimeoutMs: 65_000 },
  );
  atTestEnd(() => server.drain(performance.now()));
  return { port: server.port!, held, paths };
}

const post = (path: string | number, body = '{}') =>
  `POST /${path} HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\n\r\n${body}`;

const statuses = (received: string) => [...received.matchAll(/HTTP\/1\.1 (\d+)/g)].map(([, status]) => Number(status));

describe('a burst of connections', () => {
  it('is taken at once, without a second of waiting for those that do not fit', async () => {
    const { port } = await heldServer();
    const startedAt = performance.now();
    await Promise.all(Array.from({ length: 900 }, () => connection(port)));
    expect(performance.now() - startedAt).to.be.below(1_000);
  });
});

describe('pipelined requests', () => {
  it('are under way 32 at a time, and answered all, in their order', async () => {
    const { port, held, paths } = await heldServer();
    const client = await connection(port);
    client.socket.write(Array.from({ length: 3_000 }, (_, number) => post(number)).join(''));
    await eventually(() => held.length === MAX_UNDER_WAY);
    for (let ended = 0; ended < 3_000; ended += 1) {
      expect(paths.length).to.be.at.most(ended + MAX_UNDER_WAY);
      await eventually(() => held.length > 0);
      held.shift()!();
      await setImmediate();
    }
    await eventually(() => statuses(client.received).length === 3_000);
    expect(paths).to.deep.equal(Array.from({ length: 3_000 }, (_, number) => `/${number}`));
  });

  it('are not read while 32 of their connection are under way', async () => {
    const { port, held } = await heldServer();
    const client = await connection(port);
    // Far beyond what the kernel's buffers hold.
    const isTaken = client.socket.write(post(1).repeat(1_000_000));
    expect(isTaken).to.equal(false);
    await eventually(() => held.length === MAX_UNDER_WAY);
    const unsent = await settled(() => client.socket.writableLength);
    expect(unsent).to.be.above(20_000_000);
  });

  it('leave other connections alone', async () => {
    const { port, held } = await heldServer();
    const client = await connection(port);
    client.socket.write(post(1).repeat(100));
    await eventually(() => held.length === MAX_UNDER_WAY);
    const other = await connection(port);
    other.socket.write(post('other'));
    await eventually(() => held.length === MAX_UNDER_WAY + 1);
    held.pop()!();
    await eventually(() => statuses(other.received).length === 1);
  });

  it('keep an API node below 200 MB, 20 connections of 20,000 summaries each', async function () {
    this.timeout(60_000);
    const api = await startApiProcess({ DATABASE_URL: await freshDatabase() });
    const port = Number(new URL(api.url).port);
    const path = '/payments-summary?from=2025-01-01&to=2026-01-01';
    const clients = await Promise.all(Array.from({ length: 20 }, () => connection(port)));
    let bytes = 0;
    for (const { socket } of clients) {
      socket.removeAllListeners('data');
      socket.on('data', (data) => {
        bytes += data.length;
      });
      socket.write(`GET ${path} HTTP/1.1\r\nHost: x\r\n\r\n`.repeat(20_000));
    }
    // Some 50,000 responses: long enough for the memory to reach its height.
    await eventually(() => bytes > 15_000_000, 50_000);
    const peakKb = Number(/VmHWM:\s+(\d+)/.exec(readFileSync(`/proc/${api.pid}/status`, 'utf8'))![1]);
    expect(peakKb / 1000, 'MB').to.be.below(200);
  });
});

describe('what is not HTTP', () => {
  for (const [name, bytes, status, error] of [
    ['answers bytes that are no request with 400 and our JSON', 'GARBAGE\r\n\r\n', 400, 'malformed_request'],
    [
      'answers a wrong chunk with 400 and our JSON',
      'POST /payments HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n',
      400,
      'malformed_request',
    ],
    [
      'answers two lengths with 400 and our JSON',
      'POST /payments HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}',
      400,
      'malformed_request',
    ],
    [
      'answers a request without a Host with 400 and our JSON',
      'GET /health/live HTTP/1.1\r\n\r\n',
      400,
      'malformed_request',
    ],
    [
      'answers an expectation that it does not know with 417 and our JSON',
      'POST /payments HTTP/1.1\r\nHost: x\r\nExpect: a miracle\r\nContent-Length: 2\r\n\r\n{}',
      417,
      'expectation_failed',
    ],
    ['answers CONNECT with 405 and our JSON', 'CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n', 405, 'method_not_allowed'],
    [
      'answers headers above 16 KiB with 431 and our JSON',
      `GET /health/live HTTP/1.1\r\nHost: x\r\nX: ${'x'.repeat(20_000)}\r\n\r\n`,
      431,
      'headers_too_large',
    ],
    [
      'answers extensions of a chunk above 16 KiB with 413 and our JSON',
      `POST /payments HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2;${'x'.repeat(20_000)}\r\n{}\r\n0\r\n\r\n`,
      413,
      'payload_too_large',
    ],
  ] as const) {
    it(name, async () => {
      const { url } = await connectedApi();
      const client = await exchangeRaw(Number(new URL(url).port), bytes);
      expect(statuses(client.received)).to.deep.equal([status]);
      expect(JSON.parse(client.received.split('\r\n\r\n')[1]!)).to.deep.equal({ error });
      expect(client.received)
        .to.match(/content-type: application\/json/i)
        .and.to.match(/connection: close/i);
    });
  }

  it('comes after the response to the complete request before it', async () => {
    const { url, prefix } = await connectedApi();
    const queue = await lookInto(prefix);
    const { correlationId } = aPayment();
    const body = JSON.stringify({ correlationId, amount: 1 });
    const { received } = await exchangeRaw(Number(new URL(url).port), `${post('payments', body)}GARBAGE\r\n\r\n`);
    expect(statuses(received)).to.deep.equal([204, 400]);
    expect(await queue.isStored(correlationId)).to.equal(true);
  });

  it('waits for all 100 complete requests before it', async () => {
    const { port, held } = await heldServer();
    const client = await connection(port);
    client.socket.write(`${post(1).repeat(100)}GARBAGE\r\n\r\n`);
    const isClosed = once(client.socket, 'close');
    for (let ended = 0; ended < 100; ended += 1) {
      await eventually(() => held.length > 0);
      held.shift()!();
    }
    await isClosed;
    expect(statuses(client.received)).to.deep.equal([...Array(100).fill(200), 400]);
  });
});

describe('a slow client', () => {
  it('gets 408 and our JSON within 10 s when its headers do not end', async function () {
    this.timeout(15_000);
    const { url } = await connectedApi();
    const { received, elapsedMs } = await exchangeRaw(Number(new URL(url).port), 'GET /health/live HTTP/1.1\r\n');
    expect(statuses(received)).to.deep.equal([408]);
    expect(received).to.include('{"error":"request_timeout"}');
    expect(elapsedMs).to.be.below(10_000);
  });

  it('gets 408 and our JSON within 10 s when its body does not end', async function () {
    this.timeout(15_000);
    const { url } = await connectedApi();
    const { received, elapsedMs } = await exchangeRaw(Number(new URL(url).port), post('payments').slice(0, -1));
    expect(statuses(received)).to.deep.equal([408]);
    expect(received).to.include('{"error":"request_timeout"}');
    expect(elapsedMs).to.be.below(10_000);
    await http(url).get('/health/live').expect(200);
  });
});

/** Sends the bytes and reads until the server closes the connection. */
async function exchangeRaw(port: number, bytes: string) {
  const startedAt = performance.now();
  const client = await connection(port);
  const isClosed = once(client.socket, 'close');
  client.socket.write(bytes);
  await isClosed;
  return { ...client, elapsedMs: performance.now() - startedAt };
}

/** A figure once it has stayed the same for 50 turns of the event loop. */
async function settled(read: () => number): Promise<number> {
  let last = read();
  for (let same = 0; same < 50; same += 1) {
    await eventually(() => true);
    const next = read();
    if (next !== last) same = 0;
    last = next;
  }
  return last;
}
