import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { type AddressInfo, createServer, type Socket } from 'node:net';
import { networkInterfaces } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { temporaryDirectory } from '../../dev/local/processes.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { eventually } from '../support/relay.ts';

const SCRIPT = fileURLToPath(new URL('../../docker/healthcheck.sh', import.meta.url));

/** Stands for the worker: an entry with the same path that connects to what its last argument names, and says so. */
const ENTRY = `
  import { connect } from 'node:net';
  const target = process.env.CONNECT_TO;
  if (target === undefined) console.log('ready');
  else connect(/^[0-9]+$/.test(target) ? { port: Number(target), host: process.env.CONNECT_HOST ?? '127.0.0.1' } : { path: target }).on('connect', () => console.log('ready'));
  setInterval(() => {}, 1_000);
`;

/** A server that accepts connections. @returns its port; at a Unix socket, its path */
async function listen(at: { path: string } | { host: string } = { host: '127.0.0.1' }): Promise<string> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => sockets.add(socket.on('error', () => undefined)));
  server.listen('path' in at ? at.path : { ...at, port: 0 });
  await once(server, 'listening');
  atTestEnd(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return 'path' in at ? at.path : String((server.address() as AddressInfo).port);
}

/** A directory with src/main.ts. */
function checkout(): string {
  const dir = temporaryDirectory('healthcheck');
  mkdirSync(join(dir, 'src'));
  writeFileSync(join(dir, 'src/main.ts'), ENTRY);
  writeFileSync(join(dir, 'package.json'), '{ "type": "module" }');
  return dir;
}

interface Started {
  /** The command, `node src/main.ts` when it is not given. DIR stands for the checkout. */
  command?: readonly [string, ...string[]];
  /** The port or the path that it connects to; without one it connects to nothing. */
  connectTo?: string;
  connectHost?: string;
}

