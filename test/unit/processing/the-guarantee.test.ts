import { expect } from 'chai';
import sinon from 'sinon';
import type { FallbackConfig } from '../../../src/config.ts';
import type { FailedAttempt } from '../../../src/gateways/gateway.ts';
import { atTestEnd } from '../../support/cleanup.ts';
import {
  ACCEPTED_AT,
  AFTER_5_S,
  DOUBTFUL,
  EAGER,
  NO_RESPONSE,
  ON_NEVER,
  ON_POOL_TIMEOUT,
  POOL_TIMEOUT,
  REFUSED,
  UNKNOWN,
  UNPROVEN,
  UNREACHABLE,
} from './given.ts';
import { createWorld, randomFrom } from './random-world.ts';

const POLICIES: readonly FallbackConfig[] = [ON_POOL_TIMEOUT, AFTER_5_S, ...EAGER];
/** Outcomes that come together: one set often leads to the fallback, the others need many runs. */
const FAILURES: readonly (readonly FailedAttempt[])[] = [
  [POOL_TIMEOUT, UNREACHABLE, REFUSED, DOUBTFUL, UNKNOWN, NO_RESPONSE, UNPROVEN],
  [POOL_TIMEOUT, UNREACHABLE, POOL_TIMEOUT, UNKNOWN],
  [REFUSED, UNREACHABLE, NO_RESPONSE],
  [DOUBTFUL],
  [DOUBTFUL, POOL_TIMEOUT],
  [DOUBTFUL, REFUSED],
];
const SCENES = 2_500;
const MAX_RUNS = 20;

function fakeClock() {
  // The runs are driven by real turns of the event loop.
  const clock = sinon.useFakeTimers({
    now: ACCEPTED_AT,
    toFake: ['setTimeout', 'clearTimeout', 'Date', 'performance'],
  });
  atTestEnd(() => clock.restore());
  return clock;
}

async function untilRecorded(world: ReturnType<typeof createWorld>): Promise<void> {
  for (let run = 0; run < MAX_RUNS && world.recordedAt === undefined; run += 1) await world.oneRun();
}

describe('processPayment, whatever the gateways respond and wherever runs die or are overtaken', () => {
  it('never sends a payment to one gateway that may be paid at the other, and records it where it was paid', async () => {
    const clock = fakeClock();
    const total = { atPrimary: 0, atFallback: 0, doubts: 0, overtaken: 0, deaths: 0, deadLetters: 0, steered: 0 };
    for (let seed = 1; seed <= SCENES; seed += 1) {
      const random = randomFrom(seed);
      const hasCrashes = random() < 0.7;
      const world = createWorld({
        random,
        clock,
        policy: POLICIES[seed % POLICIES.length]!,
        failures: FAILURES[Math.floor(random() * FAILURES.length)]!,
        pays: 0.6 * random() ** 3,
        charges: random() < 0.5 ? 0 : 0.5,
        dies: hasCrashes ? 0.05 : 0,
        stops: hasCrashes ? 0.1 : 0,
        steers: random() < 0.4 ? 0.1 : 0,
        isRestored: false,
      });
      await untilRecorded(world);
      await world.endTrouble();
      await untilRecorded(world);
      expect(world.recordedAt, `seed ${seed}`).to.not.equal(undefined);
      expect(world.faults, `seed ${seed}`).to.deep.equal([]);
      expect(world.isCharged.primary && world.isCharged.fallback, `seed ${seed}`).to.equal(false);
      if (world.recordedAt === 'primary') total.atPrimary += 1;
      if (world.recordedAt === 'fallback') total.atFallback += 1;
      total.doubts += world.seen.doubts;
      total.overtaken += world.seen.overtaken;
      total.deaths += world.seen.deaths;
      total.deadLetters += world.seen.deadLetters;
      total.steered += world.seen.steered;
      clock.reset();
      clock.setSystemTime(ACCEPTED_AT);
    }
    // A case that did not occur was not tested.
    for (const [what, count] of Object.entries(total)) expect(count, what).to.be.at.least(50);
  }).timeout(60_000);

  it('sends no payment to the primary that the fallback has on record under FALLBACK_ON=never', async () => {
    const clock = fakeClock();
    let recorded = 0;
    for (let seed = 1; seed <= SCENES / 5; seed += 1) {
      const world = createWorld({
        random: randomFrom(seed),
        clock,
        policy: ON_NEVER,
        failures: FAILURES[0]!,
        pays: 0.5,
        charges: 0.5,
        dies: 0.05,
        stops: 0.1,
        steers: 0.05,
        isRestored: true,
      });
      await untilRecorded(world);
      await world.endTrouble();
      await untilRecorded(world);
      expect(world.recordedAt, `seed ${seed}`).to.not.equal(undefined);
      expect(world.faults, `seed ${seed}`).to.deep.equal([]);
      if (world.recordedAt === 'fallback') recorded += 1;
      clock.reset();
      clock.setSystemTime(ACCEPTED_AT);
    }
    expect(recorded).to.be.at.least(50);
  }).timeout(60_000);
});
