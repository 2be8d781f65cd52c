import { type ChildProcess, spawn } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { chmodSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { freePort } from '../../dev/local/ports.ts';
import { sendCommand } from '../../dev/run-control.ts';
import type { RunState } from '../../src/commands/run-state.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { http } from '../support/http-client.ts';
import { aPayment, eventually, postPayment, type TestEnv } from '../support/relay.ts';
import { freshDatabase } from '../support/services.ts';

const PATIENCE_MS = 30_000;

const path = (file: string) => fileURLToPath(new URL(`../../${file}`, import.meta.url));

/** A directory for `.run` and `.env`, in the place of the project's. */
function freshDirectory(): string {
  const dir = mkdtempSync(join(tmpdir(), 'payrelay-run-'));
  // PostgreSQL runs as another user when the tests run as root.
  chmodSync(dir, 0o755);
  atTestEnd(() => rmSync(dir, { recursive: true, force: true }));
  return dir;
}

const PORTS = ['PORT', 'WORKER_PORT', 'GATEWAY_PRIMARY_PORT', 'GATEWAY_FALLBACK_PORT'] as const;

async function ownPorts(): Promise<Record<(typeof PORTS)[number], string>> {
  const ports: Partial<Record<(typeof PORTS)[number], string>> = {};
  for (const name of PORTS) ports[name] = `${await freePort()}`;
  return ports as Required<typeof ports>;
}

/** Runs a program of ours to its end. */
async function runToEnd(file: string, cwd: string, { env = {}, args = [], input = '' }: ToEndOptions = {}) {
  const child = spawn(process.execPath, [path(file), ...args], { cwd, env: { PATH: process.env['PATH'], ...env } });
  atTestEnd(() => child.kill('SIGKILL'));
  child.stdin.end(input);
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
  const [out, err, code] = await Promise.all([text(child.stdout), text(child.stderr), exited]);
  return { out, err, code };
}

interface ToEndOptions {
  env?: TestEnv;
  args?: readonly string[];
  input?: string;
}

/** `make run` in a directory of its own, ended after the test. */
async function startRun(env: TestEnv = {}, cwd = freshDirectory()) {
  const ports = await ownPorts();
  const child: ChildProcess = spawn(process.execPath, [path('dev/run.ts')], {
    cwd,
    env: { PATH: process.env['PATH'], ...ports, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const written = { text: '' };
  for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (data) => (written.text += data));
  const exited = new Promise<number | null>((resolve) => child.once('exit', resolve));
  const end = () => {
    child.kill('SIGTERM');
    return exited;
  };
  atTestEnd(end);
  const stateFile = join(cwd, '.run/state.json');
  await eventually(() => existsSync(stateFile) || child.exitCode !== null, PATIENCE_MS);
  const readState = () => JSON.parse(readFileSync(stateFile, 'utf8')) as RunState;
  expect(existsSync(stateFile), written.text).to.equal(true);
  const url = `http://127.0.0.1:${ports.PORT}`;
  const breakIt = (part: string, state: string) => sendCommand(readState().control, part, state);
  const paid = async () => {
    const { body } = await http(url).get('/payments-summary?from=2020-01-01&to=2100-01-01');
    return { primary: body.default.totalRequests, fallback: body.fallback.totalRequests };
  };
  return { cwd, url, ports, written, exited, end, stateFile, readState, breakIt, paid };
}

describe('make run', function () {
  this.timeout(60_000);

  it('says in one sentence which ports are taken, before it starts anything', async () => {
    const taken = createServer();
    await new Promise<void>((resolve) => {
      taken.listen(0, '127.0.0.1', resolve);
    });
    atTestEnd(() => taken.close());
    const port = String((taken.address() as { port: number }).port);
    for (const name of PORTS) {
      const env = { ...(await ownPorts()), [name]: port };
      const { out, err, code } = await runToEnd('dev/run.ts', freshDirectory(), { env });
      expect(code).to.equal(1);
      expect(out).to.equal('');
      expect(err).to.match(new RegExp(`^Port ${port} .*${name}=\\d+ make run\\n$`));
    }
  });

  it('passes settings on, from .env and from the environment, and names those without effect', async () => {
    const cwd = freshDirectory();
    writeFileSync(join(cwd, '.env'), 'WORKER_TURN_MS=3\nALLOW_PURGE=false\nLOG_LEVEL=warn\nHTTP_PORT=8080\n');
    const { url, written, readState, end, stateFile } = await startRun({ LOG_LEVEL: 'debug', DB_PASSWORD: 'x' }, cwd);
    expect(readState().settings).to.include({ WORKER_TURN_MS: '3', ALLOW_PURGE: 'false', LOG_LEVEL: 'debug' });
    expect(written.text).to.match(/^ {2}without effect here: HTTP_PORT, DB_PASSWORD$/m);
    await http(url).post('/purge-payments').expect(404);
    await postPayment(url);
    await eventually(() => written.text.includes('"level":"debug"'), PATIENCE_MS);
    expect(await end()).to.equal(0);
    expect(existsSync(stateFile)).to.equal(false);
  });

  it('uses the servers that are set, breaks none of them, and writes no password down', async () => {
    const database = new URL(await freshDatabase());
    database.password = 'pass-word';
    const METRICS_TOKEN = 'pass-word-of-the-metrics';
    const env = { GATEWAY_PRIMARY_URL: 'http://127.0.0.1:9', DATABASE_URL: database.href, METRICS_TOKEN };
    const { readState, cwd, url, written, stateFile } = await startRun(env);
    expect(readState().settings).to.include({ GATEWAY_PRIMARY_URL: 'http://127.0.0.1:9' });
    expect(readState().settings).not.to.have.any.keys('GATEWAY_FALLBACK_URL', 'GATEWAY_EMPTY_500', 'DATABASE_URL');
    expect(readState().withheld).to.deep.equal(['DATABASE_URL']);
    expect(Object.keys(readState().pids)).to.have.members(['run', 'api', 'worker', 'redis']);
    expect((await postPayment(url)).status).to.equal(204);
    for (const part of ['primary', 'postgres']) {
      const { err, code } = await runToEnd('dev/break.ts', cwd, { args: [part, 'down'] });
      expect(err).to.match(new RegExp(`^The settings name .*${part}.*\\n$`));
      expect(code).to.equal(1);
    }
    const { err } = await runToEnd('src/commands/console.ts', cwd);
    expect(err).to.match(/^The running `make run` was given DATABASE_URL, .*\n$/);
    expect(readFileSync(stateFile, 'utf8') + written.text).not.to.include('pass-word');
  });

  it('starts a killed worker again, breaks and mends each part, and pays everything once', async () => {
    const { cwd, url, ports, readState, breakIt, paid, written } = await startRun();
    const allPaid = (count: number) =>
      eventually(async () => {
        const { primary, fallback } = await paid();
        return primary + fallback === count;
      }, PATIENCE_MS);

    const before = readState().pids['worker']!;
    process.kill(before, 'SIGKILL');
    await eventually(() => readState().pids['worker'] !== before, PATIENCE_MS);
    expect(written.text).to.include('worker was killed; it starts again in 1 s');
    await postPayment(url);
    await allPaid(1);

    for (const [index, part] of ['primary', 'postgres', 'worker'].entries()) {
      expect(await breakIt(part, 'down')).to.match(new RegExp(`^(The )?${part} `));
      expect((await postPayment(url)).status, part).to.equal(204);
      await breakIt(part, 'ok');
      // A worker that is killed with a payment leaves it locked for seconds.
      await allPaid(2 + index);
    }
    await breakIt('redis', 'down');
    expect((await postPayment(url)).status).to.equal(503);
    await breakIt('redis', 'ok');
    for (const part of ['primary', 'redis', 'postgres', 'worker']) await breakIt(part, 'slow');
    const payment = aPayment();
    await eventually(async () => (await postPayment(url, payment)).status === 204, PATIENCE_MS);
    await allPaid(5);
    for (const part of ['primary', 'redis', 'postgres', 'worker']) await breakIt(part, 'ok');

    const { out, code } = await runToEnd('dev/break.ts', cwd, { args: ['worker', 'ok'] });
    expect({ out, code }).to.deep.equal({ out: 'The worker runs.\n', code: 0 });
    const status = await runToEnd('src/commands/console.ts', cwd, {
      input: `await paymentStatus('${payment.correlationId}')\n`,
    });
    expect(status.out, status.err).to.match(/state: 'paid',\s+amount: 19.9,\s+gateway: 'primary'/);
    for (const served of [url, `http://127.0.0.1:${ports.WORKER_PORT}`]) {
      await http(served).get('/metrics').expect(200);
      expect(written.text).to.include(`${served}/metrics`);
    }
    const reconciled = await runToEnd('src/commands/reconcile.ts', cwd);
    expect(reconciled.out, reconciled.err).to.include('Nothing differs.');
    const again = await runToEnd('dev/run.ts', cwd, { env: await ownPorts() });
    expect(again.err).to.match(/^`make run` is running here already \(process \d+\)/);
  });

  it('keeps the data between two runs with KEEP_DATA=1', async () => {
    const cwd = freshDirectory();
    const first = await startRun({ KEEP_DATA: '1' }, cwd);
    await first.breakIt('worker', 'down');
    await postPayment(first.url);
    expect(await first.end()).to.equal(0);
    const second = await startRun({ KEEP_DATA: '1' }, cwd);
    await eventually(async () => (await second.paid()).primary === 1, PATIENCE_MS);
  });
});

describe('npm run break, console and reconcile', () => {
  it('say in one sentence that no make run is running, beside the file of one that was killed', async () => {
    const cwd = freshDirectory();
    mkdirSync(join(cwd, '.run'));
    writeFileSync(join(cwd, '.run/state.json'), JSON.stringify({ control: join(cwd, 'control') }));
    for (const file of ['dev/break.ts', 'src/commands/console.ts', 'src/commands/reconcile.ts']) {
      const args = file === 'dev/break.ts' ? ['redis', 'down'] : [];
      const { out, err, code } = await runToEnd(file, cwd, { args });
      expect(out).to.equal('');
      expect(err).to.match(/^No `make run` is running here.*\n$/);
      expect(code).to.equal(file === 'src/commands/reconcile.ts' ? 2 : 1);
    }
  });

  it('say how break is used', async () => {
    for (const args of [[], ['primary'], ['nginx', 'down'], ['primary', 'away'], ['primary', 'ok', randomUUID()]]) {
      const { err, code } = await runToEnd('dev/break.ts', freshDirectory(), { args });
      expect(err).to.equal('usage: npm run break -- primary|fallback|redis|postgres|worker down|slow|ok\n');
      expect(code).to.equal(2);
    }
  });
});
