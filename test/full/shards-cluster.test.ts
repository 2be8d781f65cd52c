import { expect } from 'chai';
import calculateSlot from 'cluster-key-slot';
import { startRedisCluster } from '../../dev/local/redis-cluster.ts';
import { QUEUE_PREFIX } from '../../src/queue/payment-queue.ts';
import { paymentQueues, shardOf } from '../../src/queue/shards.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { exchange, http } from '../support/http-client.ts';
import { NO_DATABASE } from '../support/queue.ts';
import { aPayment, eventually, testApi } from '../support/relay.ts';
import { PATIENCE_MS } from '../support/stack.ts';

const SHARDS = 6;

/** Each of the three masters has a third of the slots, so two of the shards. */
const masterOf = (key: string) => Math.floor((calculateSlot(key) * 3) / 16_384);

const { home, shards } = paymentQueues({ name: 'payments', shards: SHARDS });

/** A cluster whose primary is the master of these keys, and an API node over six shards. */
async function anApi(primaryOf: string) {
  const cluster = await startRedisCluster({ prefixes: [primaryOf] });
  atTestEnd(() => cluster.dispose());
  const { url } = await testApi({ ...NO_DATABASE, ...cluster.env, QUEUE_SHARDS: String(SHARDS) }, QUEUE_PREFIX);
  const api = http(url);
  await eventually(async () => (await api.get('/health')).status === 200);
  const post = async (shard: number) => {
    const body = JSON.stringify(paymentOf(shard));
    return await exchange(`${url}/payments`, { headers: { 'content-type': 'application/json' }, body });
  };
  for (const shard of shards.keys()) await eventually(async () => (await post(shard)).status === 204);
  return {
    cluster,
    api,
    post,
    /** Loses a master for good: nobody can take its place. */
    async loseMaster(): Promise<void> {
      await cluster.loseReplica();
      await cluster.loseReplica();
      await cluster.losePrimary();
    },
    /** Posts to each shard for two seconds, one at a time each. @returns of each its status codes and its slowest response */
    async postForAWhile() {
      const until = performance.now() + 2_000;
      return Promise.all(
        shards.map(async (_, shard) => {
          const seen = { statuses: new Set<number>(), slowestMs: 0 };
          while (performance.now() < until) {
            const { status, elapsedMs } = await post(shard);
            seen.statuses.add(status);
            seen.slowestMs = Math.max(seen.slowestMs, elapsedMs);
          }
          return { statuses: [...seen.statuses], slowestMs: seen.slowestMs };
        }),
      );
    },
  };
}

function paymentOf(shard: number) {
  for (;;) {
    const payment = aPayment();
    if (shardOf(payment.correlationId, SHARDS) === shard) return payment;
  }
}

describe('shards on a Redis Cluster', function () {
  this.timeout(3 * PATIENCE_MS);

  it('that loses a master get 503 for its payments only, and the others go on at full speed', async () => {
    const other = shards.find(({ prefix }) => masterOf(prefix) !== masterOf(home.prefix))!;
    const { api, loseMaster, postForAWhile } = await anApi(other.prefix);
    await loseMaster();
    const seen = await postForAWhile();
    for (const [index, { prefix }] of shards.entries()) {
      const isLost = masterOf(prefix) === masterOf(other.prefix);
      expect(seen[index]!.statuses, `shard ${index}`).to.deep.equal([isLost ? 503 : 204]);
      // A request whose Redis does not respond may take a second.
      expect(seen[index]!.slowestMs, `shard ${index}`).to.be.below(isLost ? 1_500 : 500);
    }
    await api.get('/health/ready').expect(200);
    const { problems, queue } = (await api.get('/health').expect(200)).body;
    const problem = problems.find(({ code }: { code: string }) => code === 'queue_unavailable');
    const lost = [...shards.keys()].filter((index) => masterOf(shards[index]!.prefix) === masterOf(other.prefix));
    expect(problem.cause).to.include(`shard ${lost.map((index) => index + 1).join(', ')} of 6`);
    expect(queue.queue_size).to.be.above(0);
  });

  it('that loses the master of the home accept for the other shards', async () => {
    const { api, loseMaster, postForAWhile } = await anApi(home.prefix);
    await loseMaster();
    const seen = await postForAWhile();
    for (const [index, { prefix }] of shards.entries()) {
      const isLost = masterOf(prefix) === masterOf(home.prefix);
      expect(seen[index]!.statuses, `shard ${index}`).to.deep.equal([isLost ? 503 : 204]);
    }
    await api.get('/health/ready').expect(200);
    await api.get('/health').expect(503);
  });
});
