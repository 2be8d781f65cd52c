import express from 'express';

/** The yardstick of the accept path: the same Express, reading JSON by its own middleware, doing nothing, answering 204. */
const app = express();
app.disable('x-powered-by');
app.disable('etag');
app.use(express.json());
app.post('/payments', (_request, response) => {
  response.status(204).end();
});
app.listen(Number(process.env['PORT']), '127.0.0.1', () => console.log('listening'));
