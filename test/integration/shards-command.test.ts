import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { atTestEnd } from '../support/cleanup.ts';
import { http } from '../support/http-client.ts';
import { bullWorker } from '../support/queue.ts';
import { aPayment, testApi } from '../support/relay.ts';
import { sql } from '../support/services.ts';

const COMMAND = fileURLToPath(new URL('../../src/commands/shards.ts', import.meta.url));

/** A relay of one shard with a payment, and the command for it. */
async function aRelay() {
  const { url, prefix, config } = await testApi();
  const api = http(url);
  await api.post('/payments').send(aPayment()).expect(204);
  const env = {
    PATH: process.env['PATH'],
    REDIS_URL: config.redis.url,
    DATABASE_URL: config.database.url,
    REDIS_KEY_PREFIX: prefix.slice(1, -1),
  };
  return {
    api,
    prefix,
    rows: () => sql(config.database.url, 'SELECT action, state, target, reason FROM operator_actions'),
    start(...args: string[]): ChildProcess {
      const child = spawn(process.execPath, [COMMAND, ...args], { env });
      atTestEnd(() => void child.kill('SIGKILL'));
      return child;
    },
  };
}

/** Resolves when the command says that it waits for payments. */
async function untilWaiting(child: ChildProcess): Promise<void> {
  const lines = createInterface(child.stdout!);
  for await (const line of lines) if (line.includes('1 payments wait')) return;
}

async function endOf(child: ChildProcess): Promise<{ code: number; output: string }> {
  const [output, [code]] = await Promise.all([text(child.stdout!), once(child, 'exit')]);
  return { code: code as number, output };
}

describe('npm run shards', function () {
  this.timeout(30_000);

  it('shows the number, and what each shard has', async () => {
    const { start } = await aRelay();
    const { code, output } = await endOf(start());
    expect([code, output.split('\n')[0]]).to.deep.equal([0, 'QUEUE_SHARDS=1']);
    expect(output).to.include('1 wait, 0 in flight');
  });

  it('changes the number when the workers have drained the shards, and leaves a row in the trail', async () => {
    const { start, prefix, rows, api } = await aRelay();
    const child = start('--to', '4', '--reason', 'one core is full');
    await untilWaiting(child);
    await api.post('/payments').send(aPayment()).expect(503);
    await bullWorker(prefix, async () => {});
    const [code] = await once(child, 'exit');
    expect(code).to.equal(0);
    expect((await endOf(start())).output).to.match(/^QUEUE_SHARDS=4\n(.* 0 wait, 0 in flight\n){4}$/);
    expect(await rows()).to.deep.equal([
      { action: 'shards.change', state: 'done', target: { from: 1, to: 4 }, reason: 'one core is full' },
    ]);
    await api.post('/payments').send(aPayment()).expect(503);
  });

  it('ended by Ctrl-C opens the shards again, and exits with 1', async () => {
    const { start, rows, api } = await aRelay();
    const child = start('--to', '4', '--reason', 'one core is full');
    await untilWaiting(child);
    child.kill('SIGINT');
    const [code] = await once(child, 'exit');
    expect(code).to.equal(1);
    await api.post('/payments').send(aPayment()).expect(204);
    expect(await rows()).to.have.nested.property('[0].state', 'failed');
  });

  it('refuses a number that cannot be one, and a change without a reason', async () => {
    const { start } = await aRelay();
    for (const args of [['--to', '0', '--reason', 'x'], ['--to', '257', '--reason', 'x'], ['--to', '4'], ['--too']]) {
      expect((await endOf(start(...args))).code, args.join(' ')).to.equal(1);
    }
  });
});
