import { expect } from 'chai';
import { parseHeartbeat } from '../../../src/queue/parse-heartbeat.ts';

const LATE = '2026-01-01T12:10:00.000Z';

describe('parseHeartbeat', () => {
  it('has no heartbeat for what is none', () => {
    for (const text of [
      '',
      'x',
      'null',
      '[]',
      '7',
      '{}',
      '{"id":"x"}',
      '{"id":7,"role":"api"}',
      '{"id":"x","role":"?"}',
    ]) {
      expect(parseHeartbeat(text), text).to.equal(undefined);
    }
  });

  it('gives what another version wrote otherwise the value that says nothing, and still counts its worker', () => {
    const worker = { gateways: { primary: 'down', fallback: { down: { since: 'x' }, waiting: '7' } }, ledgerDown: 7 };
    const read = parseHeartbeat(
      JSON.stringify({ id: 'x', role: 'worker', hops: 7, worker, problems: { a: 7, b: LATE } }),
    );
    expect(read).to.deep.equal({
      id: 'x',
      role: 'worker',
      host: '',
      pid: 0,
      version: '',
      startedAt: '',
      accepted: 0,
      rates: { accepted: 0, notAccepted: 0, paid: { primary: 0, fallback: 0 } },
      hops: { accept: [], wait: [], send: [], record: [] },
      worker: {
        workerId: '',
        concurrency: 0,
        inFlight: 0,
        gateways: { primary: { waiting: 0 }, fallback: { waiting: 0 } },
      },
      problems: { b: LATE },
    });
  });
});
