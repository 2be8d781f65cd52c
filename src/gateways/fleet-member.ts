import type { GatewayName } from '../payment.ts';
import { GATEWAYS } from '../telemetry/labels.ts';
import type { Circuit } from './circuit.ts';
import { type FromAnother, hear } from './fleet.ts';
import { NEW_PROBE_EVERY_MS } from './probes.ts';

/** One worker of the fleet: what it says, what it does about what it hears, and whether it may take payments. */
export interface FleetMember {
  /** What this worker tells the others, as text. */
  report(): string;
  /** @param askedAtMs when the others were asked, in ms of `performance.now()` */
  hear(others: readonly FromAnother[], askedAtMs: number): void;
  /** A gateway gets no new payments from this worker. */
  readonly isDown: boolean;
  /** False while it fails alone at the primary: the other workers could pay what it takes. */
  readonly isUsable: boolean;
  /** While it is not usable: whether it may take one payment now, as a probe. */
  readonly mayTakeOne: boolean;
  /** Resolves when it may take payments, or one. */
  whenUsable(): Promise<void>;
  /** It has taken a payment. */
  taken(): void;
  close(): void;
}

/** Among all live workers, this one included. */
export interface Standing {
  /** From 0. */
  readonly rank: number;
  readonly workers: number;
}

/** How often a worker that fails alone checks whether it may take a payment. In memory. */
const LOOK_EVERY_MS = 100;

export function joinFleet({
  circuits,
  divide,
  standing,
}: {
  circuits: Readonly<
    Record<GatewayName, Pick<Circuit, 'told' | 'hear' | 'cause' | 'alone' | 'steered' | 'isAccepting'>>
  >;
  /** Takes this worker's share of GATEWAY_MAX_IN_FLIGHT. */
  divide: (standing: Standing) => void;
  /** Undefined: not known yet. */
  standing: () => Standing | undefined;
}): FleetMember {
  const { primary } = circuits;
  let lastTakenAtMs = Number.NEGATIVE_INFINITY;
  let isClosed = false;

  const member: FleetMember = {
    report: () => JSON.stringify({ primary: primary.told(), fallback: circuits.fallback.told() }),
    hear(others, askedAtMs) {
      const known = standing();
      if (known) divide(known);
      const heard = hear(others, askedAtMs);
      for (const gateway of GATEWAYS) circuits[gateway].hear(heard[gateway]);
    },
    get isDown() {
      return GATEWAYS.some((gateway) => circuits[gateway].cause !== undefined);
    },
    // Nobody probes a gateway that an operator has stopped.
    get isUsable() {
      return primary.alone === undefined || primary.steered !== 'open';
    },
    // The circuit learns of the payment only when it comes there, so the time of its taking counts, too.
    get mayTakeOne() {
      return primary.isAccepting && performance.now() - lastTakenAtMs >= NEW_PROBE_EVERY_MS;
    },
    async whenUsable() {
      while (!isClosed && !member.isUsable && !member.mayTakeOne) {
        await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY_MS).unref());
      }
    },
    taken() {
      if (!member.isUsable) lastTakenAtMs = performance.now();
    },
    close() {
      isClosed = true;
    },
  };
  return member;
}
