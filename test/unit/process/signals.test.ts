import { EventEmitter } from 'node:events';
import { expect } from 'chai';
import sinon from 'sinon';
import { watchSignals } from '../../../src/process/signals.ts';
import { atTestEnd } from '../../support/cleanup.ts';

function watch() {
  const clock = sinon.useFakeTimers();
  atTestEnd(() => clock.restore());
  const exit = sinon.spy();
  const events = Object.assign(new EventEmitter(), { exit });
  const signals = watchSignals(events as unknown as NodeJS.Process);
  const listener = sinon.spy();
  return { clock, exit, signals, listener, send: (signal: NodeJS.Signals) => events.emit(signal, signal) };
}

describe('watchSignals', () => {
  it('exits with 0 at a signal before anything listens', () => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const { clock, exit, send } = watch();
      send(signal);
      expect(exit.args).to.deep.equal([[0]]);
      clock.restore();
    }
  });

  it('passes each signal to the listener, and exits no more', () => {
    for (const signal of ['SIGINT', 'SIGTERM'] as const) {
      const { clock, exit, signals, listener, send } = watch();
      signals.listen(listener);
      send(signal);
      expect(listener.args).to.deep.equal([[signal]]);
      expect(exit.called).to.equal(false);
      clock.restore();
    }
  });

  it('takes repeats within a second for one signal, whichever of the two they are', () => {
    const { clock, signals, listener, send } = watch();
    signals.listen(listener);
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGINT', 'SIGTERM'] as const) {
      send(signal);
      clock.tick(333);
    }
    expect(listener.args).to.deep.equal([['SIGINT']]);
  });

  it('counts the time from the first, so that steady repeats do not count as one for ever', () => {
    const { clock, signals, listener, send } = watch();
    signals.listen(listener);
    for (let ms = 0; ms <= 1_000; ms += 100) {
      send('SIGTERM');
      clock.tick(100);
    }
    expect(listener.callCount).to.equal(2);
  });
});
