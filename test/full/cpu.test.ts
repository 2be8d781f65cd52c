import { spawn } from 'node:child_process';
import { expect } from 'chai';
import { cpuMicros, treeCpuMicros, treeOf } from '../../dev/local/cpu.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { eventually } from '../support/relay.ts';

/** A shell, and a Node as its child that computes until it has used so much CPU. */
function startShell(micros: number) {
  const burn = `"${process.execPath}" --eval 'let used; do used = process.cpuUsage(); while (used.user + used.system < ${micros})'`;
  const shell = spawn('sh', ['-c', `${burn}; read line`], { stdio: ['pipe', 'ignore', 'inherit'], detached: true });
  atTestEnd(() => process.kill(-shell.pid!, 'SIGKILL'));
  return shell.pid!;
}

describe('the CPU accounting of Linux', function () {
  this.timeout(20_000);

  it('adds the children that run', async () => {
    const pid = startShell(60_000_000);
    await eventually(() => treeCpuMicros(pid) > 300_000, 10_000);
    expect(treeOf(pid).size).to.equal(2);
    expect(cpuMicros(pid)).to.be.below(100_000);
  });

  it('adds the children that have ended', async () => {
    const pid = startShell(400_000);
    // The child has begun, and has ended.
    await eventually(() => treeOf(pid).size === 2, 10_000);
    await eventually(() => treeOf(pid).size === 1, 10_000);
    expect(treeCpuMicros(pid)).to.be.above(300_000);
    expect(cpuMicros(pid)).to.be.below(100_000);
  });
});
