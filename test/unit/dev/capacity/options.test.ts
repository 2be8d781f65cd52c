import { expect } from 'chai';
import { OptionError, readOptions } from '../../../../dev/capacity/options.ts';

const read = (...args: string[]) => readOptions(args, {});

describe('the options of npm run capacity', () => {
  it('read lists, and each number once', () => {
    expect(read('--api-nodes', '1, 3,3', '--workers', '2', '--shards', '1,2,4')).to.deep.include({
      apiNodes: [1, 3],
      workers: [2],
      shards: [1, 2, 4],
    });
  });

  it('queue enough payments for all workers by default', () => {
    const { payments } = read('--workers', '64', '--concurrency', '800', '--seconds', '1')!;
    expect(payments).to.be.at.least(4 * 64 * 800);
  });

  it('are refused with a sentence that names the option and the value', () => {
    for (const [args, sentence] of [
      [['--seconds', '0'], '--seconds must be an integer from 1 to 600 (got "0")'],
      [['--workers', '1,many'], 'each number of --workers must be an integer from 1 to 64 (got "many")'],
      [['--concurrency', '801'], '--concurrency must be an integer from 1 to 800 (got "801")'],
      [['--payments', '4095'], '--payments must be at least 4096, four times what the workers have in flight'],
    ] as const) {
      expect(() => read('--workers', '4', ...args)).to.throw(OptionError, sentence);
    }
  });

  it('take the price of a core from the environment', () => {
    expect(readOptions([], { CAPACITY_CORE_HOUR_USD: '.1' })!.coreHourUsd).to.equal(0.1);
    expect(readOptions([], { CAPACITY_CORE_HOUR_USD: '' })!.coreHourUsd).to.equal(0.04);
    expect(() => readOptions([], { CAPACITY_CORE_HOUR_USD: '4 cents' })).to.throw(OptionError, '"4 cents"');
  });

  it('ask for nothing but help', () => {
    expect(read('--help')).to.equal(undefined);
  });
});
