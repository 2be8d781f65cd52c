import { setTimeout as sleep } from 'node:timers/promises';
import { expect } from 'chai';
import type { SteeredGateway, SteeringAct } from '../../src/operations/steer.ts';
import type { GatewayName } from '../../src/payment.ts';
import { eventually } from '../support/relay.ts';
import { PATIENCE_MS, startTestStack, type TestStack } from '../support/stack.ts';

const ENV = { DASHBOARD_USER: 'ada', DASHBOARD_PASSWORD: 'secret', FALLBACK_AFTER_MS: '300' };
const headers = { authorization: `Basic ${Buffer.from('ada:secret').toString('base64')}` };

/** More than the second within which every worker follows. */
const FOLLOWED_MS = 1_500;

async function steer({ apis }: TestStack, gateway: GatewayName, act: SteeringAct): Promise<void> {
  const url = `${apis[0]!.url}/admin/api/gateways/${gateway}/${act}`;
  const body = JSON.stringify({ reason: 'a test' });
  await eventually(async () => (await fetch(url, { method: 'POST', headers, body })).status === 200, PATIENCE_MS);
}

/** Resolves when so many workers have reported that they follow. */
async function followed({ apis }: TestStack, gateway: GatewayName, count: number): Promise<SteeredGateway> {
  return eventually(async () => {
    const response = await fetch(`${apis[0]!.url}/admin/api/gateways`, { headers });
    if (response.status !== 200) return undefined;
    const seen = ((await response.json()) as Record<GatewayName, SteeredGateway>)[gateway];
    return seen.isFollowed && seen.workers.length === count && seen;
  }, PATIENCE_MS);
}

describe('gateways that are steered under load', function () {
  this.timeout(4 * PATIENCE_MS);

  it('lose no payment and pay none twice, while a worker and Redis end in between', async () => {
    const stack = await startTestStack({ own: ['redis'], workers: 2, env: ENV });
    const { primary, fallback, workers, redisServer } = stack;
    primary.set({ delayMs: 20 });
    const stopLoad = stack.startLoad();
    await primary.waitFor(({ payments }) => payments.size >= 50, PATIENCE_MS);

    await steer(stack, 'primary', 'stop');
    await followed(stack, 'primary', 2);
    await primary.waitFor(({ requests }) => requests.inFlight + requests.queued === 0, PATIENCE_MS);
    const sent = primary.requests.total;
    await fallback.waitFor(({ payments }) => payments.size >= 50, PATIENCE_MS);

    await workers[0]!.kill();
    await stack.startWorker();
    const before = fallback.payments.size;
    await fallback.waitFor(({ payments }) => payments.size >= before + 50, PATIENCE_MS);

    await redisServer.stop();
    await sleep(FOLLOWED_MS);
    await redisServer.start();
    await followed(stack, 'primary', 2);
    await sleep(FOLLOWED_MS);
    expect(primary.requests.total, 'sent to the primary while it was stopped').to.equal(sent);

    // Both stopped, then one after the other.
    await steer(stack, 'fallback', 'stop');
    await followed(stack, 'fallback', 2);
    await steer(stack, 'primary', 'drain');
    await sleep(FOLLOWED_MS);
    await steer(stack, 'primary', 'resume');
    const paid = primary.payments.size;
    await primary.waitFor(({ payments }) => payments.size >= paid + 50, PATIENCE_MS);
    await steer(stack, 'fallback', 'resume');
    await stopLoad();
    await stack.settled(2 * PATIENCE_MS);
  });

  it('keep what operators have decided when every process and Redis start again', async () => {
    const stack = await startTestStack({ own: ['redis'], env: ENV });
    await steer(stack, 'primary', 'stop');
    await steer(stack, 'fallback', 'stop');
    await Promise.all([...stack.apis, ...stack.workers].map((each) => each.stop()));
    await stack.redisServer.kill();
    await stack.redisServer.start();
    const api = await stack.startApi();
    const again = { ...stack, apis: [api] };
    await stack.startWorker();
    // A payment that was accepted before the first worker looks at the new server would count as unresolved.
    await followed(again, 'primary', 1);
    await fetch(`${api.url}/payments`, {
      method: 'POST',
      body: '{"correlationId":"4a7901b8-7d26-4d9d-aa19-4dc1c7cf60b3","amount":1}',
    });
    await eventually(async () => (await stack.countQueue()).inFlight === 1, PATIENCE_MS);
    await sleep(FOLLOWED_MS);
    expect(stack.primary.requests.total + stack.fallback.requests.total).to.equal(0);
    await steer(again, 'primary', 'resume');
    await eventually(() => stack.isQueueEmpty(), PATIENCE_MS);
    expect(stack.primary.payments.size).to.equal(1);
  });
});
