import { expect } from 'chai';
import type { FallbackConfig } from '../../../src/config.ts';
import type { FailedAttempt } from '../../../src/gateways/gateway.ts';
import { canLeaveSilence, mayFallBackAfter, mayFallBackInstead, patienceMs } from '../../../src/processing/route.ts';
import {
  AFTER_5_S,
  DOUBTFUL,
  EAGER,
  NO_RESPONSE,
  ON_NEVER,
  ON_NOT_SENT,
  ON_POOL_TIMEOUT,
  POOL_TIMEOUT,
  REFUSED,
  UNKNOWN,
  UNPROVEN,
  UNREACHABLE,
} from './given.ts';

const FOR_EVER = Number.POSITIVE_INFINITY;
const OUTCOMES = [POOL_TIMEOUT, UNREACHABLE, REFUSED, DOUBTFUL, UNKNOWN, NO_RESPONSE, UNPROVEN];
const POLICIES = [ON_POOL_TIMEOUT, ON_NOT_SENT, ON_NEVER, AFTER_5_S, ...EAGER];

/** The outcomes after which the fallback gets its chance. */
function allowed(policy: FallbackConfig, ageMs: number): FailedAttempt[] {
  return OUTCOMES.filter((outcome) => mayFallBackAfter(outcome, ageMs, policy));
}

describe('mayFallBackAfter', () => {
  it('allows the fallback after a pool time-out under FALLBACK_ON=pool_timeout', () => {
    expect(allowed(ON_POOL_TIMEOUT, 1e9)).to.deep.equal([POOL_TIMEOUT]);
  });

  it('allows the fallback after every attempt that was not sent under FALLBACK_ON=not_sent', () => {
    expect(allowed(ON_NOT_SENT, 0)).to.deep.equal([POOL_TIMEOUT, UNREACHABLE]);
  });

  it('never allows the fallback under FALLBACK_ON=never', () => {
    expect(allowed(ON_NEVER, 1e9)).to.deep.equal([]);
    expect(allowed({ on: 'never', afterMs: 0 }, 1e9)).to.deep.equal([]);
  });

  it('allows the fallback after every attempt that is certainly unpaid from FALLBACK_AFTER_MS on', () => {
    expect(allowed(AFTER_5_S, 4_999)).to.deep.equal([POOL_TIMEOUT]);
    expect(allowed(AFTER_5_S, 5_000)).to.deep.equal([POOL_TIMEOUT, UNREACHABLE, REFUSED]);
    expect(allowed({ on: 'pool_timeout', afterMs: 0 }, 0)).to.deep.equal([POOL_TIMEOUT, UNREACHABLE, REFUSED]);
  });
});

describe('mayFallBackInstead', () => {
  const BUSY = { hasFreeConnection: false, wouldWaitInVain: false };
  const CROWDED = { hasFreeConnection: false, wouldWaitInVain: true };

  it('allows the fallback from FALLBACK_AFTER_MS on when no connection is free', () => {
    expect(mayFallBackInstead(4_999, AFTER_5_S, BUSY)).to.equal(false);
    expect(mayFallBackInstead(5_000, AFTER_5_S, BUSY)).to.equal(true);
  });

  it('does not allow the fallback with a free connection, however old the payment is', () => {
    for (const policy of POLICIES) {
      expect(mayFallBackInstead(1e9, policy, { ...CROWDED, hasFreeConnection: true })).to.equal(false);
    }
  });

  it('does not allow the fallback without FALLBACK_AFTER_MS, or under FALLBACK_ON=never', () => {
    for (const policy of [ON_POOL_TIMEOUT, ON_NOT_SENT, { on: 'never', afterMs: 0 } as const]) {
      expect(mayFallBackInstead(1e9, policy, BUSY)).to.equal(false);
    }
  });

  it('allows the fallback at any age when a wait for a connection would be in vain, but not under FALLBACK_ON=never', () => {
    for (const policy of [ON_POOL_TIMEOUT, ON_NOT_SENT, AFTER_5_S]) {
      expect(mayFallBackInstead(0, policy, CROWDED)).to.equal(true);
    }
    expect(mayFallBackInstead(1e9, ON_NEVER, CROWDED)).to.equal(false);
  });
});

describe('patienceMs', () => {
  const NOT_SENT = { evidence: 'not_sent' } as const;
  const RESPONSE = { evidence: 'response' } as const;
  const SILENCE = { evidence: 'no_response' } as const;

  it('is endless without FALLBACK_AFTER_MS', () => {
    for (const cause of [undefined, NOT_SENT, RESPONSE, SILENCE]) {
      expect(patienceMs(1e9, cause, ON_POOL_TIMEOUT)).to.equal(FOR_EVER);
    }
  });

  it('is none under FALLBACK_ON=not_sent while the primary is unreachable', () => {
    expect(patienceMs(0, NOT_SENT, ON_NOT_SENT)).to.equal(0);
    expect(patienceMs(0, NOT_SENT, { on: 'not_sent', afterMs: 5_000 })).to.equal(0);
  });

  it('is endless under FALLBACK_ON=not_sent while the primary fails in another way', () => {
    for (const cause of [undefined, RESPONSE, SILENCE]) {
      expect(patienceMs(1e9, cause, ON_NOT_SENT)).to.equal(FOR_EVER);
    }
  });

  it('is the time left until FALLBACK_AFTER_MS', () => {
    for (const cause of [undefined, NOT_SENT, RESPONSE, SILENCE]) {
      expect(patienceMs(0, cause, AFTER_5_S)).to.equal(5_000);
      expect(patienceMs(1_500, cause, AFTER_5_S)).to.equal(3_500);
      expect(patienceMs(5_000, cause, AFTER_5_S)).to.equal(0);
      expect(patienceMs(9_000, cause, AFTER_5_S)).to.equal(0);
    }
  });

  it('is endless under FALLBACK_ON=never', () => {
    expect(patienceMs(1e9, NOT_SENT, { on: 'never', afterMs: 0 })).to.equal(FOR_EVER);
  });
});

describe('canLeaveSilence', () => {
  it('is true only with FALLBACK_AFTER_MS and a fallback in use', () => {
    expect(canLeaveSilence(AFTER_5_S)).to.equal(true);
    expect(canLeaveSilence(ON_NOT_SENT)).to.equal(false);
    expect(canLeaveSilence({ on: 'never', afterMs: 0 })).to.equal(false);
  });
});
