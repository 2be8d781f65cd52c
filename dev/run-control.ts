import { createServer, request } from 'node:http';
import { text } from 'node:stream/consumers';
import { type Breaker, isPart, isState } from './breakage.ts';

/**
 * The commands that a running `make run` takes, over HTTP on a Unix socket: a browser cannot reach it, and the rights of its
 * directory say who may. `PUT /primary/down` responds with a sentence: 200 when it is done, 409 when it is not possible.
 */
export async function listenForCommands(socketPath: string, breaker: Breaker): Promise<{ close(): void }> {
  const server = createServer((req, res) => {
    const [, part, state] = (req.url ?? '').split('/');
    if (req.method !== 'PUT' || !isPart(part) || !isState(state)) {
      res.writeHead(404).end();
      return;
    }
    breaker.set(part, state).then(
      (sentence) => res.writeHead(200).end(sentence),
      (error: Error) => res.writeHead(409).end(error.message),
    );
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject);
    server.listen(socketPath, resolve);
  });
  return {
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}

/** Sends a command. @returns the sentence. @throws an Error with the sentence when it was not possible */
export async function sendCommand(socketPath: string, part: string, state: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath, method: 'PUT', path: `/${part}/${state}`, agent: false }, (response) => {
      void text(response).then((sentence) => {
        if (response.statusCode === 200) resolve(sentence);
        else reject(new Error(sentence));
      }, reject);
    });
    outgoing.once('error', reject).end();
  });
}
