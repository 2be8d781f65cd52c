import express from 'express';
import { runTool } from '../../src/process/run-tool.ts';

/** The yardstick of the accept path: the same Express, reading JSON by its own middleware, doing nothing, responding 204. */
async function main(): Promise<void> {
  const app = express();
  app.disable('x-powered-by');
  app.disable('etag');
  app.use(express.json());
  app.post('/payments', (_request, response) => {
    response.status(204).end();
  });
  app.listen(Number(process.env['PORT']), '127.0.0.1', () => process.send?.('ready'));
}

runTool(import.meta, main);
