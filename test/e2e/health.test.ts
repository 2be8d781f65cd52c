import { expect } from 'chai';
import type { Problem } from '../../src/operations/relay-health.ts';
import { http } from '../support/http-client.ts';
import { eventually } from '../support/relay.ts';
import { PATIENCE_MS, startTestStack } from '../support/stack.ts';

/** A heartbeat lives for 5 s. The rest is for a busy machine. */
const NOTICED_WITHIN_MS = 6_000;

describe('GET /health with real processes', function () {
  this.timeout(2 * PATIENCE_MS);

  it('shows a killed worker within 6 s, also while a gateway is down, and its successor', async () => {
    const { apis, workers, startWorker, primary, postMany, settled } = await startTestStack();
    const health = async () => (await http(apis[0]!.url!).get('/health').expect(200)).body;
    const shows = (...codes: string[]) =>
      eventually(async () => {
        const { problems = [] } = (await health()) as { problems?: Problem[] };
        return `${problems.map(({ code }) => code)}` === `${codes}` && problems;
      }, NOTICED_WITHIN_MS);
    await shows();
    primary.set({ failure: true });
    await postMany(8);
    const [down] = await shows('primary_down');
    expect(down!.cause).to.match(/primary/);
    const killedAt = Date.now();
    await workers[0]!.kill();
    // What the dead worker said of the gateway ends with its heartbeat.
    const [missing] = await shows('no_worker');
    expect(Date.parse(missing!.since)).to.be.within(killedAt, Date.now());
    expect((await shows('no_worker'))[0]).to.deep.equal(missing);
    await startWorker();
    await shows('primary_down');
    primary.set({ failure: false });
    await settled();
    await shows();
  });

  it('shows nothing of a worker that was told to stop, at once', async () => {
    const { apis, workers } = await startTestStack();
    const health = async () => (await http(apis[0]!.url!).get('/health').expect(200)).body;
    await eventually(async () => (await health()).status === 'ok');
    expect(await workers[0]!.stop()).to.equal(0);
    const { workers: count, problems } = await health();
    expect([count, problems[0].code]).to.deep.equal([0, 'no_worker']);
  });
});
