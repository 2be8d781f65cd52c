import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer, type RequestListener, type ServerOptions } from 'node:http';
import { connect, createServer as createNetServer } from 'node:net';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import { startProcess, temporaryDirectory } from '../../dev/local/processes.ts';
import { atTestEnd } from '../support/cleanup.ts';

/** Debian keeps it where a plain user's PATH does not lead. */
const ENV = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` };

const MAIN_FILES = ['docker/nginx.conf', 'rinha/nginx.conf'] as const;

interface Balancer {
  nodes: readonly number[];
  main?: (typeof MAIN_FILES)[number];
  /** What stands in the files instead of something else, which must be there once. */
  changes?: Readonly<Record<string, string>>;
}

/** The files as shipped, but for the port, the nodes and the directories. */
async function configured({ nodes, main = 'docker/nginx.conf', changes = {} }: Balancer) {
  const port = await freePort();
  const dir = temporaryDirectory('nginx');
  const pending = new Map(Object.entries(changes));
  const put = (name: string, source: string) => {
    let text = readFileSync(new URL(`../../${source}`, import.meta.url), 'utf8')
      .replace(/(?:\/etc\/nginx|\/tmp)\//g, `${dir}/`)
      // With this level it says when it is ready.
      .replace('error_log stderr warn', 'error_log stderr notice')
      .replace('listen 9999', `listen 127.0.0.1:${port}`);
    for (const [shipped, ours] of pending) {
      if (text.split(shipped).length !== 2) continue;
      text = text.replace(shipped, ours);
      pending.delete(shipped);
    }
    writeFileSync(join(dir, name), text);
    return text;
  };
  put('upstream.conf', 'docker/nginx.upstream.conf');
  put('server.conf', 'docker/nginx.server.conf');
  let places = [...nodes];
  const path = join(dir, 'nginx.conf');
  const text = put('nginx.conf', main).replace(/^( *server )(\S+)( max_fails.*)$/gm, (line, before, _node, after) => {
    const [node] = places;
    places = places.slice(1);
    return node === undefined ? line.replace(/server.*/, '') : `${before}127.0.0.1:${node}${after}`;
  });
  expect([...pending.keys()], 'not in the files, or more than once').to.deep.equal([]);
  expect(places, 'more nodes than in the file').to.deep.equal([]);
  writeFileSync(path, text);
  return { args: ['-p', dir, '-e', 'stderr', '-c', path, '-g', 'daemon off;'], port };
}

async function startNginx(balancer: Balancer): Promise<{ port: number; url: string }> {
  const { args, port } = await configured(balancer);
  const { child, exited } = await startProcess({
    command: 'nginx',
    args,
    env: ENV,
    readyWhen: /start worker process \d/,
  });
  atTestEnd(async () => {
    child.kill('SIGTERM');
    await exited;
  });
  return { port, url: `http://127.0.0.1:${port}` };
}

interface Node {
  port: number;
  /** The number of its requests. */
  requests(): number;
}

