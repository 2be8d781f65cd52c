import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { type RequestHandler, Router } from 'express';
import { MethodNotAllowedError, NotFoundError } from '../../errors.ts';

/** The path of the page and of its files. */
export const DOCS_PATH = '/docs';

/**
 * `GET /docs`: Swagger UI over `/openapi.json`. It only shows: a button that sends would pay or purge.
 *
 * The first request of a file reads it from the package `swagger-ui-dist`, 1.9 MB in all, and the process keeps it.
 */
export function docsPage(): RequestHandler {
  const files = new Map<string, Promise<Buffer | string>>();
  const router = Router();
  router.all('/{*file}', async ({ method, params }, response) => {
    if (method !== 'GET' && method !== 'HEAD') throw new MethodNotAllowedError(['GET', 'HEAD']);
    const name = ((params['file'] as unknown as string[] | undefined) ?? []).join('/');
    const file = Object.hasOwn(FILES, name) ? FILES[name]! : undefined;
    if (file === undefined) throw new NotFoundError('no such file of the page');
    if (!files.has(name)) files.set(name, file.read());
    // A read that failed is tried again with the next request.
    files.get(name)!.catch(() => files.delete(name));
    response.setHeader('Cache-Control', name === '' ? 'no-cache' : 'private, max-age=3600');
    response.type(file.type).send(await files.get(name));
  });
  return router;
}

const ofPackage = (name: string) => () => readFile(fileURLToPath(import.meta.resolve(`swagger-ui-dist/${name}`)));

/** By the path below {@link DOCS_PATH}. The policy for pages allows no script in the page itself. */
const FILES: Readonly<Record<string, { readonly type: string; read(): Promise<Buffer | string> }>> = {
  '': {
    type: 'html',
    read: async () => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Payrelay: API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="${DOCS_PATH}/swagger-ui.css">
<style>body { margin: 0 } .auth-wrapper, .authorization__btn, .scheme-container { display: none }</style>
</head>
<body>
<div id="page"></div>
<script src="${DOCS_PATH}/swagger-ui-bundle.js"></script>
<script src="${DOCS_PATH}/show.js"></script>
</body>
</html>
`,
  },
  'swagger-ui.css': { type: 'css', read: ofPackage('swagger-ui.css') },
  'swagger-ui-bundle.js': { type: 'js', read: ofPackage('swagger-ui-bundle.js') },
  'show.js': {
    type: 'js',
    read: async () => `SwaggerUIBundle({
  url: '/openapi.json',
  dom_id: '#page',
  deepLinking: true,
  supportedSubmitMethods: [],
  validatorUrl: null,
});
`,
  },
};
