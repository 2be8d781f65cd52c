import { expect } from 'chai';
import sinon from 'sinon';
import { createOutageLog } from '../../../src/process/outage-log.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import { recordingLogger } from '../../support/logger.ts';

const DOWN = { code: 'down', detail: 'ECONNREFUSED' };

function stage(endsAfterMs?: number) {
  const clock = sinon.useFakeTimers();
  atTestEnd(() => clock.restore());
  const { logger, entries } = recordingLogger();
  const log = createOutageLog(logger, {
    message: 'redis is unavailable',
    endMessage: 'redis is available again',
    ...(endsAfterMs !== undefined && { endsAfterMs }),
  });
  return { clock, entries, log };
}

describe('the log of an outage', () => {
  it('logs the first failure at once, then one line a minute with count and since', () => {
    const { clock, entries, log } = stage();
    for (let second = 0; second < 120; second += 1) {
      log.failed(DOWN, { queue: 'payments' });
      clock.tick(1_000);
    }
    expect(
      entries.map(({ level, message, count, cause, queue }) => ({ level, message, count, cause, queue })),
    ).to.deep.equal([
      { level: 'warn', message: 'redis is unavailable', count: 1, cause: 'ECONNREFUSED', queue: 'payments' },
      { level: 'warn', message: 'redis is unavailable', count: 61, cause: 'ECONNREFUSED', queue: 'payments' },
    ]);
    expect(entries[1]).to.deep.include({ since: new Date(0) });
  });

  it('logs each code by itself', () => {
    const { entries, log } = stage();
    log.failed(DOWN);
    log.failed({ code: 'oom', detail: 'OOM command not allowed' });
    log.failed(DOWN);
    expect(entries.map(({ code }) => code)).to.deep.equal(['down', 'oom']);
  });

  it('adds the fields of its end to that line', () => {
    const { entries, log } = stage();
    log.failed(DOWN, { gateway: 'primary', state: 'open' });
    log.ended({ gateway: 'primary', state: 'closed' });
    expect(entries.map(({ gateway, state }) => ({ gateway, state }))).to.deep.equal([
      { gateway: 'primary', state: 'open' },
      { gateway: 'primary', state: 'closed' },
    ]);
  });

  it('logs its end once, with the number of failures, and then starts again', () => {
    const { clock, entries, log } = stage();
    log.ended();
    log.failed(DOWN);
    log.failed(DOWN);
    clock.tick(5_000);
    log.ended();
    log.ended();
    log.failed(DOWN);
    expect(entries.map(({ message, count, lastedMs }) => ({ message, count, lastedMs }))).to.deep.equal([
      { message: 'redis is unavailable', count: 1, lastedMs: undefined },
      { message: 'redis is available again', count: 2, lastedMs: 5_000 },
      { message: 'redis is unavailable', count: 1, lastedMs: undefined },
    ]);
  });

  it('ends by itself when nothing fails for the given time', () => {
    const { clock, entries, log } = stage(10_000);
    log.failed(DOWN);
    clock.tick(9_000);
    log.failed(DOWN);
    clock.tick(9_999);
    expect(entries).to.have.length(1);
    clock.tick(1);
    expect(entries.map(({ message }) => message)).to.deep.equal(['redis is unavailable', 'redis is available again']);
    expect(clock.countTimers()).to.equal(0);
  });
});
