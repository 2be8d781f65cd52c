import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { text } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { expect } from 'chai';
import { atTestEnd } from '../support/cleanup.ts';

const path = (file: string) => fileURLToPath(new URL(`../../${file}`, import.meta.url));

/** The lines of the output that the README shows, with a placeholder for each number. */
function readmeLines(): string[] {
  const [, section] = readFileSync(path('README.md'), 'utf8').split('\n## Demo\n');
  const [, block] = section!.split('```');
  return block!.split('\n').map(form).filter(Boolean);
}

const form = (line: string) =>
  line
    .replace(/[\d.]+/g, '#')
    .replace(/ +/g, ' ')
    .trim();

describe('make demo', () => {
  it('prints what the README shows: the fallback paid, a worker was killed, nothing was paid twice', async function () {
    this.timeout(60_000);
    const child = spawn(process.execPath, [path('dev/demo.ts')], {
      env: { PATH: process.env['PATH'], DEMO_PACE: '0.4' },
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    atTestEnd(() => child.kill());
    const exited = new Promise((resolve) => child.once('exit', resolve));
    const out = await text(child.stdout);
    expect(await exited, out).to.equal(0);
    const printed = out.split('\n').map(form);
    expect(readmeLines().filter((line) => !printed.includes(line))).to.deep.equal([]);
    const figure = (label: string) => Number(new RegExp(`^ +${label} +(\\d+)$`, 'm').exec(out)![1]);
    expect(figure('paid at the fallback')).to.be.above(0);
    expect(figure('paid twice')).to.equal(0);
    expect(figure('paid at the primary') + figure('paid at the fallback')).to.equal(figure('accepted'));
  });
});
