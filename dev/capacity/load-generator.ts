import { randomUUID } from 'node:crypto';
import { createServer, type ServerResponse } from 'node:http';
import { runTool } from '../../src/process/run-tool.ts';
import { startPosting } from '../posting.ts';

/** What the API node has responded so far. */
export interface LoadCounts {
  readonly accepted: number;
  readonly notAccepted: number;
}

/** Enough that a node always has a batch to write. */
const CONNECTIONS = 100;

/**
 * Posts payments to the API node at TARGET_PORT as quickly as it responds, from its start on. Serves {@link LoadCounts} on PORT.
 * `/stop` serves them after the last response, and nothing more is posted.
 */
async function main(): Promise<void> {
  let accepted = 0;
  let notAccepted = 0;
  const posting = startPosting({
    port: Number(process.env['TARGET_PORT']),
    connections: CONNECTIONS,
    body: () => `{"correlationId":"${randomUUID()}","amount":19.9}`,
    onResponse(isAccepted) {
      if (isAccepted) accepted += 1;
      else notAccepted += 1;
    },
  });
  const respond = (response: ServerResponse) => {
    const counts: LoadCounts = { accepted, notAccepted };
    response.end(JSON.stringify(counts));
  };
  const server = createServer((request, response) => {
    if (request.url !== '/stop') return respond(response);
    posting.stop();
    void posting.ended.then(() => respond(response));
  });
  server.listen(Number(process.env['PORT']), '127.0.0.1', () => process.send?.('ready'));
  await posting.ended;
}

runTool(import.meta, main);
