import { expect } from 'chai';
import sinon from 'sinon';
import type { Circuit } from '../../../src/gateways/circuit.ts';
import { BELIEVES_ITSELF_MS, hear, LATER_BY_MS, type ToldOfGateway } from '../../../src/gateways/fleet.ts';
import { joinFleet } from '../../../src/gateways/fleet-member.ts';
import { NEW_PROBE_EVERY_MS } from '../../../src/gateways/probes.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const NOW_MS = 100_000;

const downAgo = (agoMs: number): ToldOfGateway => ({
  open: { code: 'http_502', detail: 'HTTP 502', evidence: 'response', agoMs },
});

/** What workers say of the primary, each so long ago. */
const said = (...each: [ToldOfGateway, number?][]) =>
  hear(
    each.map(([primary, agoMs = 0]) => ({ agoMs, text: JSON.stringify({ primary, fallback: {} }) })),
    NOW_MS,
  ).primary;

describe('what a worker hears of a gateway', () => {
  it('is nothing while no other worker lives', () => {
    expect(said()).to.deep.equal({ paidAtMs: Number.NEGATIVE_INFINITY, down: undefined, hasWitness: false });
  });

  it('is that it is down when one has opened its circuit and no worker has paid since', () => {
    expect(said([downAgo(300)], [{}], [{ paidAgoMs: 400 }]).down).to.include({
      code: 'http_502',
      evidence: 'response',
    });
  });

  it('is not that it is down when another one has paid since', () => {
    expect(said([downAgo(1_000)], [{ paidAgoMs: 500 }]).down).to.equal(undefined);
    expect(said([downAgo(1_000)], [{ paidAgoMs: 500 }])).to.include({ paidAtMs: NOW_MS - 500, hasWitness: true });
  });

  it('counts the time since each of them spoke', () => {
    expect(said([downAgo(100), 900], [{ paidAgoMs: 0 }, 500]).paidAtMs).to.equal(NOW_MS - 500);
    expect(said([downAgo(100), 900], [{ paidAgoMs: 0 }, 500]).down).to.equal(undefined);
    expect(said([downAgo(100), 300], [{ paidAgoMs: 0 }, 500]).down).to.not.equal(undefined);
  });

  it('lets no payment refute a failure of the same moment: its request was older', () => {
    expect(said([downAgo(500)], [{ paidAgoMs: 500 - LATER_BY_MS / 2 }]).down).to.not.equal(undefined);
  });

  it('lets no payment of long ago refute a failure', () => {
    expect(said([downAgo(60_000)], [{ paidAgoMs: BELIEVES_ITSELF_MS + 1 }]).down).to.not.equal(undefined);
  });

  it('has its cause from the worker whose circuit opened first', () => {
    const first: ToldOfGateway = { open: { ...downAgo(900).open!, code: 'ETIMEDOUT' } };
    expect(said([downAgo(100)], [first]).down?.code).to.equal('ETIMEDOUT');
  });

  it('leaves out a worker that fails alone, also as a witness', () => {
    const heard = said([{ ...downAgo(100), failsAlone: true }]);
    expect(heard.down).to.equal(undefined);
    expect(heard.hasWitness).to.equal(false);
    expect(said([{ hasHeard: true }]).hasWitness, 'one that has only heard of it').to.equal(false);
  });

  it('is nothing when the text is not understood', () => {
    for (const text of ['', '[]', 'null', '7', '{"primary":{"open":{"code":1},"paidAgoMs":"x"}}']) {
      const { primary } = hear([{ agoMs: 0, text }], NOW_MS);
      expect(primary).to.include({ down: undefined, paidAtMs: Number.NEGATIVE_INFINITY });
    }
  });
});

describe('a worker that fails alone', () => {
  function setUp(circuit: Partial<Circuit> = {}) {
    const clock = sinon.useFakeTimers({ now: 0 });
    atTestEnd(() => clock.restore());
    clock.tick(60_000);
    const of = (own: Partial<Circuit>) => ({
      ...{ told: () => ({}), hear: () => {}, cause: undefined, alone: undefined, steered: 'open', isAccepting: true },
      ...own,
    });
    const alone = { code: 'ECONNREFUSED', detail: 'refused', since: new Date() };
    const circuits = { primary: of({ alone, ...circuit }), fallback: of({}) } as Parameters<
      typeof joinFleet
    >[0]['circuits'];
    const member = joinFleet({ circuits, divide: () => {}, standing: () => undefined });
    return { clock, member };
  }

  it('takes one payment at a time as a probe, and the next one five seconds later', async () => {
    const { clock, member } = setUp();
    expect(member.isUsable).to.equal(false);
    await member.whenUsable();
    member.taken();
    let taken = 0;
    void member.whenUsable().then(() => {
      taken += 1;
    });
    await clock.tickAsync(NEW_PROBE_EVERY_MS - 200);
    expect(taken).to.equal(0);
    await clock.tickAsync(400);
    expect(taken).to.equal(1);
  });

  it('waits for a payment as long as there is none: only what it takes counts', async () => {
    const { member } = setUp();
    await member.whenUsable();
    expect(member.mayTakeOne).to.equal(true);
  });

  it('takes payments as usual while an operator has stopped the gateway', () => {
    expect(setUp({ steered: 'stopped' }).member.isUsable).to.equal(true);
  });

  it('ends every wait when it is closed', async () => {
    const { clock, member } = setUp({ isAccepting: false });
    const waiting = member.whenUsable();
    member.close();
    await clock.tickAsync(200);
    await waiting;
  });
});
