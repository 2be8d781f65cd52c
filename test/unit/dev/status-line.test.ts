import { expect } from 'chai';
import { type SinonFakeTimers, useFakeTimers } from 'sinon';
import { createStatusLine, type Status } from '../../../dev/status-line.ts';

const STATUS: Status = {
  primary: { totalRequests: 10, totalAmountCents: 19_900 },
  fallback: { totalRequests: 1, totalAmountCents: 1_990 },
  queued: 2,
  inFlight: 1,
  dead: 0,
};

describe('the status line of make run', () => {
  let clock: SinonFakeTimers;
  beforeEach(() => {
    clock = useFakeTimers({ toFake: ['setInterval', 'clearInterval'] });
  });
  afterEach(() => clock.restore());

  function stage({ isTTY, knowsCircuits = true }: { isTTY: boolean; knowsCircuits?: boolean }) {
    const written: string[] = [];
    const out = { isTTY, columns: 200, write: (text: string) => written.push(text) > 0 };
    const line = createStatusLine(out, { knowsCircuits });
    return { written, line };
  }

  it('shows once a second what was accepted, paid and queued, and the circuits', async () => {
    const { written, line } = stage({ isTTY: true });
    line.start(async () => STATUS);
    await clock.tickAsync(1_000);
    const text = 'accepted 14  primary 10 (199.00)  fallback 1 (19.90)  queued 2  circuits closed  in flight 1';
    expect(written).to.deep.equal([`\r\x1b[K${text}`]);
    line.print('worker was killed');
    expect(written.at(-1)).to.equal(`\r\x1b[Kworker was killed\n${text}`);
    line.close();
    await clock.tickAsync(5_000);
    expect(written).to.have.length(3);
  });

  it('names the open circuits and the dead letters', async () => {
    const { written, line } = stage({ isTTY: true });
    line.note('{"gateway":"primary","state":"open"}');
    line.note('{"gateway":"fallback","state":"open"}');
    line.note('{"gateway":"fallback","state":"closed"}');
    line.start(async () => ({ ...STATUS, dead: 3 }));
    await clock.tickAsync(1_000);
    expect(written[0]).to.include('accepted 17 ').and.include('dead 3').and.include('circuit open: primary');
    expect(written[0]).not.to.include('fallback,');
    line.close();
  });

  it('leaves the circuits out when the log does not say when one closes', async () => {
    const { written, line } = stage({ isTTY: true, knowsCircuits: false });
    line.start(async () => STATUS);
    await clock.tickAsync(1_000);
    expect(written[0]).not.to.include('circuit');
    line.close();
  });

  it('stays when Redis or PostgreSQL does not respond', async () => {
    const { written, line } = stage({ isTTY: true });
    line.start(() => Promise.reject(new Error('down')));
    await clock.tickAsync(1_000);
    expect(written[0]).to.include('does not respond');
    line.close();
  });

  it('is off where stdout is no terminal', async () => {
    const { written, line } = stage({ isTTY: false });
    line.start(async () => STATUS);
    await clock.tickAsync(5_000);
    expect(written).to.deep.equal([]);
    line.print('text');
    expect(written).to.deep.equal(['text\n']);
    line.close();
  });
});
