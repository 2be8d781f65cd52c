import { type GatewayBehaviour, gatewayAdmin } from '../../dev/gateway-admin.ts';
import { type Fault, type GatewayKey, lasting, networkFault, type Stage } from './faults.ts';

const WELL: GatewayBehaviour = { delayMs: 0, failure: false };

/** Gateways that fail, are slow or respond 429, and the network in front of them. */
export function gatewayFaults(stage: Stage): Fault[] {
  const { stack, intermediaries } = stage;

  const gateway = (on: GatewayKey, name: string, behaviour: GatewayBehaviour): Fault => ({
    name: `${on} ${name}`,
    on,
    async run() {
      await gatewayAdmin(stack[on].url!).configure(behaviour);
      await lasting(stage, 1, 5);
      await gatewayAdmin(stack[on].url!).configure(WELL);
    },
  });
  /** A 429 like the gateway's own. It is true, as the gateway does not get the request. */
  const busy = (on: GatewayKey, retryAfter: () => string): Fault => {
    const intermediary = intermediaries[on];
    return {
      name: `${on} responds 429 with Retry-After (6)`,
      on: `${on}'s intermediary`,
      async run() {
        const response = { status: 429, headers: { 'retry-after': retryAfter() }, body: 'Too many requests.' };
        intermediary.set({ payments: { response, every: stage.random.pick([1, 2]) } });
        await lasting(stage, 1, 4);
        intermediary.set({});
      },
    };
  };

  const both = [stack.primary, stack.fallback].map(({ url }) => gatewayAdmin(url!));
  const faults: Fault[] = [];
  for (const on of ['primary', 'fallback'] as const) {
    faults.push(
      gateway(on, 'responds 500 (1)', { delayMs: 0, failure: true }),
      gateway(on, 'is slower than the time-out (2)', { delayMs: 1_500, failure: false }),
      gateway(on, 'is slow and then fails (2)', { delayMs: 1_300, failure: true }),
      gateway(on, 'is a little slow', { delayMs: 80, failure: false }),
      busy(on, () => String(stage.random.pick([1, 2, 3]))),
      busy(on, () => new Date(Date.now() + 2_000).toUTCString()),
      networkFault(stage, on, 'refuses connections (3)', { kind: 'refuse' }, [0.5, 4]),
      networkFault(stage, on, 'loses its responses (4)', { kind: 'cut_replies' }, [0.3, 2]),
      networkFault(stage, on, 'resets instead of responding (4)', { kind: 'reset_replies' }, [0.3, 2]),
      networkFault(stage, on, 'is a black hole (5)', { kind: 'black_hole' }, [0.5, 3]),
      networkFault(stage, on, 'is half-open (5)', { kind: 'half_open' }, [0.5, 3]),
    );
  }
  faults.push({
    // A small queue is full (8) soon after.
    name: 'both gateways respond 500 (7)',
    on: 'primary',
    async run() {
      await Promise.all(both.map((each) => each.configure({ delayMs: 50, failure: true })));
      await lasting(stage, 2, 6);
      await Promise.all(both.map((each) => each.configure(WELL)));
    },
  });
  return faults;
}
