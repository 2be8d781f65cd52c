import { execFile } from 'node:child_process';
import { globSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { expect } from 'chai';

const PROJECT = fileURLToPath(new URL('../../..', import.meta.url));

interface Effects {
  readonly files: number;
  readonly resources: string[];
  readonly listeners: string[];
}

/** Resources and listeners that these files leave in a process that imports them. */
async function effectsOf(pattern: string): Promise<Effects> {
  const files = globSync(pattern, { cwd: PROJECT }).map((file) => PROJECT + file);
  const program = `
    import { createHook } from 'node:async_hooks';
    // Opened first, so that a library that opens them later does not count.
    process.stdin; process.stdout; process.stderr;
    const listeners = () => new Map(process.eventNames().map((name) => [name, process.listenerCount(name)]));
    const before = listeners();
    const resources = [];
    const watched = ['Timeout', 'TCPSERVERWRAP', 'PIPESERVERWRAP', 'TCPWRAP', 'PROCESSWRAP', 'WORKER'];
    // Unlike the list of active resources, it shows unreferenced ones, too.
    createHook({ init: (_, type) => watched.includes(type) && resources.push(type) }).enable();
    for (const file of ${JSON.stringify(files)}) await import(file);
    const added = [...listeners()].filter(([name, count]) => count > (before.get(name) ?? 0));
    process.stdout.write(JSON.stringify({
      resources,
      // Node's own module node:repl adds these listeners.
      listeners: added.map(([name]) => name).filter((name) => !['newListener', 'removeListener'].includes(name)),
    }));`;
  const args = ['--input-type=module', '--eval', program];
  // The process ends by itself and writes nothing else.
  const { stdout, stderr } = await promisify(execFile)(process.execPath, args, { cwd: PROJECT, timeout: 9_000 });
  expect(stderr).to.equal('');
  return { files: files.length, ...JSON.parse(stdout) } as Effects;
}

describe('importing', () => {
  it('any file of dev/ has no effect', async () => {
    const { files, ...effects } = await effectsOf('dev/**/*.ts');
    expect(files).to.be.above(15);
    expect(effects).to.deep.equal({ resources: [], listeners: [] });
  });

  it('any tool of test/bench/ and test/chaos/ has no effect', async () => {
    // clock-shift and break-the-rule are there to change the process. naive has an image without src, and rinha its own room.
    const { files, ...effects } = await effectsOf('test/{bench,chaos}/!(clock-shift|break-the-rule|naive|rinha).ts');
    expect(files).to.be.above(20);
    expect(effects).to.deep.equal({ resources: [], listeners: [] });
  });

  it('any command has no effect', async () => {
    const { files, ...effects } = await effectsOf('src/commands/*.ts');
    expect(files).to.be.above(3);
    expect(effects).to.deep.equal({ resources: [], listeners: [] });
  });
});
