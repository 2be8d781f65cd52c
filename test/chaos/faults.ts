import { setTimeout as sleep } from 'node:timers/promises';
import type { Stack } from '../../dev/stack.ts';
import type { ProxyFault, TcpProxy } from '../../dev/tcp-proxy.ts';
import type { Intermediary } from '../support/intermediary.ts';
import type { Clocks } from './clocks.ts';
import type { Random } from './random.ts';

/** The networks between the services and each server. */
export interface Proxies {
  readonly redis: TcpProxy;
  readonly postgres: TcpProxy;
  readonly primary: TcpProxy;
  readonly fallback: TcpProxy;
}

export type GatewayKey = 'primary' | 'fallback';

/** What the faults take hold of. */
export interface Stage {
  readonly stack: Required<Stack>;
  readonly proxies: Proxies;
  readonly intermediaries: Readonly<Record<GatewayKey, Intermediary>>;
  /** Whether the intermediaries may respond in the gateways' place; otherwise they only say what is true. */
  readonly areIntermediariesLying: boolean;
  readonly clocks: Clocks;
  readonly random: Random;
}

/** A fault that can be injected; two that touch the same thing never overlap. */
export interface Fault {
  readonly name: string;
  /** What it takes hold of. */
  readonly on: string;
  /** Injects it, waits, and takes it back. Resolves when everything is as before. */
  run(): Promise<void>;
}

/** Resolves after a random time of so many seconds. */
export function lasting({ random }: Pick<Stage, 'random'>, fromS: number, toS: number): Promise<void> {
  return sleep(random.between(fromS, toS) * 1000);
}

/** A fault of the network before a server, for so many seconds. */
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
      await stage.proxies[on].set(fault);
      await lasting(stage, fromS, toS);
      await stage.proxies[on].set({ kind: 'none' });
    },
  };
}
