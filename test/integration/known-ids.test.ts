import { expectKnownIdsToWait } from '../support/replica.ts';

describe('a payment that is posted again with DURABILITY=replica', function () {
  this.timeout(30_000);

  it('is confirmed only when the replica has it', () => expectKnownIdsToWait());
});
