import { expect } from 'chai';
import { type SinonFakeTimers, useFakeTimers } from 'sinon';
import { keepRunning } from '../../../dev/keep-running.ts';

/** A service that a test ends. */
function stubService() {
  let end: (code: number | null) => void = () => {};
  const service = {
    name: 'worker',
    starts: 0,
    exited: new Promise<number | null>((resolve) => {
      end = resolve;
    }),
    async start() {
      service.starts += 1;
      service.exited = new Promise((resolve) => {
        end = resolve;
      });
    },
  };
  return { service, end: (code: number | null = null) => end(code) };
}

describe('keepRunning', () => {
  let clock: SinonFakeTimers;
  beforeEach(() => {
    clock = useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  });
  afterEach(() => clock.restore());

  function stage() {
    const { service, end } = stubService();
    const said: string[] = [];
    const counts = { ends: 0, starts: 0 };
    let nowMs = 0;
    const kept = keepRunning({
      service,
      say: (line) => said.push(line),
      onStart: () => (counts.starts += 1),
      onEnd: () => (counts.ends += 1),
      nowMs: () => nowMs,
    });
    /** Ends the service, and lets so much time pass. */
    async function endAndWait(ms: number): Promise<void> {
      end();
      await clock.tickAsync(ms);
      nowMs += ms;
    }
    return { service, said, counts, kept, endAndWait };
  }

  it('starts a service a second after its end, and says so', async () => {
    const { service, said, counts, endAndWait } = stage();
    await endAndWait(999);
    expect(service.starts).to.equal(0);
    await clock.tickAsync(1);
    expect(service.starts).to.equal(1);
    expect(said).to.deep.equal(['worker was killed; it starts again in 1 s']);
    expect(counts).to.deep.equal({ starts: 1, ends: 0 });
  });

  it('stops at the sixth end within a minute', async () => {
    const { service, counts, endAndWait } = stage();
    for (let n = 0; n < 5; n += 1) await endAndWait(2_000);
    expect(counts).to.deep.equal({ starts: 5, ends: 0 });
    await endAndWait(2_000);
    expect(service.starts).to.equal(5);
    expect(counts.ends).to.equal(1);
  });

  it('goes on for ever when the ends are further apart', async () => {
    const { service, counts, endAndWait } = stage();
    for (let n = 0; n < 20; n += 1) await endAndWait(12_001);
    expect(service.starts).to.equal(20);
    expect(counts.ends).to.equal(0);
  });

  it('starts nothing while it is paused, and starts what has ended when it resumes', async () => {
    const { service, counts, kept, endAndWait } = stage();
    await kept.pause();
    await endAndWait(10_000);
    expect(service.starts).to.equal(0);
    await kept.resume();
    expect(service.starts).to.equal(1);
    await endAndWait(1_000);
    expect(counts).to.deep.equal({ starts: 2, ends: 0 });
  });

  it('drops a start that is due when it is paused', async () => {
    const { service, kept, endAndWait } = stage();
    await endAndWait(500);
    await kept.pause();
    await clock.tickAsync(10_000);
    expect(service.starts).to.equal(0);
    await kept.resume();
    expect(service.starts).to.equal(1);
  });
});
