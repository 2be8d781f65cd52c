import { expect } from 'chai';
import { BusyError } from '../../../src/errors.ts';
import { createWaitingLine } from '../../../src/ledger/waiting-line.ts';

const DOWN = new Error('down');

/** A line of two places for four, and calls that end when they are told to. */
function stage() {
  const line = createWaitingLine({ places: 2, maxUnderWay: 4, failsWaitingToo: (error) => error === DOWN });
  const started: string[] = [];
  const settled: string[] = [];
  function call(name: string) {
    const { promise, resolve, reject } = Promise.withResolvers<string>();
    const result = line.run(() => {
      started.push(name);
      return promise;
    });
    const outcome = result.then(
      (value) => settled.push(`${name}: ${value}`),
      (error: Error) => settled.push(`${name}: ${error instanceof BusyError ? 'busy' : error.message}`),
    );
    return {
      end: () => {
        resolve('ok');
        return outcome;
      },
      fail: (error: Error) => {
        reject(error);
        return outcome;
      },
      outcome,
    };
  }
  return { started, settled, call };
}

describe('createWaitingLine', () => {
  it('runs as many at once as there are places, and the others in the order they came', async () => {
    const { call, started } = stage();
    const [a, b, c, d] = ['a', 'b', 'c', 'd'].map(call);
    expect(started).to.deep.equal(['a', 'b']);
    await b!.end();
    expect(started).to.deep.equal(['a', 'b', 'c']);
    await a!.end();
    expect(started).to.deep.equal(['a', 'b', 'c', 'd']);
    await Promise.all([c!.end(), d!.end()]);
  });

  it('rejects a call above the bound at once, and accepts the next once there is room', async () => {
    const { call, settled, started } = stage();
    const calls = ['a', 'b', 'c', 'd'].map(call);
    await call('e').outcome;
    expect(settled).to.deep.equal(['e: busy']);
    await calls[0]!.end();
    const f = call('f');
    for (const each of [...calls, f]) await each.end();
    expect(started).to.deep.equal(['a', 'b', 'c', 'd', 'f']);
  });

  it('gives a free place to a waiting call, not to a new one', async () => {
    const { call, started } = stage();
    const [a, b, c] = ['a', 'b', 'c'].map(call);
    const ending = a!.end().then(() => call('late'));
    const late = await ending;
    expect(started).to.deep.equal(['a', 'b', 'c']);
    for (const each of [b!, c!, late]) await each.end();
  });

  it('rejects waiting calls with a failure that concerns all of them, and goes on afterwards', async () => {
    const { call, settled, started } = stage();
    const [a, b, c, d] = ['a', 'b', 'c', 'd'].map(call);
    await a!.fail(DOWN);
    await Promise.all([c!.outcome, d!.outcome]);
    expect(settled).to.have.members(['a: down', 'c: down', 'd: down']);
    const [e, f] = ['e', 'f'].map(call);
    expect(started).to.deep.equal(['a', 'b', 'e']);
    for (const each of [b!, e!, f!]) await each.end();
    expect(settled).to.include.members(['b: ok', 'e: ok', 'f: ok']);
  });

  it('keeps any other failure to the call that met it', async () => {
    const { call, settled } = stage();
    const [a, b, c] = ['a', 'b', 'c'].map(call);
    await a!.fail(new Error('its own'));
    await Promise.all([b!.end(), c!.end()]);
    expect(settled).to.have.members(['a: its own', 'b: ok', 'c: ok']);
  });
});
