import { execFile } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import { startProcess, temporaryDirectory } from '../../dev/local/processes.ts';
import { atTestEnd } from '../support/cleanup.ts';

/** Debian keeps it where a plain user's PATH does not lead. */
const ENV = { ...process.env, PATH: `${process.env['PATH']}:/usr/sbin` };

const CONFIGURATION = readFileSync(new URL('../../docker/nginx.conf', import.meta.url), 'utf8');

/** The configuration as shipped, but for its port, its nodes, and the paths that only root may write. */
async function configured(nodePorts: readonly number[]): Promise<{ args: string[]; url: string }> {
  const port = await freePort();
  const dir = temporaryDirectory('nginx');
  const nodes = join(dir, 'nodes.conf');
  writeFileSync(nodes, nodePorts.map((node) => `server 127.0.0.1:${node} max_fails=1 fail_timeout=1s;\n`).join(''));
  const temporaryPaths = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi']
    .map((name) => `${name}_temp_path ${join(dir, name)};`)
    .join(' ');
  let text = CONFIGURATION;
  for (const [shipped, ours] of [
    ['/etc/nginx/nodes.conf', nodes],
    ['listen 9999', `listen 127.0.0.1:${port}`],
    // With this level it says when it is ready.
    ['error_log stderr warn', 'error_log stderr notice'],
    ['http {', `http { ${temporaryPaths}`],
  ] as const) {
    expect(text.split(shipped), `the configuration has "${shipped}" once`).to.have.length(2);
    text = text.replace(shipped, ours);
  }
  const path = join(dir, 'nginx.conf');
  writeFileSync(path, text);
  return {
    args: ['-p', dir, '-e', 'stderr', '-c', path, '-g', `daemon off; pid ${join(dir, 'pid')};`],
    url: `http://127.0.0.1:${port}`,
  };
}

async function startNginx(nodePorts: readonly number[]): Promise<string> {
  const { args, url } = await configured(nodePorts);
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
  return url;
}

/** An API node that responds with this to everything. @returns its port and the number of its requests */
async function startNode(status: number, body: string): Promise<{ port: number; requests: () => number }> {
  const port = await freePort();
  let requests = 0;
  const server = createServer((request, response) => {
    requests += 1;
    request.resume().on('end', () => response.writeHead(status, { 'content-type': 'application/json' }).end(body));
  });
  await new Promise<void>((resolve) => server.listen(port, '127.0.0.1', resolve));
  atTestEnd(async () => {
    server.closeAllConnections();
    await new Promise((resolve) => server.close(resolve));
  });
  return { port, requests: () => requests };
}

const post = (url: string, body = '{}') => fetch(`${url}/payments`, { method: 'POST', body });

describe('nginx with docker/nginx.conf', () => {
  it('finds no fault in it', async () => {
    const { args } = await configured([await freePort()]);
    const { stderr } = await promisify(execFile)('nginx', ['-t', ...args], { env: ENV });
    expect(stderr)
      .to.match(/test is successful/)
      .and.not.match(/\[(warn|error|emerg)\]/);
  });

  it("passes a node's own 503 on unchanged, and asks no other node", async () => {
    const nodes = [await startNode(503, '{"error":"queue_full"}'), await startNode(503, '{"error":"queue_full"}')];
    const response = await post(await startNginx(nodes.map(({ port }) => port)));
    expect([response.status, await response.text()]).to.deep.equal([503, '{"error":"queue_full"}']);
    expect(nodes.reduce((sum, { requests }) => sum + requests(), 0)).to.equal(1);
  });

  it('asks the other node when one is down', async () => {
    const node = await startNode(204, '');
    const url = await startNginx([await freePort(), node.port]);
    for (let count = 0; count < 4; count += 1) expect((await post(url)).status).to.equal(204);
    expect(node.requests()).to.equal(4);
  });

  it('responds 503 in JSON, with a time to come back, when all nodes are down', async () => {
    const response = await post(await startNginx([await freePort(), await freePort()]));
    expect(response.status).to.equal(503);
    expect(response.headers.get('content-type')).to.equal('application/json');
    expect(response.headers.get('retry-after')).to.equal('1');
    expect(await response.json()).to.deep.equal({ error: 'unavailable' });
  });

  it('passes the largest body that a node takes, and responds 413 in JSON to one far above it', async () => {
    const node = await startNode(204, '');
    const url = await startNginx([node.port]);
    expect((await post(url, 'x'.repeat(64 * 1024 + 1))).status).to.equal(204);
    const response = await post(url, 'x'.repeat(70 * 1024));
    expect(response.status).to.equal(413);
    expect(response.headers.get('content-type')).to.equal('application/json');
    expect(await response.json()).to.deep.equal({ error: 'payload_too_large' });
    expect(node.requests()).to.equal(1);
  });
});
