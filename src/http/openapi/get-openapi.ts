import { hash } from 'node:crypto';
import type { RequestHandler } from 'express';
import type { Config } from '../../config.ts';
import type { Route } from '../routes.ts';

/**
 * `GET /openapi.json`. The first request makes the document.
 * @param routes called with the first request, because the route of this handler is one of them
 */
export function getOpenApi(routes: () => readonly Route[], config: Config['http']): RequestHandler {
  let made: Promise<{ text: string; etag: string }> | undefined;
  return async (_request, response) => {
    made ??= import('./document.ts').then(({ createDocument }) => {
      const text = JSON.stringify(createDocument(routes(), config));
      return { text, etag: `"${hash('sha256', text).slice(0, 32)}"` };
    });
    const { text, etag } = await made;
    // Kept by clients, and compared before each use.
    response.set({ 'Cache-Control': 'no-cache', ETag: etag });
    response.type('json').send(text);
  };
}
