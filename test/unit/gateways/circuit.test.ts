import { expect } from 'chai';
import sinon from 'sinon';
import { type Circuit, type CircuitFailure, createCircuit } from '../../../src/gateways/circuit.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const THRESHOLD = 3;
const PROBE_INTERVAL_MS = 200;

function setUp() {
  const clock = sinon.useFakeTimers();
  atTestEnd(() => clock.restore());
  const changes: string[] = [];
  const circuit = createCircuit({
    failureThreshold: THRESHOLD,
    probeIntervalMs: PROBE_INTERVAL_MS,
    onChange: (state) => changes.push(state),
  });
  const entries: string[] = [];
  return {
    clock,
    circuit,
    changes,
    /** Who has been let in or sent away so far, in order. */
    entries,
    /** Enters and notes the answer in `entries`. */
    enter(who: string, maxWaitMs = Number.POSITIVE_INFINITY): void {
      circuit.enter(maxWaitMs).then((entry) => entries.push(`${who} ${entry}`));
    },
    /** Lets promises settle without moving the clock. */
    settle: () => clock.tickAsync(0),
  };
}

function open(circuit: Circuit, reason: CircuitFailure = 'other'): void {
  for (let failure = 0; failure < THRESHOLD; failure += 1) circuit.failed('passed', reason);
}