async function start({ command = ['node', 'src/main.ts'], connectTo, connectHost }: Started): Promise<ChildProcess> {
  const dir = checkout();
  const [file, ...args] = command.map((part) => part.replace('DIR', dir)) as [string, ...string[]];
  const child = spawn(file, args, {
    cwd: dir,
    env: {
      PATH: process.env['PATH'],
      ...(connectTo && { CONNECT_TO: connectTo }),
      ...(connectHost && { CONNECT_HOST: connectHost }),
    },
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  const closed = once(child, 'close');
  atTestEnd(async () => {
    child.kill('SIGKILL');
    await closed;
  });
  const ended = closed.then(() => Promise.reject(new Error(`${command.join(' ')} ended`)));
  await Promise.race([once(child.stdout!, 'data'), ended]);
  ended.catch(() => undefined);
  return child;
}

interface Verdict {
  healthy: boolean;
  says: string;
}

/** What the script says in a container where these processes run, with these settings. */
function check(children: readonly ChildProcess[], env: NodeJS.ProcessEnv): Promise<Verdict> {
  const dir = temporaryDirectory('proc');
  for (const { pid } of children) symlinkSync(`/proc/${pid}`, join(dir, String(pid)));
  const options = { env: { PATH: process.env['PATH'], PROC_DIRECTORY: dir, ...env } };
  return new Promise((resolve) =>
    execFile('bash', [SCRIPT, 'worker'], options, (error, stdout, stderr) =>
      resolve({ healthy: error === null, says: stdout.trim() + stderr }),
    ),
  );
}

const HEALTHY = { healthy: true, says: '' };
const NO_WORKER = { healthy: false, says: 'no worker is running' };
const NO_CONNECTION = { healthy: false, says: 'the worker has no connection to its Redis' };

describe('healthcheck.sh worker', () => {
  before(function () {
    // The script reads /proc, which the images have and macOS has not.
    if (process.platform !== 'linux') this.skip();
  });

  it('finds a worker, whatever the flags and the path of its command', async () => {
    const port = await listen();
    for (const command of [
      ['node', 'src/main.ts'],
      ['node', '--no-allocation-site-pretenuring', 'src/main.ts'],
      ['node', '--max-old-space-size=60', '--import', 'node:os', 'src/main.ts'],
      ['node', 'DIR/src/main.ts', 'an argument'],
      [process.execPath, './src/main.ts'],
    ] as const) {
      const worker = await start({ command, connectTo: port });
      expect(await check([worker], { REDIS_PORT: port }), command.join(' ')).to.deep.equal(HEALTHY);
    }
  });

  it('takes neither another program nor one that only mentions the entry for a worker', async () => {
    const port = await listen();
    expect(await check([], { REDIS_PORT: port })).to.deep.equal(NO_WORKER);
    const init = await start({
      command: ['bash', '-c', 'exec -a /sbin/docker-init node src/main.ts'],
      connectTo: port,
    });
    const other = await start({
      command: ['node', '--eval', 'console.log("src/main.ts"); setInterval(() => {}, 1e3)'],
    });
    expect(await check([init, other], { REDIS_PORT: port })).to.deep.equal(NO_WORKER);
  });

  it('finds the worker beside the process of node --watch, which has no connection', async () => {
    const port = await listen();
    const watcher = await start({});
    const worker = await start({ connectTo: port });
    expect(await check([watcher, worker], { REDIS_PORT: port })).to.deep.equal(HEALTHY);
    expect(await check([worker, watcher], { REDIS_PORT: port })).to.deep.equal(HEALTHY);
  });

  it('finds the port of Redis in every form of the settings', async () => {
    const port = await listen();
    const worker = await start({ connectTo: port });
    for (const settings of [
      { REDIS_PORT: port },
      { REDIS_PORT: `0${port}` },
      { REDIS_URL: `redis://localhost:${port}` },
      { REDIS_URL: `redis://localhost:${port}/3` },
      { REDIS_URL: `rediss://localhost:${port}?family=4` },
      { REDIS_URL: `redis://:pass:word@localhost:${port}/0` },
      { REDIS_URL: `redis://user:p@ss:6380@localhost:${port}` },
      { REDIS_URL: `redis://[::1]:${port}/0` },
      { REDIS_URL: `redis://localhost:${port}`, REDIS_PORT: 'tcp://10.0.0.1:6379', REDIS_HOST: '/run/redis.sock' },
      { REDIS_URL: '', REDIS_PORT: port },
      { REDIS_CLUSTER_NODES: `node-a:1,node-b:${port}` },
      { REDIS_CLUSTER_NODES: ` [::1]:1, [::1]:${port} `, REDIS_URL: 'redis://:password@elsewhere:2' },
    ]) {
      expect(await check([worker], settings), JSON.stringify(settings)).to.deep.equal(HEALTHY);
    }
  });

  it('takes 6379 where the settings name no port', async () => {
    const port = await listen();
    const worker = await start({ connectTo: port });
    // The server listens elsewhere, so that no server of this machine can make the worker healthy.
    for (const settings of [{}, { REDIS_URL: 'redis://[::1]' }, { REDIS_URL: 'redis://user:1234@localhost/5' }]) {
      expect(await check([worker], settings), JSON.stringify(settings)).to.deep.equal(NO_CONNECTION);
    }
  });

  it('counts a connection over IPv6', async function () {
    const addresses = Object.values(networkInterfaces()).flat();
    if (!addresses.some((it) => it?.address === '::1')) this.skip();
    const port = await listen({ host: '::1' });
    const worker = await start({ connectTo: port, connectHost: '::1' });
    expect(await check([worker], { REDIS_URL: `redis://[::1]:${port}` })).to.deep.equal(HEALTHY);
  });

  it('counts a connection to a Unix socket', async () => {
    const path = await listen({ path: join(temporaryDirectory('socket'), 'redis.sock') });
    expect(await check([await start({ connectTo: path })], { REDIS_HOST: path })).to.deep.equal(HEALTHY);
    expect(await check([await start({})], { REDIS_HOST: path })).to.deep.equal(NO_CONNECTION);
  });

  it('does not count a connection of another process, nor one to another port', async () => {
    const [redis, postgres] = [await listen(), await listen()];
    await start({ connectTo: redis });
    const worker = await start({ connectTo: postgres });
    expect(await check([worker], { REDIS_PORT: redis })).to.deep.equal(NO_CONNECTION);
  });

  it('sees that a worker is stopped', async () => {
    const port = await listen();
    const worker = await start({ connectTo: port });
    worker.kill('SIGSTOP');
    // The kernel stops each of its threads, in its own time.
    await eventually(() => / T /.test(readFileSync(`/proc/${worker.pid}/stat`, 'utf8')));
    expect(await check([worker], { REDIS_PORT: port })).to.deep.equal({
      healthy: false,
      says: 'the worker is in state T',
    });
    worker.kill('SIGCONT');
  });
});
