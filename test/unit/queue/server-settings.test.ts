import { expect } from 'chai';
import { judgeSettings } from '../../../src/queue/server-settings.ts';

describe('judgeSettings', () => {
  const good = { maxmemoryPolicy: 'noeviction', appendonly: true, appendfsync: 'always', replicas: 0 };
  type Durability = Parameters<typeof judgeSettings>[1]['durability'];
  const judge = (settings: Parameters<typeof judgeSettings>[0], durability: Durability, canFailOver = false) =>
    judgeSettings(settings, { durability, canFailOver });
  const codes = (...args: Parameters<typeof judge>) => judge(...args).map(({ code }) => code);

  it('accepts the settings that we ship', () => {
    expect(judge(good, 'disk')).to.deep.equal([]);
    expect(judge(good, undefined)).to.deep.equal([]);
  });

  it('accepts a server without a disk under DURABILITY=memory', () => {
    expect(judge({ ...good, appendonly: false, appendfsync: 'no' }, 'memory')).to.deep.equal([]);
  });

  it('finds a server that writes to its disk later or never', () => {
    expect(codes({ ...good, appendfsync: 'everysec' }, 'disk')).to.deep.equal(['not_durable']);
    expect(codes({ ...good, appendonly: false }, undefined)).to.deep.equal(['not_durable']);
  });

  it('calls a setting unreadable, and never wrong, without the right to read it', () => {
    const nothing = { maxmemoryPolicy: undefined, appendonly: undefined, appendfsync: undefined, replicas: undefined };
    expect(codes(nothing, 'disk')).to.deep.equal(['unreadable']);
    expect(codes({ ...good, appendfsync: undefined }, 'disk')).to.deep.equal(['unreadable']);
  });

  it('demands of replica what disk demands, and names every node', () => {
    const [fault] = judge({ ...good, appendfsync: 'everysec', replicas: 2 }, 'replica');
    expect(fault!.code).to.equal('not_durable');
    expect(fault!.detail).to.include('DURABILITY is replica').and.to.include('on every node');
    expect(codes({ ...good, replicas: 2 }, 'replica', true)).to.deep.equal([]);
  });

  it('finds that fewer than two replicas follow', () => {
    expect(codes({ ...good, replicas: 1 }, 'replica')).to.deep.equal(['few_replicas']);
    expect(codes({ ...good, replicas: 0 }, 'replica')).to.deep.equal(['few_replicas']);
  });

  it('calls INFO a missing right under replica, because only INFO says which server this is', () => {
    expect(codes({ ...good, maxmemoryPolicy: undefined, replicas: undefined }, 'replica')).to.include('missing_right');
  });

  it('finds a server that another one may replace without what it has accepted', () => {
    for (const durability of ['disk', 'memory', undefined] as const) {
      expect(codes(good, durability, true)).to.deep.equal(['failover_loses']);
    }
  });
});
