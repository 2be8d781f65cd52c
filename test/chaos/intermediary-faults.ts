import { type IntermediaryMode, OWN_RESPONSES, type OwnResponse } from '../support/intermediary.ts';
import { type Fault, type GatewayKey, lasting, type Stage } from './faults.ts';

type ResponseName = keyof typeof OWN_RESPONSES;

/** What an intermediary may respond to a look-up, as it does not know the payment. */
const LOOK_UP_FAILURES = [
  'empty500',
  'empty502',
  'html502',
  'html503',
  'empty404',
  'html404',
  'welcome200',
  'empty200',
  'declined200',
  'declinedById200',
  'empty204',
  'redirect302',
] as const satisfies readonly ResponseName[];

/**
 * A payment is rejected after three declines over at least GATEWAY_REJECT_AFTER_MS (30 s) while others are paid: then a
 * proxy's JSON 400 looks exactly like the gateway's. So all such responses of an intermediary come within a shorter time.
 */
const DECLINES_WITHIN_MS = 25_000;

/**
 * 200s with JSON that a gateway could have sent, too. The same response before and after the charge would prove nothing. So
 * each of them has one meaning in a run.
 */
const PLAUSIBLE: readonly ResponseName[] = ['declined200', 'declinedById200', 'echo200'];

/** Intermediaries that respond in the gateway's place, before, during or after the charge. Each draw makes a new fault. */
export function intermediaryFaults(stage: Stage): { draw(): Fault } {
  const { random, intermediaries } = stage;
  const firstDeclineAtMs: Partial<Record<GatewayKey, number>> = {};
  const meanings = new Map(PLAUSIBLE.map((name) => [name, random.pick(['before', 'after'] as const)]));

  function drawResponse(on: readonly GatewayKey[], lastsS: number): readonly [ResponseName, OwnResponse] {
    const names = Object.keys(OWN_RESPONSES) as ResponseName[];
    const name = random.pick(names);
    if (name !== 'json400') return [name, OWN_RESPONSES[name]];
    const endsAtMs = performance.now() + lastsS * 1000;
    if (on.some((each) => endsAtMs - (firstDeclineAtMs[each] ?? endsAtMs) > DECLINES_WITHIN_MS)) {
      return ['html400', OWN_RESPONSES.html400];
    }
    for (const each of on) firstDeclineAtMs[each] ??= performance.now();
    return [name, OWN_RESPONSES[name]];
  }

  const set = (on: readonly GatewayKey[], mode: IntermediaryMode) => {
    for (const each of on) intermediaries[each].set(mode);
  };

  /** Responds to payments, and sometimes to look-ups, too. */
  function responds(on: readonly GatewayKey[]): Fault {
    const lastsS = random.between(1, 4);
    const [name, response] = drawResponse(on, lastsS);
    const when = meanings.get(name) ?? random.pick(['before', 'during', 'after'] as const);
    const every = random.pick([1, 1, 2, 3]);
    const lookUps = random.pick([undefined, ...LOOK_UP_FAILURES.slice(0, 6), undefined, undefined]);
    return {
      name: `${on.join(' and ')}: an intermediary responds ${name} ${when} the charge${every > 1 ? `, every ${every}.` : ''}${lookUps ? `, to look-ups ${lookUps}` : ''}`,
      on: `${on[0]}'s intermediary`,
      async run() {
        set(on, {
          payments: { when, response, every },
          ...(lookUps && { lookUps: { response: OWN_RESPONSES[lookUps] } }),
        });
        await lasting(stage, lastsS, lastsS);
        set(on, {});
      },
    };
  }

  /** Loses responses after the charge. Such a payment gets 422 when it is sent again, and then its look-up fails. */
  function hidesRecords(on: GatewayKey): Fault {
    const name = random.pick(LOOK_UP_FAILURES);
    const lookUps = { response: OWN_RESPONSES[name] };
    return {
      name: `${on}: an intermediary loses responses, and to look-ups it responds ${name}`,
      on: `${on}'s intermediary`,
      async run() {
        set([on], { payments: { when: 'after', response: OWN_RESPONSES.empty504, every: 2 }, lookUps });
        await lasting(stage, 0.5, 1.5);
        set([on], { lookUps });
        await lasting(stage, 2, 5);
        set([on], {});
      },
    };
  }

  return {
    draw() {
      const on = random.pick(['primary', 'primary', 'fallback'] as const);
      return random.pick([
        () => responds([on]),
        () => responds([on]),
        () => responds([on]),
        () => responds(['primary', 'fallback']),
        () => hidesRecords(on),
      ])();
    },
  };
}
