import { lstatSync, unlinkSync } from 'node:fs';
import type { Server } from 'node:http';
import { connect } from 'node:net';

/**
 * Starts to listen at an address and a port, or, when `host` is a path, at a Unix socket that whoever can reach its
 * directory may use. A socket that a killed process has left is taken over; one at which somebody listens is not.
 * @throws the error of listening: it is taken, or not ours to take.
 */
export async function listen(server: Server, { host, port }: { host: string; port: number }): Promise<void> {
  if (!host.startsWith('/')) return listening(server, { host, port });
  const options = { path: host, readableAll: true, writableAll: true };
  try {
    await listening(server, options);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE' || !(await isAbandoned(host))) throw error;
    unlinkSync(host);
    await listening(server, options);
  }
}

function listening(server: Server, options: Parameters<Server['listen']>[0]): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(options, () => {
      server.off('error', reject);
      resolve();
    });
  });
}

/** A file that is no socket refuses connections, too, and is not ours to remove. */
async function isAbandoned(path: string): Promise<boolean> {
  if (!lstatSync(path).isSocket()) return false;
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(false);
    });
    socket.once('error', ({ code }: NodeJS.ErrnoException) => resolve(code === 'ECONNREFUSED'));
  });
}
