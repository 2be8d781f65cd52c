import { readFileSync } from 'node:fs';
import { expect } from 'chai';

const read = (file: string) => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8');

type Version = readonly [major: number, minor: number, patch: number];

/** The oldest Node that the README promises to be enough for `make run` and `make test`: they install Node 24 with it. */
function promised(): Version {
  const [, major, minor] = /You need Node (\d+)\.(\d+)/.exec(read('README.md'))!;
  return [Number(major), Number(minor), 0];
}

/** Whether a version is in a range as `engines` has it: `^20.19.0 || >=22`. No package that we install uses more of semver. */
function isIn(version: Version, range: string): boolean {
  return range.split('||').some((alternative) =>
    [...alternative.matchAll(/([<>=^~]*)\s*(\d+)(?:\.(\d+))?(?:\.(\d+))?/g)].every(([, operator, ...numbers]) => {
      const [major, minor, patch] = numbers.map((number) => Number(number ?? 0)) as [number, number, number];
      const distance = version[0] - major || version[1] - minor || version[2] - patch;
      if (operator === '<') return distance < 0;
      if (operator === '^' || operator === '') return version[0] === major && distance >= 0;
      return operator === '>=' && distance >= 0;
    }),
  );
}

describe('the first install', () => {
  it('leaves no package of our platforms out on the Node that the README promises', () => {
    const { packages } = JSON.parse(read('package-lock.json')) as {
      packages: Record<string, { optional?: boolean; engines?: { node?: string } }>;
    };
    // npm leaves an optional package out when its engines do not fit; of any other it only warns.
    const optional = Object.entries(packages).filter(([, { optional: isOptional }]) => isOptional);
    expect(optional).to.have.length.above(20);
    const unfit = optional.filter(([, { engines }]) => engines?.node && !isIn(promised(), engines.node));
    expect(unfit).to.deep.equal([]);
  });

  it('prints no warning of a Node that only installs', () => {
    expect(read('Makefile')).to.match(/^\tnpm ci --loglevel=error$/m);
  });
});
