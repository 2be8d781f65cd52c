import { setTimeout as sleep } from 'node:timers/promises';
import type { RedisTopology } from '../../dev/local/redis-topology.ts';
import type { Stack } from '../../dev/stack.ts';
import type { ProxyFault, TcpProxy } from '../../dev/tcp-proxy.ts';
import type { RedisConfig } from '../../src/config.ts';
import type { PaymentQueues } from '../../src/queue/shards.ts';
import type { Intermediary } from '../support/intermediary.ts';
import type { Clocks } from './clocks.ts';
import type { Random } from './random.ts';

/** The networks between the services and each server. */
export interface Proxies {
  /** Missing when Redis is on several machines: its servers name each other's addresses. */
  readonly redis: TcpProxy | undefined;
  readonly postgres: TcpProxy;
  readonly primary: TcpProxy;
  readonly fallback: TcpProxy;
}

export type GatewayKey = 'primary' | 'fallback';

/** Everything that faults act on. */
export interface Stage {
  readonly stack: Required<Stack>;
  readonly queues: PaymentQueues;
  /** Undefined: Redis is the stack's own single server. */
  readonly topology: RedisTopology | undefined;
  /** The way to Redis past all proxies. */
  readonly redis: RedisConfig;
  readonly proxies: Proxies;
  readonly intermediaries: Readonly<Record<GatewayKey, Intermediary>>;
  /** Whether the intermediaries may respond in the gateways' place. Otherwise their responses are true. */
  readonly areIntermediariesLying: boolean;
  /** Whether an operator stops a gateway and releases what it has not made, once, from the start of the run. */
  readonly hasOperator: boolean;
  readonly clocks: Clocks;
  readonly random: Random;
}

/** A fault to inject. Two faults on the same target never overlap. */
export interface Fault {
  readonly name: string;
  /** Its target: a server, a process or an intermediary. */
  readonly on: string;
  /** Injects the fault, waits, and takes it back. Resolves when everything is as before. */
  run(): Promise<void>;
}

/** Resolves after a random time between these bounds, in seconds. */
export function lasting({ random }: Pick<Stage, 'random'>, fromS: number, toS: number): Promise<void> {
  return sleep(random.between(fromS, toS) * 1000);
}

/** A fault of the network in front of a server. It lasts between `fromS` and `toS` seconds. */
export function networkFault(
  stage: Stage,
  on: keyof Proxies,
  name: string,
  fault: ProxyFault,
  [fromS, toS]: readonly [number, number],
): Fault {
  return {
    name: `${on} ${name}`,
    on,
    async run() {
      await stage.proxies[on]!.set(fault);
      await lasting(stage, fromS, toS);
      await stage.proxies[on]!.set({ kind: 'none' });
    },
  };
}
