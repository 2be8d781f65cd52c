import type { GatewayName } from '../src/payment.ts';
import { type GatewayBehaviour, gatewayAdmin } from './gateway-admin.ts';
import type { KeptService } from './keep-running.ts';
import type { ServiceProcess } from './local/service.ts';
import type { ProxyFault, TcpProxy } from './tcp-proxy.ts';

/** What `npm run break` can break, and into which state. */
export const PARTS = ['primary', 'fallback', 'redis', 'postgres', 'worker'] as const;
export const STATES = ['down', 'slow', 'ok'] as const;

export type Part = (typeof PARTS)[number];
export type State = (typeof STATES)[number];

export const USAGE = `usage: npm run break -- ${PARTS.join('|')} ${STATES.join('|')}`;

export function isPart(text: string | undefined): text is Part {
  return PARTS.some((part) => part === text);
}

export function isState(text: string | undefined): text is State {
  return STATES.some((state) => state === text);
}

/** Half of a gateway's and of a statement's time-out: everything still works, and everyone feels it. */
const SLOW_GATEWAY_MS = 500;
const SLOW_SERVER_MS = 200;

const GATEWAY: Readonly<Record<State, GatewayBehaviour>> = {
  down: { delayMs: 0, failure: true },
  slow: { delayMs: SLOW_GATEWAY_MS, failure: false },
  ok: { delayMs: 0, failure: false },
};

const NETWORK: Readonly<Record<State, ProxyFault>> = {
  down: { kind: 'refuse' },
  slow: { kind: 'delay', ms: SLOW_SERVER_MS },
  ok: { kind: 'none' },
};

const DONE: Readonly<Record<'gateway' | 'server' | 'worker', Readonly<Record<State, string>>>> = {
  gateway: {
    down: 'responds 500 to every payment',
    slow: `responds ${SLOW_GATEWAY_MS} ms late`,
    ok: 'responds at once',
  },
  server: {
    down: 'refuses connections; its data stay',
    slow: `replies ${2 * SLOW_SERVER_MS} ms late`,
    ok: 'replies at once',
  },
  worker: {
    down: 'was killed and does not start again before `ok`',
    slow: 'stands still for four fifths of the time',
    ok: 'runs',
  },
};

/** A worker that is stopped longer than it may keep a job's lock would lose the job to the next one. */
const STOPPED_MS = 400;
const GOING_MS = 100;

export interface BreakableParts {
  /** Undefined: not simulated. */
  readonly gatewayUrls: Readonly<Record<GatewayName, string>> | undefined;
  /** In front of the servers of our own. */
  readonly proxies: Readonly<Record<'redis' | 'postgres', TcpProxy | undefined>>;
  readonly worker: ServiceProcess;
  readonly keptWorker: KeptService;
}

export interface Breaker {
  /** @returns what the part does now. @throws an Error in one sentence when this part cannot be broken */
  set(part: Part, state: State): Promise<string>;
  /** Mends what keeps services from closing quickly. */
  close(): Promise<void>;
}

/** Breaks the parts of a running stack, and mends them. */
export function createBreaker({ gatewayUrls, proxies, worker, keptWorker }: BreakableParts): Breaker {
  let stopAndGo: NodeJS.Timeout | undefined;

  function endStopAndGo(): void {
    clearInterval(stopAndGo);
    stopAndGo = undefined;
    worker.signal('SIGCONT');
  }

  async function setWorker(state: State): Promise<void> {
    endStopAndGo();
    if (state === 'down') {
      await keptWorker.pause();
      await worker.kill();
      return;
    }
    await keptWorker.resume();
    if (state === 'ok') return;
    stopAndGo = setInterval(() => {
      worker.signal('SIGSTOP');
      setTimeout(() => worker.signal('SIGCONT'), STOPPED_MS);
    }, STOPPED_MS + GOING_MS);
  }

  return {
    async set(part, state) {
      switch (part) {
        case 'primary':
        case 'fallback':
          if (!gatewayUrls) throw notOurs(part);
          await gatewayAdmin(gatewayUrls[part]).configure(GATEWAY[state]);
          return `The ${part} ${DONE.gateway[state]}.`;
        case 'redis':
        case 'postgres': {
          const proxy = proxies[part];
          if (!proxy) throw notOurs(part);
          await proxy.set(NETWORK[state]);
          return `${part} ${DONE.server[state]}.`;
        }
        case 'worker':
          await setWorker(state);
          return `The worker ${DONE.worker[state]}.`;
      }
    },
    async close() {
      endStopAndGo();
      for (const proxy of Object.values(proxies)) await proxy?.set(NETWORK.ok);
    },
  };
}

function notOurs(part: Part): Error {
  return new Error(`The settings name another ${part}, and \`make run\` breaks only servers that it has started.`);
}
