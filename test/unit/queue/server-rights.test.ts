import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { expect } from 'chai';
import { ENQUEUE_SCRIPT } from '../../../src/queue/enqueue-script.ts';
import { commandsOf } from '../../../src/queue/server-rights.ts';

const require = createRequire(import.meta.url);

/** The commands that a script's text calls. */
function commandsIn(text: string): string[] {
  const calls = text.matchAll(/(?:rcall|redis\.p?call)\(\s*['"]([A-Z]+)['"]/g);
  return [...new Set([...calls].map(([, command]) => command!))];
}

/** BullMQ's scripts for a worker without parents, schedulers and deduplication. */
const WORKER_SCRIPTS = [
  'moveToActive-11',
  'moveToFinished-14',
  'moveToDelayed-11',
  'moveStalledJobsToWait-9',
  'extendLocks-1',
  'retryJob-11',
];

describe('commandsOf', () => {
  it('has every command that adding a payment needs', () => {
    // For jobs with parents, priorities or deduplication, which ours never have.
    const unused = ['LPOS', 'LRANGE', 'PERSIST', 'PTTL', 'SADD', 'SCARD'];
    expect([...commandsOf('api')]).to.include.members(
      commandsIn(ENQUEUE_SCRIPT).filter((command) => !unused.includes(command)),
    );
  });

  it('has every command of the heartbeat, so that a user of an earlier version may write it', () => {
    const script = readFileSync(new URL('../../../src/queue/scripts/write-heartbeat.lua', import.meta.url), 'utf8');
    expect([...commandsOf('api')]).to.include.members([...commandsIn(script), 'DEL', 'ZREM']);
  });

  it('has every command of the look-up of payments, so that a user of an earlier version may ask', () => {
    const script = readFileSync(new URL('../../../src/queue/scripts/find-payment.lua', import.meta.url), 'utf8');
    expect([...commandsOf('api')]).to.include.members(commandsIn(script));
  });

  it('has every command by which workers speak with each other', () => {
    for (const name of ['share-fleet', 'take-probe', 'tell-probe']) {
      const script = readFileSync(new URL(`../../../src/queue/scripts/${name}.lua`, import.meta.url), 'utf8');
      const commands = commandsIn(script.replaceAll('redis.pcall', 'redis.call'));
      expect(commands).to.have.length.above(2);
      expect([...commandsOf('worker')]).to.include.members(commands);
    }
  });

  it('has every command of the script that confirms runs, but INFO, which the check of the settings reads', () => {
    const script = readFileSync(new URL('../../../src/queue/scripts/confirm-runs.lua', import.meta.url), 'utf8');
    const commands = commandsIn(script);
    expect(commands).to.include('INFO');
    expect([...commandsOf('worker')]).to.include.members(commands.filter((command) => command !== 'INFO'));
  });

  it("has every command of BullMQ's scripts for a worker", () => {
    const texts = WORKER_SCRIPTS.map((name) =>
      readFileSync(require.resolve(`bullmq/dist/cjs/scripts/${name}.js`), 'utf8'),
    );
    const commands = commandsIn(texts.join('\n'));
    expect(commands).to.have.length.above(25);
    expect([...commandsOf('worker')]).to.include.members(commands);
  });
});
