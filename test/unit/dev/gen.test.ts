import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { atTestEnd } from '../../support/cleanup.ts';

const PROJECT = fileURLToPath(new URL('../../..', import.meta.url));

/** An empty project with our libraries, removed after the test. */
function emptyProject() {
  const dir = mkdtempSync(join(tmpdir(), 'payrelay-gen-'));
  atTestEnd(() => rmSync(dir, { recursive: true }));
  symlinkSync(join(PROJECT, 'node_modules'), join(dir, 'node_modules'));
  // The files are modules, as ours are.
  writeFileSync(join(dir, 'package.json'), '{ "type": "module" }');
  const run = (script: string, args: readonly string[]) => {
    const { status, stdout, stderr } = spawnSync(process.execPath, [script, ...args], { cwd: dir, encoding: 'utf8' });
    return { status, output: stdout + stderr };
  };
  return {
    has: (file: string) => existsSync(join(dir, file)),
    read: (file: string) => readFileSync(join(dir, file), 'utf8'),
    write(folder: string, file: string, content: string) {
      mkdirSync(join(dir, folder), { recursive: true });
      writeFileSync(join(dir, folder, file), content);
    },
    gen: (...args: string[]) => run(join(PROJECT, 'dev/gen.ts'), args),
    mocha: (file: string) => run(join(PROJECT, 'node_modules/mocha/bin/mocha.js'), ['--no-config', file]),
  };
}

describe('npm run gen', () => {
  it('writes a module, and a test of it that fails until it is filled in', () => {
    const project = emptyProject();
    expect(project.gen('gateways/rate-limit').status).to.equal(0);
    expect(project.read('src/gateways/rate-limit.ts')).to.include('export function createRateLimit(): RateLimit');
    const { status, output } = project.mocha('test/unit/gateways/rate-limit.test.ts');
    expect(output).to.include('not written yet: what does createRateLimit promise');
    expect(status).to.equal(1);
  });

  it('writes no test with --no-test', () => {
    const project = emptyProject();
    expect(project.gen('clock', '--no-test').status).to.equal(0);
    expect(project.has('src/clock.ts')).to.equal(true);
    expect(project.has('test')).to.equal(false);
  });

  it('overwrites nothing', () => {
    const project = emptyProject();
    project.write('src', 'clock.ts', 'mine');
    expect(project.gen('clock').status).to.equal(1);
    expect(project.read('src/clock.ts')).to.equal('mine');
  });

  it('shows its usage for a name that is not kebab-case, and for an unknown flag', () => {
    const project = emptyProject();
    expect(project.gen('rateLimit').status).to.equal(2);
    expect(project.gen('../clock').status).to.equal(2);
    expect(project.gen('clock', '--force').status).to.equal(2);
    expect(project.has('src')).to.equal(false);
  });
});
