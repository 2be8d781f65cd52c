import { randomInt } from 'node:crypto';
import { createServer } from 'node:net';

/**
 * Below the ports that the system gives to outgoing connections and to port 0 (from 32768 on with Linux' defaults, from 49152
 * on with those of macOS): another process could get such a port before its server listens, or while it is stopped. Above
 * 10080, the highest port on fetch's list of bad ports.
 */
let portRange = { first: 10_100, last: 32_767 };

/** For processes that run side by side: this one uses only the given part of the ports, counted from 0. */
export function takePortsOfPart(part: number, parts: number): void {
  const size = Math.floor((portRange.last - portRange.first) / parts);
  portRange = { first: portRange.first + part * size, last: portRange.first + (part + 1) * size - 1 };
}

/** Each port is given once, as its server may not listen yet or may be stopped. */
const givenPorts = new Set<number>();

/** A free port of 127.0.0.1. This process gives each port once. @throws an Error when none is left */
export async function freePort(): Promise<number> {
  while (givenPorts.size <= portRange.last - portRange.first) {
    const port = randomInt(portRange.first, portRange.last + 1);
    if (givenPorts.has(port)) continue;
    givenPorts.add(port);
    if (await isFreePort(port)) return port;
  }
  throw new Error(`no port from ${portRange.first} to ${portRange.last} is free`);
}

/** Whether one could listen at this port of 127.0.0.1 a moment ago. */
export async function isFreePort(port: number): Promise<boolean> {
  return (await listenError(port, '127.0.0.1')) === undefined;
}

/** The error of an attempt to listen there a moment ago, such as EADDRINUSE. Undefined when it succeeded. */
export function listenError(port: number, host: string): Promise<NodeJS.ErrnoException | undefined> {
  const server = createServer();
  return new Promise((resolve) => {
    server.once('error', resolve).listen(port, host, () => server.close(() => resolve(undefined)));
  });
}
