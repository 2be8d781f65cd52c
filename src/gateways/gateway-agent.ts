import { type ClientRequest, Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent } from 'node:https';
import type { Duplex } from 'node:stream';
import type { RequestPhase } from './classify-attempt.ts';

interface Agents {
  readonly http: HttpAgent;
  readonly https: HttpsAgent;
}

/** Connections to one gateway, of which it is known how far each has come. */
export interface GatewayAgent {
  /** Keep-alive connections. */
  readonly kept: Agents;
  /** A new connection for every request. */
  readonly fresh: Agents;
  /** How far a request that failed had come. Undefined: it failed before it was even made. */
  phaseOf(request: ClientRequest | undefined): RequestPhase;
  close(): void;
}

export interface GatewayAgentOptions {
  readonly poolSize: number;
  /**
   * How long a connection lives, in ms. Kept for ever, it would stay at an old address after a change of DNS, or at one bad
   * backend behind a balancer.
   */
  readonly connectionMaxAgeMs: number;
}

export function createGatewayAgent({ poolSize, connectionMaxAgeMs }: GatewayAgentOptions): GatewayAgent {
  /**
   * New connections that no request can have been sent over yet: for TLS, its handshake has not succeeded. A connection that
   * is not known here (Node makes some by itself, through a proxy) counts as ready: that errs to the safe side.
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
    // Node types it as void; it returns whether the connection is kept.
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

  function agents(keepAlive: boolean): Agents {
    const options = { keepAlive, maxSockets: poolSize, maxFreeSockets: poolSize };
    return {
      http: watched(new HttpAgent(options), 'connect'),
      https: watched(new HttpsAgent(options), 'secureConnect'),
    };
  }

  const [kept, fresh] = [agents(true), agents(false)];
  return {
    kept,
    fresh,
    phaseOf(request) {
      const socket = request?.socket;
      return !socket || connecting.has(socket) ? 'connecting' : 'connected';
    },
    close() {
      for (const { http, https } of [kept, fresh]) {
        http.destroy();
        https.destroy();
      }
    },
  };
}
