import { expect } from 'chai';
import { outboxKey } from '../../src/queue/bullmq-layout.ts';
import { paymentQueue } from '../../src/queue/payment-queue.ts';
import { exchange } from '../support/http-client.ts';
import { eventually } from '../support/relay.ts';
import { holdTable, sql } from '../support/services.ts';
import { PATIENCE_MS, startTestStack } from '../support/stack.ts';

const OUTBOX = outboxKey(paymentQueue({ name: 'payments' }));

describe('the trail of operators', function () {
  this.timeout(3 * PATIENCE_MS);

  it('has a pause once, when its node is killed before and while it writes the row', async () => {
    const { apis, databaseUrl, proxies, redis } = await startTestStack({
      workers: 0,
      own: ['postgres'],
      through: ['postgres'],
      env: { DASHBOARD_USER: 'anna', DASHBOARD_PASSWORD: 'secret' },
    });
    const api = apis[0]!;
    await proxies.postgres.set({ kind: 'refuse' });
    const headers = { authorization: `Basic ${Buffer.from('anna:secret').toString('base64')}` };
    const change = (name: string) =>
      exchange(`${api.url}/admin/queues/api/queues/payments/${name}`, { method: 'PUT', headers });
    expect((await change('pause')).status).to.equal(200);
    expect((await change('resume')).status).to.equal(503);
    await eventually(async () => (await redis.zcard(OUTBOX)) === 2);
    await api.kill();

    const release = await holdTable(databaseUrl, 'operator_actions');
    await proxies.postgres.set({ kind: 'none' });
    await api.start();
    const waiting = `SELECT FROM pg_stat_activity
      WHERE datname = current_database() AND wait_event_type = 'Lock' AND query LIKE 'INSERT INTO operator_actions%'`;
    await eventually(async () => (await sql(databaseUrl, waiting)).length > 0, PATIENCE_MS);
    await api.kill();
    await release();

    await api.start();
    await eventually(async () => (await redis.zcard(OUTBOX)) === 0, PATIENCE_MS);
    const rows = await sql(databaseUrl, 'SELECT who, action, state, outcome FROM operator_actions');
    expect(rows).to.deep.equal([{ who: 'anna', action: 'queue.pause', state: 'done', outcome: { status: 200 } }]);
  });
});
