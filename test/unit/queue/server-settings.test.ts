import { expect } from 'chai';
import { judgeSettings } from '../../../src/queue/server-settings.ts';

describe('judgeSettings', () => {
  const good = { maxmemoryPolicy: 'noeviction', appendonly: true, appendfsync: 'always' };
  const codes = (...args: Parameters<typeof judgeSettings>) => judgeSettings(...args).map(({ code }) => code);

  it('accepts the settings that we ship', () => {
    expect(judgeSettings(good, 'disk')).to.deep.equal([]);
    expect(judgeSettings(good, undefined)).to.deep.equal([]);
  });

  it('accepts a server without a disk under DURABILITY=memory', () => {
    expect(judgeSettings({ ...good, appendonly: false, appendfsync: 'no' }, 'memory')).to.deep.equal([]);
  });

  it('finds a server that writes to its disk later or never', () => {
    expect(codes({ ...good, appendfsync: 'everysec' }, 'disk')).to.deep.equal(['not_durable']);
    expect(codes({ ...good, appendonly: false }, undefined)).to.deep.equal(['not_durable']);
  });

  it('calls a setting unreadable, and never wrong, without the right to read it', () => {
    const nothing = { maxmemoryPolicy: undefined, appendonly: undefined, appendfsync: undefined };
    expect(codes(nothing, 'disk')).to.deep.equal(['unreadable']);
    expect(codes({ ...good, appendfsync: undefined }, 'disk')).to.deep.equal(['unreadable']);
  });
});
