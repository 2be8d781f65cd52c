import { expect } from 'chai';
import sinon from 'sinon';
import { createKnownBodies, type KnownBodies, type LookUpResult } from '../../../src/gateways/known-bodies.ts';
import { atTestEnd } from '../../support/cleanup.ts';

const BODY = '{"message":"payment processed successfully"}';
const AT = '2025-07-15T12:00:00.123Z';
const idOf = (number: number) => `4a7901b8-7d26-4d9d-aa19-${String(number).padStart(12, '0')}`;

/** Known bodies that count their look-ups. */
function stage() {
  const forgotten: string[] = [];
  const bodies: KnownBodies = createKnownBodies((body) => forgotten.push(body));
  let lookUps = 0;
  return {
    forgotten,
    lookUps: () => lookUps,
    judge(body: string, result: LookUpResult['result'] | Promise<LookUpResult['result']>, id = 1) {
      return bodies.judge({ body, correlationId: idOf(id), requestedAt: AT }, async () => {
        lookUps += 1;
        return { result: await result };
      });
    },
  };
}

function fakeClock(): sinon.SinonFakeTimers {
  const clock = sinon.useFakeTimers({ toFake: ['performance'] });
  atTestEnd(() => clock.restore());
  return clock;
}

describe('known bodies', () => {
  it('accepts a body that a look-up has confirmed', async () => {
    const { judge, lookUps } = stage();
    expect(await judge(BODY, 'confirmed')).to.deep.equal({ result: 'confirmed' });
    expect(await judge(BODY, 'not_there', 2)).to.deep.equal({ result: 'known' });
    expect(lookUps()).to.equal(1);
  });

  it('does not accept a body whose payment is on record with another time, or not at all', async () => {
    const { judge, lookUps } = stage();
    for (const result of ['on_record', 'not_there'] as const) {
      expect(await judge(BODY, result)).to.deep.equal({ result });
    }
    expect(await judge(BODY, 'confirmed')).to.deep.equal({ result: 'confirmed' });
    expect(lookUps()).to.equal(3);
  });

  it('does not accept another body than the confirmed one', async () => {
    const { judge } = stage();
    await judge(BODY, 'confirmed');
    expect(await judge('{"message":"declined"}', 'not_there')).to.deep.equal({ result: 'not_there' });
  });

  it('ignores the id and the time of its payment in a body', async () => {
    const { judge } = stage();
    const echo = (id: number) => JSON.stringify({ id: idOf(id), at: AT, again: idOf(id) });
    await judge(echo(1), 'confirmed', 1);
    expect(await judge(echo(2), 'not_there', 2)).to.deep.equal({ result: 'known' });
    expect(await judge(echo(2), 'not_there', 3), 'the id of another payment').to.deep.equal({ result: 'not_there' });
  });

  it('makes payments with the same unknown body wait for one look-up, and accepts them all', async () => {
    const { judge, lookUps } = stage();
    const result = Promise.withResolvers<'confirmed'>();
    const judged = Promise.all([1, 2, 3].map((id) => judge(BODY, result.promise, id)));
    result.resolve('confirmed');
    expect(await judged).to.deep.equal([{ result: 'confirmed' }, { result: 'known' }, { result: 'known' }]);
    expect(lookUps()).to.equal(1);
  });

  it('looks each of them up when the first look-up does not confirm the body', async () => {
    const { judge, lookUps } = stage();
    const first = Promise.withResolvers<'not_there'>();
    const judged = Promise.all([
      judge(BODY, first.promise, 1),
      judge(BODY, 'on_record', 2),
      judge(BODY, 'not_there', 3),
    ]);
    first.resolve('not_there');
    expect(await judged).to.deep.equal([{ result: 'not_there' }, { result: 'on_record' }, { result: 'not_there' }]);
    expect(lookUps()).to.equal(3);
  });

  it('looks up one payment with a known body once a minute', async () => {
    const clock = fakeClock();
    const { judge, lookUps } = stage();
    await judge(BODY, 'confirmed');
    clock.tick(59_999);
    await judge(BODY, 'on_record');
    expect(lookUps()).to.equal(1);
    clock.tick(1);
    expect(await Promise.all([judge(BODY, 'on_record'), judge(BODY, 'on_record')])).to.deep.equal([
      { result: 'on_record' },
      { result: 'known' },
    ]);
    expect(lookUps()).to.equal(2);
  });

  it('forgets a known body whose payment is not there, and reports it once', async () => {
    const clock = fakeClock();
    const { judge, forgotten } = stage();
    await judge(BODY, 'confirmed');
    clock.tick(60_000);
    expect(await judge(BODY, 'not_there')).to.deep.equal({ result: 'not_there' });
    expect(await judge(BODY, 'not_there')).to.deep.equal({ result: 'not_there' });
    expect(forgotten).to.deep.equal([BODY]);
  });

  it('keeps the newest 48 bodies', async () => {
    const { judge } = stage();
    const body = (number: number) => JSON.stringify({ number });
    for (let number = 0; number < 49; number += 1) await judge(body(number), 'confirmed');
    expect(await judge(body(1), 'not_there')).to.deep.equal({ result: 'known' });
    expect(await judge(body(0), 'not_there')).to.deep.equal({ result: 'not_there' });
  });

  it('goes on after a look-up that fails', async () => {
    const bodies = createKnownBodies(() => {});
    const response = { body: BODY, correlationId: idOf(1), requestedAt: AT };
    const failed = bodies.judge(response, () => Promise.reject(new Error('broken'))).catch(({ message }) => message);
    const waited = bodies.judge(response, async () => ({ result: 'confirmed' as const }));
    expect(await Promise.all([failed, waited])).to.deep.equal(['broken', { result: 'confirmed' }]);
  });
});
