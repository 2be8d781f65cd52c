import { randomUUID } from 'node:crypto';
import { expect } from 'chai';
import { createDb } from '../../src/ledger/db.ts';
import { type ActionRow, createOperatorActions, type NewAction } from '../../src/ledger/operator-actions.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { eventually } from '../support/relay.ts';
import { freshDatabase, sql } from '../support/services.ts';

async function table() {
  const url = await freshDatabase();
  const db = createDb({ url, poolSize: 5, ssl: false });
  atTestEnd(() => db.destroy());
  return { url, actions: createOperatorActions(db) };
}

const anAction = (fields: Partial<NewAction> = {}): NewAction => ({
  key: randomUUID(),
  at: new Date(),
  who: 'operator',
  action: 'dead_letters.retry',
  target: { filter: { gateway: 'primary' } },
  reason: 'the provider is back',
  ...fields,
});

const started = (fields: Partial<NewAction> = {}): ActionRow => ({
  ...anAction(fields),
  state: 'started',
  outcome: undefined,
  endedAt: undefined,
});

const ended = (row: ActionRow): ActionRow => ({ ...row, state: 'done', outcome: { changed: 3 }, endedAt: new Date() });

describe('operator actions', () => {
  it('keep what was asked for and what came of it', async () => {
    const { actions } = await table();
    const row = started();
    await actions.put(row);
    const end = ended(row);
    await actions.put(end);
    const [found, ...others] = await actions.list({ limit: 10 });
    expect(others).to.deep.equal([]);
    expect(found).to.deep.equal({ ...end, id: found!.id, perSecond: undefined, progress: undefined });
    expect(await actions.find(found!.id)).to.deep.equal(found);
    expect(await actions.find(`${Number(found!.id) + 1}`)).to.equal(undefined);
  });

  it('are the same row however often and in whatever order it comes', async () => {
    const { actions } = await table();
    const row = started();
    const end = ended(row);
    const another: ActionRow = { ...end, state: 'failed', outcome: { error: 'late' } };
    for (const each of [end, row, end, another]) await actions.put(each);
    const rows = await actions.list({ limit: 10 });
    expect(rows.map(({ state, outcome }) => [state, outcome])).to.deep.equal([['done', { changed: 3 }]]);
  });

  it('keep every text of a person, but for what PostgreSQL cannot store', async () => {
    const { actions } = await table();
    const texts = { nul: 'a\0b', half: 'a\ud800b', both: '\udc00\0', fine: 'é 😀 " \\u0000 \\' };
    await actions.put(
      started({ who: 'o\0p', reason: '\ud83dwhy\0', target: { ...texts, deep: [{ 'k\0ey': texts }], 'k\ud800': 1 } }),
    );
    const kept = { nul: 'a\ufffdb', half: 'a\ufffdb', both: '\ufffd\ufffd', fine: texts.fine };
    const [found] = await actions.list({ limit: 1 });
    expect(found).to.deep.include({
      who: 'o\ufffdp',
      reason: '\ufffdwhy\ufffd',
      target: { ...kept, deep: [{ 'k\ufffdey': kept }], 'k\ufffd': 1 },
    });
    const id = await actions.begin(anAction({ reason: '\0' }), 1);
    await actions.stop(id, 'x\ud800');
    expect((await actions.find(id))!.outcome).to.deep.equal({ stoppedBy: 'x\ufffd' });
  });

  it('are listed by pages, the newest first, also those that were written late', async () => {
    const { actions } = await table();
    // Two have the same time.
    const minutes = [3, 1, 2, 2, 4];
    for (const minute of minutes) {
      await actions.put(started({ at: new Date(minute * 60_000), target: { minute } }));
    }
    const listed: unknown[] = [];
    let before: string | undefined;
    for (;;) {
      const page = await actions.list({ before, limit: 2 });
      if (page.length === 0) break;
      listed.push(...page.map(({ target }) => target['minute']));
      before = page.at(-1)!.id;
    }
    expect(listed).to.deep.equal([4, 3, 2, 2, 1]);
  });

  describe('that take long', () => {
    it('run one after the other, each by one worker, the oldest first', async () => {
      const { actions } = await table();
      const [first, second] = [await actions.begin(anAction(), 100), await actions.begin(anAction(), 5)];
      const leaseAll = async () => {
        const taken = await Promise.all(Array.from({ length: 8 }, (_, index) => actions.lease(`worker-${index}`, 60)));
        return taken.filter((each) => each !== undefined);
      };
      const leased = await leaseAll();
      expect(leased.map(({ id }) => id)).to.deep.equal([first]);
      expect(leased[0]).to.include({ state: 'running', perSecond: 100, cursor: undefined });
      await actions.end(leased[0]!, 'done', {});
      expect((await leaseAll()).map(({ id }) => id)).to.deep.equal([second]);
    });

    it('go on at the cursor of a worker whose lease is over, which changes nothing any more', async () => {
      const { actions, url } = await table();
      await actions.begin(anAction(), 100);
      const first = (await actions.lease('same', 60))!;
      expect(await actions.advance(first, '41', { retried: 41 })).to.equal(true);
      expect(await actions.lease('other', 60)).to.equal(undefined);
      await sql(url, `UPDATE operator_actions SET lease_until = now() - interval '1 second'`);
      const second = (await actions.lease('same', 60))!;
      expect(second).to.deep.include({ id: first.id, cursor: '41', progress: { retried: 41 } });
      expect(await actions.advance(first, '7', { retried: 7 })).to.equal(false);
      expect(await actions.end(first, 'failed', {})).to.equal(false);
      expect(await actions.end(second, 'done', { retried: 50 })).to.equal(true);
      const found = await actions.find(first.id);
      expect(found).to.deep.include({ state: 'done', outcome: { retried: 50 }, progress: { retried: 41 } });
      expect(found!.endedAt).to.be.instanceOf(Date);
      expect(await actions.lease('other', 60)).to.equal(undefined);
    });

    it('keep the lease with each advance', async () => {
      const { actions, url } = await table();
      await actions.begin(anAction(), 100);
      const leased = (await actions.lease('one', 60))!;
      await sql(url, 'UPDATE operator_actions SET lease_until = now()');
      await actions.advance(leased, '1', {});
      expect(await actions.lease('two', 60)).to.equal(undefined);
    });

    it('end when an operator stops them, once, with what their worker did until it noticed', async () => {
      const { actions } = await table();
      const id = await actions.begin(anAction(), 100);
      const leased = (await actions.lease('one', 60))!;
      await actions.advance(leased, '10', { retried: 10 });
      expect(await actions.stop(id, 'anna')).to.equal(true);
      expect(await actions.stop(id, 'bert')).to.equal(false);
      expect(await actions.advance(leased, '11', { retried: 11 })).to.equal(false);
      expect(await actions.end(leased, 'done', {})).to.equal(false);
      expect(await actions.find(id)).to.deep.include({
        state: 'stopped',
        outcome: { retried: 11, stoppedBy: 'anna' },
      });
    });

    it('are free again when the lease is over', async () => {
      const { actions } = await table();
      await actions.begin(anAction(), 100);
      await actions.lease('one', 0.05);
      expect(await eventually(() => actions.lease('two', 60))).to.include({ state: 'running' });
    });
  });
});