describe('circuit', () => {
  describe('while closed', () => {
    it('lets everyone pass, even those who would not wait', async () => {
      const { circuit } = setUp();
      expect(await Promise.all([circuit.enter(0), circuit.enter(100)])).to.deep.equal(['passed', 'passed']);
      expect(circuit.isAccepting).to.equal(true);
      expect(circuit.openBecause).to.equal(undefined);
    });

    it('opens at as many failures in a row as the threshold says', async () => {
      const { circuit, changes } = setUp();
      circuit.failed('passed', 'other');
      circuit.failed('passed', 'other');
      expect(await circuit.enter(0)).to.equal('passed');
      circuit.failed('passed', 'other');
      expect(await circuit.enter(0)).to.equal('gave_up');
      expect(circuit.isAccepting).to.equal(false);
      expect(changes).to.deep.equal(['open']);
    });

    it('counts anew after a success', async () => {
      const { circuit } = setUp();
      circuit.failed('passed', 'other');
      circuit.failed('passed', 'other');
      circuit.succeeded();
      circuit.failed('passed', 'other');
      circuit.failed('passed', 'other');
      expect(circuit.isAccepting).to.equal(true);
    });

    it('does not count what says nothing about the gateway, neither for it nor against it', async () => {
      const { circuit } = setUp();
      circuit.failed('passed', 'other');
      circuit.failed('passed', 'other');
      for (let attempt = 0; attempt < 10; attempt += 1) circuit.neutral('passed');
      expect(circuit.isAccepting).to.equal(true);
      circuit.failed('passed', 'other');
      expect(circuit.isAccepting).to.equal(false);
    });

    it('reports no change at a success', () => {
      const { circuit, changes } = setUp();
      circuit.succeeded();
      expect(changes).to.deep.equal([]);
    });
  });

  describe('while open', () => {
    it('tells the reason of the failure that opened it', () => {
      const { circuit } = setUp();
      circuit.failed('passed', 'other');
      circuit.failed('passed', 'other');
      circuit.failed('passed', 'not_sent');
      expect(circuit.openBecause).to.equal('not_sent');
    });

    it('keeps its reason when another attempt from before fails differently', () => {
      const { circuit, changes } = setUp();
      open(circuit, 'not_sent');
      circuit.failed('passed', 'other');
      expect(circuit.openBecause).to.equal('not_sent');
      expect(changes).to.deep.equal(['open']);
    });

    it('sends away who waits no longer, at the time given', async () => {
      const { circuit, clock, entries, enter } = setUp();
      open(circuit);
      enter('a', 50);
      enter('b', 0);
      await clock.tickAsync(49);
      expect(entries).to.deep.equal(['b gave_up']);
      await clock.tickAsync(1);
      expect(entries).to.deep.equal(['b gave_up', 'a gave_up']);
    });

    it('lets exactly one probe in after the interval, the one who waits longest', async () => {
      const { circuit, clock, entries, enter } = setUp();
      open(circuit);
      for (const who of ['a', 'b', 'c']) enter(who);
      await clock.tickAsync(PROBE_INTERVAL_MS - 1);
      expect(entries).to.deep.equal([]);
      await clock.tickAsync(10 * PROBE_INTERVAL_MS);
      expect(entries).to.deep.equal(['a probe']);
      expect(circuit.isAccepting).to.equal(false);
    });

    it('does not choose one who has given up as the probe', async () => {
      const { circuit, clock, entries, enter } = setUp();
      open(circuit);
      enter('a', PROBE_INTERVAL_MS / 2);
      enter('b');
      await clock.tickAsync(PROBE_INTERVAL_MS);
      expect(entries).to.deep.equal(['a gave_up', 'b probe']);
    });

    it('keeps the probe for the next to come when nobody waits', async () => {
      const { circuit, clock, entries, enter, settle } = setUp();
      open(circuit);
      await clock.tickAsync(PROBE_INTERVAL_MS);
      expect(circuit.isAccepting).to.equal(true);
      enter('a', 0);
      enter('b', 0);
      await settle();
      expect(entries).to.deep.equal(['a probe', 'b gave_up']);
    });

    it('closes at a success of one who was sent before it opened', async () => {
      const { circuit, changes, entries, enter, settle } = setUp();
      open(circuit);
      enter('a');
      circuit.succeeded();
      await settle();
      expect(entries).to.deep.equal(['a passed']);
      expect(changes).to.deep.equal(['open', 'closed']);
    });
  });

  describe('while probing', () => {
    /** Open, with `a` under way as the probe and the others waiting. */
    async function probing(reason: CircuitFailure = 'other') {
      const set = setUp();
      open(set.circuit, reason);
      for (const who of ['a', 'b', 'c']) set.enter(who);
      await set.clock.tickAsync(PROBE_INTERVAL_MS);
      expect(set.entries.splice(0)).to.deep.equal(['a probe']);
      return set;
    }

    it('lets all pass when the probe succeeds', async () => {
      const { circuit, changes, entries, settle } = await probing();
      circuit.succeeded();
      await settle();
      expect(entries).to.deep.equal(['b passed', 'c passed']);
      expect(await circuit.enter(0)).to.equal('passed');
      expect(circuit.openBecause).to.equal(undefined);
      expect(changes).to.deep.equal(['open', 'closed']);
    });

    it('waits the interval and lets the next in when the probe fails', async () => {
      const { circuit, changes, clock, entries } = await probing();
      circuit.failed('probe', 'other');
      await clock.tickAsync(PROBE_INTERVAL_MS - 1);
      expect(entries).to.deep.equal([]);
      await clock.tickAsync(1);
      expect(entries).to.deep.equal(['b probe']);
      expect(changes).to.deep.equal(['open']);
    });

    it('waits the interval and lets the next in when the probe says nothing', async () => {
      const { circuit, clock, entries } = await probing('not_sent');
      circuit.neutral('probe');
      expect(circuit.openBecause).to.equal('not_sent');
      await clock.tickAsync(PROBE_INTERVAL_MS - 1);
      expect(entries).to.deep.equal([]);
      await clock.tickAsync(1);
      expect(entries).to.deep.equal(['b probe']);
    });

    it('tells those who wait when the probe fails for another reason', async () => {
      const { circuit, entries, settle } = await probing('not_sent');
      circuit.failed('probe', 'other');
      await settle();
      expect(entries).to.deep.equal(['b reason_changed', 'c reason_changed']);
      expect(circuit.openBecause).to.equal('other');
    });

    it('is not decided by the failure of one who was sent before it opened', async () => {
      const { circuit, clock, entries } = await probing('not_sent');
      circuit.failed('passed', 'other');
      circuit.neutral('passed');
      await clock.tickAsync(10 * PROBE_INTERVAL_MS);
      expect(entries).to.deep.equal([]);
      expect(circuit.openBecause).to.equal('not_sent');
    });

    it('stays closed when the probe fails after another success has closed it', async () => {
      const { circuit, changes } = await probing();
      circuit.succeeded();
      circuit.failed('probe', 'other');
      expect(circuit.isAccepting).to.equal(true);
      expect(changes).to.deep.equal(['open', 'closed']);
    });

    it('counts anew after its closing', async () => {
      const { circuit } = await probing();
      circuit.succeeded();
      circuit.failed('passed', 'other');
      circuit.failed('passed', 'other');
      expect(circuit.isAccepting).to.equal(true);
      circuit.failed('passed', 'other');
      expect(circuit.isAccepting).to.equal(false);
    });
  });

  it('starts no probe from an earlier opening', async () => {
    const { circuit, clock, entries, enter } = setUp();
    open(circuit);
    await clock.tickAsync(PROBE_INTERVAL_MS / 2);
    circuit.succeeded();
    open(circuit);
    enter('a');
    await clock.tickAsync(PROBE_INTERVAL_MS - 1);
    expect(entries).to.deep.equal([]);
    await clock.tickAsync(1);
    expect(entries).to.deep.equal(['a probe']);
  });

  it('keeps no probe for later from an earlier opening', async () => {
    const { circuit, clock } = setUp();
    open(circuit);
    await clock.tickAsync(PROBE_INTERVAL_MS);
    circuit.succeeded();
    open(circuit);
    expect(circuit.isAccepting).to.equal(false);
  });

  it('leaves no timer behind for one who got in', async () => {
    const { circuit, clock, enter, settle } = setUp();
    open(circuit);
    enter('a', 10_000);
    circuit.succeeded();
    await clock.tickAsync(PROBE_INTERVAL_MS);
    await settle();
    expect(clock.countTimers()).to.equal(0);
  });

  describe('shutDown', () => {
    it('sends away who waits', async () => {
      const { circuit, entries, enter, settle } = setUp();
      open(circuit);
      enter('a');
      enter('b', 100);
      circuit.shutDown();
      await settle();
      expect(entries).to.deep.equal(['a shut_down', 'b shut_down']);
    });

    for (const state of ['closed', 'open']) {
      it(`sends away who comes while it is ${state}`, async () => {
        const { circuit } = setUp();
        if (state === 'open') open(circuit);
        circuit.shutDown();
        expect(await circuit.enter(Number.POSITIVE_INFINITY)).to.equal('shut_down');
      });
    }
  });
});
