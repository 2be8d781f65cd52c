import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';

const PROJECT = fileURLToPath(new URL('../../..', import.meta.url));

describe('CHAOS_BREAK_RULE', () => {
  it('breaks the rule that keeps a payment paid once, and the test of the guarantee notices', () => {
    const mocha = ['node_modules/mocha/bin/mocha.js', '--no-config', 'test/unit/processing/the-guarantee.test.ts'];
    const args = ['--import', './test/chaos/break-the-rule.ts', ...mocha];
    const { status, stdout, stderr } = spawnSync(process.execPath, args, { cwd: PROJECT, encoding: 'utf8' });
    expect(stdout + stderr).to.include('sent to fallback what may be paid at primary');
    expect(status).to.be.above(0);
  });
});
