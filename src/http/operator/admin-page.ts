import { hash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { type RequestHandler, Router } from 'express';
import { MethodNotAllowedError, NotFoundError } from '../../errors.ts';

/** The path of the operator's page. Its files, its API (admin-api/) and bull-board are below. */
export const ADMIN_PATH = '/admin';

/** By the name below {@link ADMIN_PATH}, with the type. They run in the browser as they are. */
const FILES: Readonly<Record<string, readonly [type: string, url: URL]>> = {
  '': ['html', own('page.html')],
  'page.css': ['css', own('page.css')],
  'page.js': ['js', own('page.js')],
  'tables.js': ['js', own('tables.js')],
  'plot.js': ['js', own('plot.js')],
  'dom.js': ['js', own('dom.js')],
  'problems.js': ['js', own('problems.js')],
  'actions.js': ['js', own('actions.js')],
  'acts.js': ['js', own('acts.js')],
  'payment.js': ['js', own('payment.js')],
  'dead-letters.js': ['js', own('dead-letters.js')],
  // The page shows its headings for the problems.
  'runbook.md': ['text/markdown; charset=utf-8', new URL('../../../docs/runbook.md', import.meta.url)],
};

interface File {
  readonly content: Buffer;
  readonly etag: string;
}

/**
 * `GET /admin`: one page, without a build step and without another host. The first request of a file reads it, and the process
 * keeps it. A browser asks each time whether its copy is still right.
 */
export function adminPage(): RequestHandler {
  const files = new Map<string, Promise<File>>();
  const router = Router();
  router.all('/{*file}', async ({ method, params, originalUrl }, response) => {
    if (method !== 'GET' && method !== 'HEAD') throw new MethodNotAllowedError(['GET', 'HEAD']);
    const name = ((params['file'] as unknown as string[] | undefined) ?? []).join('/');
    const known = Object.hasOwn(FILES, name) ? FILES[name]! : undefined;
    if (known === undefined) throw new NotFoundError('no such file of the page');
    if (name === '' && /^[^?]*\/(\?|$)/.test(originalUrl)) return response.redirect(308, ADMIN_PATH);
    const [type, url] = known;
    if (!files.has(name)) files.set(name, read(url));
    // A read that failed is tried again with the next request.
    files.get(name)!.catch(() => files.delete(name));
    const { content, etag } = await files.get(name)!;
    response.set({ 'Cache-Control': 'private, no-cache', ETag: etag });
    response.type(type).send(content);
  });
  return router;
}

function own(name: string): URL {
  return new URL(`./admin/${name}`, import.meta.url);
}

async function read(url: URL): Promise<File> {
  const content = await readFile(url);
  return { content, etag: `"${hash('sha256', content).slice(0, 32)}"` };
}