async function startNode(handle: RequestListener, options: ServerOptions = {}): Promise<Node> {
  const port = await freePort();
  let requests = 0;
  const server = createServer(options, (request, response) => {
    requests += 1;
    handle(request, response);
  });
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  atTestEnd(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  return { port, requests: () => requests };
}

/** An API node that responds with this to everything. */
function respondingNode(status: number, body: string): Promise<Node> {
  return startNode((request, response) => {
    request.resume().on('end', () => response.writeHead(status, { 'content-type': 'application/json' }).end(body));
  });
}

/** A node that closes every connection as soon as a request comes. */
async function cuttingNode(): Promise<number> {
  const port = await freePort();
  const server = createNetServer((socket) => socket.on('error', () => undefined).once('data', () => socket.destroy()));
  server.listen(port, '127.0.0.1');
  await once(server, 'listening');
  atTestEnd(() => server.close());
  return port;
}

const post = (url: string, body = '{}') => fetch(`${url}/payments`, { method: 'POST', body });

interface RawResponse {
  /** 0 when the connection was closed without a response. */
  status: number;
  headers: ReadonlyMap<string, string>;
  body: string;
  /** From the connection to its end. */
  ms: number;
}

/** Sends bytes and reads until the server closes the connection. `drip` is sent again and again, once a second. */
function raw(port: number, bytes: string, { drip }: { drip?: string } = {}): Promise<RawResponse> {
  const start = performance.now();
  const socket = connect(port, '127.0.0.1').setEncoding('latin1');
  atTestEnd(() => socket.destroy());
  const timer = drip === undefined ? undefined : setInterval(() => socket.write(drip), 1_000);
  let text = '';
  socket.on('data', (chunk) => {
    text += chunk;
  });
  socket.write(bytes);
  return new Promise((resolve) => {
    socket.on('error', () => undefined);
    socket.on('close', () => {
      clearInterval(timer);
      const [head = '', ...rest] = text.split('\r\n\r\n');
      const [first = '', ...lines] = head.split('\r\n');
      resolve({
        status: Number(first.split(' ')[1] ?? 0),
        headers: new Map(lines.map((line) => line.toLowerCase().split(': ') as [string, string])),
        body: rest.join('\r\n\r\n'),
        ms: performance.now() - start,
      });
    });
  });
}

const HEAD = 'Host: localhost\r\nConnection: close\r\n';

/** Every request to which nginx itself responds, whatever the nodes do. */
const REJECTED: Readonly<Record<string, readonly [bytes: string, status: number, code: string]>> = {
  'a line that is no request': ['nonsense\r\n\r\n', 400, 'malformed_request'],
  'no Host': ['GET / HTTP/1.1\r\nConnection: close\r\n\r\n', 400, 'malformed_request'],
  'two Hosts': [`GET / HTTP/1.1\r\nHost: other\r\n${HEAD}\r\n`, 400, 'malformed_request'],
  'a malformed % in the path': [`GET /%zz HTTP/1.1\r\n${HEAD}\r\n`, 400, 'malformed_request'],
  'a path above the root': [`GET /../../etc/passwd HTTP/1.1\r\n${HEAD}\r\n`, 400, 'malformed_request'],
  'a Content-Length that is no number': [
    `POST /payments HTTP/1.1\r\n${HEAD}Content-Length: x\r\n\r\n`,
    400,
    'malformed_request',
  ],
  'both lengths': [
    `POST /payments HTTP/1.1\r\n${HEAD}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    400,
    'malformed_request',
  ],
  'a chunk without a size': [
    `POST /payments HTTP/1.1\r\n${HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n`,
    400,
    'malformed_request',
  ],
  'an unknown Transfer-Encoding': [
    `POST /payments HTTP/1.1\r\n${HEAD}Transfer-Encoding: gzip\r\n\r\n`,
    400,
    'malformed_request',
  ],
  'another version of HTTP': [`GET / HTTP/3.0\r\n${HEAD}\r\n`, 400, 'malformed_request'],
  'the preface of HTTP/2': ['PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n', 400, 'malformed_request'],
  TRACE: [`TRACE / HTTP/1.1\r\n${HEAD}\r\n`, 405, 'method_not_allowed'],
  'a body that is announced as too large': [
    `POST /payments HTTP/1.1\r\n${HEAD}Content-Length: 70000\r\n\r\n`,
    413,
    'payload_too_large',
  ],
  'chunks that grow too large': [
    `POST /payments HTTP/1.1\r\n${HEAD}Transfer-Encoding: chunked\r\n\r\n11170\r\n${'x'.repeat(70_000)}\r\n0\r\n\r\n`,
    413,
    'payload_too_large',
  ],
  'a long URI': [`GET /${'x'.repeat(9_000)} HTTP/1.1\r\n${HEAD}\r\n`, 414, 'uri_too_long'],
  'one long header': [`GET / HTTP/1.1\r\n${HEAD}Cookie: ${'x'.repeat(9_000)}\r\n\r\n`, 431, 'headers_too_large'],
  'many headers': [`GET / HTTP/1.1\r\n${HEAD}${'Accept: */*\r\n'.repeat(3_000)}\r\n`, 431, 'headers_too_large'],
  'the metrics': [`GET /metrics HTTP/1.1\r\n${HEAD}\r\n`, 404, 'not_found'],
  'the metrics in another spelling': [`GET /%4Detrics/?a=b HTTP/1.1\r\n${HEAD}\r\n`, 404, 'not_found'],
  "the pages of nginx's own responses": [`GET /nginx/busy HTTP/1.1\r\n${HEAD}\r\n`, 404, 'not_found'],
};

function expectOwn(response: RawResponse, status: number, code: string, what: string): void {
  const { headers, body } = response;
  const seen = [response.status, headers.get('content-type'), body];
  expect(seen, what).to.deep.equal([status, 'application/json', JSON.stringify({ error: code })]);
  expect(headers.get('retry-after'), what).to.equal(status === 503 ? '1' : undefined);
  expect(headers.has('allow'), what).to.equal(status === 405);
}

describe('nginx with docker/nginx.conf', () => {
  it('finds no fault in it, nor in the one of the Rinha stack', async () => {
    for (const main of MAIN_FILES) {
      const { args } = await configured({ nodes: [await freePort()], main });
      const { stderr } = await promisify(execFile)('nginx', ['-t', ...args], { env: ENV });
      expect(stderr, main)
        .to.match(/test is successful/)
        .and.not.match(/\[(warn|error|emerg)\]/);
    }
  });

  it("passes a node's own 503 on unchanged, and asks no other node", async () => {
    const nodes = [
      await respondingNode(503, '{"error":"queue_full"}'),
      await respondingNode(503, '{"error":"queue_full"}'),
    ];
    const { url } = await startNginx({ nodes: nodes.map(({ port }) => port) });
    const response = await post(url);
    expect([response.status, await response.text()]).to.deep.equal([503, '{"error":"queue_full"}']);
    expect(nodes.reduce((sum, { requests }) => sum + requests(), 0)).to.equal(1);
  });

  it("passes a node's responses on unchanged, whatever their status", async () => {
    for (const status of [400, 404, 405, 408, 413, 414, 431, 500, 502, 504]) {
      const body = `{"error":"of the node, ${status}"}`;
      const node = await respondingNode(status, body);
      const { url } = await startNginx({ nodes: [node.port] });
      const response = await fetch(`${url}/payments-summary`);
      expect([response.status, await response.text()]).to.deep.equal([status, body]);
    }
  });

  it('asks the other node when one is down', async () => {
    const node = await respondingNode(204, '');
    const { url } = await startNginx({ nodes: [await freePort(), node.port] });
    for (let count = 0; count < 4; count += 1) expect((await post(url)).status).to.equal(204);
    expect(node.requests()).to.equal(4);
  });

  it('asks the other node when one is down and the body comes late', async () => {
    const node = await respondingNode(204, '');
    const { port } = await startNginx({ nodes: [await freePort(), node.port] });
    for (let count = 0; count < 4; count += 1) {
      const request = raw(port, `POST /payments HTTP/1.1\r\n${HEAD}Content-Length: 2\r\n\r\n`, { drip: '{}' });
      expect((await request).status).to.equal(204);
    }
    expect(node.requests()).to.equal(4);
  });

  it('passes the largest body that a node takes', async () => {
    const node = await respondingNode(204, '');
    const { url } = await startNginx({ nodes: [node.port] });
    expect((await post(url, 'x'.repeat(64 * 1024 + 1))).status).to.equal(204);
    expect(node.requests()).to.equal(1);
  });

  for (const main of MAIN_FILES) {
    it(`responds in JSON to every request that it rejects by itself (${main})`, async () => {
      const node = await respondingNode(204, '');
      const { port } = await startNginx({ nodes: [node.port], main });
      for (const [what, [bytes, status, code]] of Object.entries(REJECTED)) {
        expectOwn(await raw(port, bytes), status, code, what);
      }
    });
  }

  it('responds 503 in JSON, with a time to come back, when no node responds', async () => {
    const request = `POST /payments HTTP/1.1\r\n${HEAD}Content-Length: 2\r\n\r\n{}`;
    const down = await startNginx({ nodes: [await freePort(), await freePort()] });
    expectOwn(await raw(down.port, request), 503, 'unavailable', 'all are down');
    const cutting = await startNginx({ nodes: [await cuttingNode(), await cuttingNode()] });
    expectOwn(await raw(cutting.port, request), 503, 'unavailable', 'all close the connection');
    const hanging = await startNode(() => undefined);
    const { port } = await startNginx({
      nodes: [hanging.port],
      changes: { 'proxy_read_timeout 3s': 'proxy_read_timeout 300ms' },
    });
    expectOwn(await raw(port, request), 503, 'unavailable', 'all hang');
    expect(hanging.requests()).to.equal(1);
    // One listens, one belongs to nginx itself, one to the client, and none is left for the node.
    const full = await startNginx({
      nodes: [hanging.port],
      changes: { 'worker_connections 16640': 'worker_connections 3' },
    });
    expectOwn(await raw(full.port, request), 503, 'unavailable', 'no connection is free');
  });

  it("passes the operator's page on at its own path, and waits longer for what operators do", async () => {
    const node = await startNode((request, response) => {
      setTimeout(() => response.end(request.url), 600);
    });
    const { url } = await startNginx({
      nodes: [node.port],
      changes: { 'proxy_read_timeout 3s': 'proxy_read_timeout 300ms' },
    });
    for (const path of ['/admin', '/admin/', '/admin/page.js', '/admin/api/dead-letters/retry', '/admin/queues/']) {
      const response = await fetch(url + path, { redirect: 'manual' });
      expect([response.status, await response.text()]).to.deep.equal([200, path]);
    }
  });

  it('responds 503 busy above its limits of requests under way, per address and in total', async () => {
    for (const [shipped, ours] of [
      ['address 2000', 'address 2'],
      ['total 8192', 'total 2'],
    ] as const) {
      const waiting: (() => void)[] = [];
      const node = await startNode((_request, response) => waiting.push(() => response.writeHead(204).end()));
      const { port } = await startNginx({ nodes: [node.port], changes: { [shipped]: ours } });
      const request = `GET /health HTTP/1.1\r\n${HEAD}\r\n`;
      const underWay = [raw(port, request), raw(port, request)];
      while (waiting.length < 2) await sleep(5);
      expectOwn(await raw(port, request), 503, 'busy', ours);
      for (const respond of waiting) respond();
      expect((await Promise.all(underWay)).map(({ status }) => status)).to.deep.equal([204, 204]);
    }
  });

  it('has no such limits in the Rinha stack', async () => {
    const limitsOf = async (main: (typeof MAIN_FILES)[number]) => {
      const { args } = await configured({ nodes: [await freePort()], main });
      const { stdout } = await promisify(execFile)('nginx', ['-T', ...args], { env: ENV });
      return [...stdout.matchAll(/^ *limit_\w+ .*;/gm)].length;
    };
    expect(await limitsOf('rinha/nginx.conf')).to.equal(0);
    expect(await limitsOf('docker/nginx.conf')).to.be.above(0);
  });

  it('closes connections whose headers or body do not come within 10 s', async function () {
    this.timeout(20_000);
    const node = await respondingNode(204, '');
    const { port } = await startNginx({ nodes: [node.port] });
    const closed = await Promise.all([
      raw(port, 'GET / HTT'),
      raw(port, `GET / HTTP/1.1\r\n${HEAD}`, { drip: 'Accept: */*\r\n' }),
      raw(port, `POST /payments HTTP/1.1\r\n${HEAD}Content-Length: 2\r\n\r\n{`),
    ]);
    for (const { ms } of closed) expect(ms).to.be.below(10_000);
  });

  it("ends a body that comes in drips with the node's 408", async function () {
    this.timeout(20_000);
    // The node as shipped has 8 s and no 408 of Node's own.
    const node = await startNode(
      (request, response) => void request.resume().on('end', () => response.writeHead(204).end()),
      {
        requestTimeout: 2_000,
        headersTimeout: 1_000,
        connectionsCheckingInterval: 100,
      },
    );
    const { port } = await startNginx({ nodes: [node.port] });
    const request = `POST /payments HTTP/1.1\r\n${HEAD}Content-Length: 60000\r\n\r\n`;
    const { status, ms } = await raw(port, request, { drip: 'x' });
    expect(status).to.equal(408);
    expect(ms).to.be.below(6_000);
  });
});
