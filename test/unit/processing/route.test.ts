import { expect } from 'chai';
import type { FallbackConfig } from '../../../src/config.ts';
import type { CircuitFailure } from '../../../src/gateways/circuit.ts';
import type { AttemptOutcome } from '../../../src/gateways/gateway.ts';
import { mayFallBackAfter, patienceMs } from '../../../src/processing/route.ts';

const NEVER = Number.POSITIVE_INFINITY;
const onPoolTimeout: FallbackConfig = { on: 'pool_timeout', afterMs: NEVER };
const onNotSent: FallbackConfig = { on: 'not_sent', afterMs: NEVER };
const after5s: FallbackConfig = { on: 'pool_timeout', afterMs: 5_000 };

const outcomes = {
  paid: { kind: 'paid', requestedAt: new Date(0) },
  'already paid': { kind: 'already_paid' },
  'pool time-out': { kind: 'not_sent', reason: 'pool_timeout', cause: '' },
  unreachable: { kind: 'not_sent', reason: 'unreachable', cause: '' },
  refused: { kind: 'refused', cause: '' },
  invalid: { kind: 'invalid', cause: '' },
  unknown: { kind: 'unknown', cause: '' },
} satisfies Record<string, AttemptOutcome>;

type OutcomeName = keyof typeof outcomes;
const outcomeNames = Object.keys(outcomes) as OutcomeName[];

describe('mayFallBackAfter', () => {
  const policies: [title: string, policy: FallbackConfig, ageMs: number, allowed: OutcomeName[]][] = [
    ['under FALLBACK_ON=pool_timeout', onPoolTimeout, 1e9, ['pool time-out']],
    ['under FALLBACK_ON=not_sent', onNotSent, 1e9, ['pool time-out', 'unreachable']],
    ['just before FALLBACK_AFTER_MS', after5s, 4_999, ['pool time-out']],
    ['from FALLBACK_AFTER_MS on', after5s, 5_000, ['pool time-out', 'unreachable', 'refused']],
    [
      'at once with FALLBACK_AFTER_MS=0',
      { on: 'pool_timeout', afterMs: 0 },
      0,
      ['pool time-out', 'unreachable', 'refused'],
    ],
  ];
  for (const [title, policy, ageMs, allowed] of policies) {
    for (const name of outcomeNames) {
      const isAllowed = allowed.includes(name);
      it(`${isAllowed ? 'allows' : 'refuses'} the fallback after ${name} ${title}`, () => {
        expect(mayFallBackAfter(outcomes[name], { primaryIsClean: true, ageMs }, policy)).to.equal(isAllowed);
      });
    }
  }

  for (const name of outcomeNames) {
    it(`refuses the fallback after ${name} while an attempt at the primary is unresolved, whatever the policy`, () => {
      for (const policy of [onPoolTimeout, onNotSent, after5s, { on: 'not_sent', afterMs: 0 } as const]) {
        expect(mayFallBackAfter(outcomes[name], { primaryIsClean: false, ageMs: 1e9 }, policy)).to.equal(false);
      }
    });
  }
});

describe('patienceMs', () => {
  type Row = [openBecause: CircuitFailure | undefined, policy: FallbackConfig, ageMs: number, patience: number];
  const clean: Row[] = [
    ['other', onPoolTimeout, 1e9, NEVER],
    ['not_sent', onPoolTimeout, 1e9, NEVER],
    [undefined, onPoolTimeout, 0, NEVER],
    ['not_sent', onNotSent, 0, 0],
    ['other', onNotSent, 0, NEVER],
    [undefined, onNotSent, 0, NEVER],
    ['other', after5s, 0, 5_000],
    ['not_sent', after5s, 1_500, 3_500],
    [undefined, after5s, 1_500, 3_500],
    ['other', after5s, 5_000, 0],
    ['other', after5s, 9_000, 0],
    ['not_sent', { on: 'not_sent', afterMs: 5_000 }, 0, 0],
    ['other', { on: 'not_sent', afterMs: 5_000 }, 0, 5_000],
  ];
  for (const [openBecause, policy, ageMs, patience] of clean) {
    const policyText = `FALLBACK_ON=${policy.on} and FALLBACK_AFTER_MS=${policy.afterMs}`;
    it(`is ${patience} at the age of ${ageMs} ms with the circuit open because ${openBecause}, ${policyText}`, () => {
      expect(patienceMs({ primaryIsClean: true, ageMs }, openBecause, policy)).to.equal(patience);
    });
  }

  it('is endless while an attempt at the primary is unresolved, whatever the policy', () => {
    for (const policy of [onPoolTimeout, onNotSent, after5s, { on: 'not_sent', afterMs: 0 } as const]) {
      expect(patienceMs({ primaryIsClean: false, ageMs: 1e9 }, 'not_sent', policy)).to.equal(NEVER);
    }
  });
});
