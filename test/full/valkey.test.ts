import { expect } from 'chai';
import { startRedis } from '../../dev/local/redis.ts';
import { atTestEnd } from '../support/cleanup.ts';
import { testRedis } from '../support/relay.ts';
import { expectKnownIdsToWait } from '../support/replica.ts';
import { installValkey } from '../support/valkey.ts';

describe('Valkey 9', function () {
  this.timeout(60_000);
  let command: string;

  before(async function () {
    this.timeout(120_000);
    command = await installValkey();
  });

  it('is the server that these tests start', async () => {
    const server = await startRedis({ command });
    atTestEnd(server.dispose);
    const redis = await testRedis(server.url);
    expect(await redis.info('server')).to.match(/^valkey_version:9\./m);
  });

  it('confirms a payment that is posted again only when its replica has it', () => expectKnownIdsToWait(command));
});
