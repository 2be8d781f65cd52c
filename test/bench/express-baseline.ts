import express from 'express';

/** The baseline of the accept path: the same Express parses JSON with its own middleware and responds 204. */
const app = express();
app.disable('x-powered-by');
app.disable('etag');
app.use(express.json());
app.post('/payments', (_request, response) => {
  response.status(204).end();
});
app.listen(Number(process.env['PORT']), '127.0.0.1', () => console.log('listening'));
