import { type ClientRequest, Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import type { Duplex } from 'node:stream';
import type { RequestPhase } from './classify-attempt.ts';

interface Agents {
  readonly http: HttpAgent;
  readonly https: HttpsAgent;
}

/** The connections to one gateway. It knows which of them are ready for a request. */
export interface GatewayAgent {
  /** Keep-alive connections. */
  readonly keepAlive: Agents;
  /** A new connection for every request. */
  readonly fresh: Agents;
  /** How far a failed request got. Undefined: it failed before Node made it. */
  phaseOf(request: ClientRequest | undefined): RequestPhase;
  close(): void;
}

export interface GatewayAgentOptions {
  readonly poolSize: number;
  /**
   * How long a connection lives, in ms. Without a limit it would stay at the old address after a change in DNS, or at one bad
   * backend behind a load balancer.
   */
  readonly connectionMaxAgeMs: number;
}

export function createGatewayAgent({ poolSize, connectionMaxAgeMs }: GatewayAgentOptions): GatewayAgent {
  /**
   * New connections over which nothing can have been sent yet; with TLS, until the handshake has succeeded. A connection that
   * is not in this set counts as ready, which is the safe error: through a proxy Node makes some itself.
   */
  const connecting = new WeakSet<Duplex>();
  const expired = new WeakSet<Duplex>();

  function watched<A extends HttpAgent>(agent: A, readyEvent: 'connect' | 'secureConnect'): A {
    const createConnection = agent.createConnection.bind(agent);
    agent.createConnection = (...args) => {
      const socket = createConnection(...args);
      if (socket) watch(agent, socket, readyEvent);
      return socket;
    };
    // Node's type says void, but it returns whether the connection stays alive.
    const keepSocketAlive = agent.keepSocketAlive.bind(agent) as unknown as (socket: Duplex) => boolean;
    agent.keepSocketAlive = (socket) => !expired.has(socket) && keepSocketAlive(socket);
    return agent;
  }

  function watch(agent: HttpAgent, socket: Duplex, readyEvent: 'connect' | 'secureConnect'): void {
    connecting.add(socket);
    socket.once(readyEvent, () => connecting.delete(socket));
    const timer = setTimeout(() => {
      expired.add(socket);
      const isIdle = Object.values(agent.freeSockets).some((idle) => (idle as Duplex[] | undefined)?.includes(socket));
      if (isIdle) socket.destroy();
    }, connectionMaxAgeMs).unref();
    socket.once('close', () => clearTimeout(timer));
  }

  function agents({ keepAlive }: { keepAlive: boolean }): Agents {
    const options = { keepAlive, maxSockets: poolSize, maxFreeSockets: poolSize };
    return {
      http: watched(new HttpAgent(options), 'connect'),
      https: watched(new HttpsAgent(options), 'secureConnect'),
    };
  }

  const keepAlive = agents({ keepAlive: true });
  const fresh = agents({ keepAlive: false });
  return {
    keepAlive,
    fresh,
    phaseOf(request) {
      const socket = request?.socket;
      return !socket || connecting.has(socket) ? 'connecting' : 'connected';
    },
    close() {
      for (const { http, https } of [keepAlive, fresh]) {
        http.destroy();
        https.destroy();
      }
    },
  };
}
