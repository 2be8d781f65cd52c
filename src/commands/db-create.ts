import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { loadConfig } from '../config.ts';
import { runTool } from '../process/run-tool.ts';

/** How long to retry while other connections use the template database. */
const PATIENCE_MS = 30_000;
const PAUSE_MS = 200;

/** `npm run db:create`: creates the database of the settings unless it exists. Several processes may run it at once. */
async function main(): Promise<void> {
  const { url, ssl } = loadConfig().database;
  const name = decodeURIComponent(new URL(url).pathname.slice(1));
  const maintenance = new URL(url);
  maintenance.pathname = '/postgres';
  const client = new pg.Client({ connectionString: maintenance.href, ssl });
  await client.connect();
  try {
    console.log((await create(client, name)) ? `created database ${name}` : `database ${name} exists already`);
  } finally {
    await client.end();
  }
}

/** @returns false when the database exists already */
async function create(client: pg.Client, name: string): Promise<boolean> {
  const startedAt = performance.now();
  for (;;) {
    try {
      await client.query(`CREATE DATABASE ${client.escapeIdentifier(name)}`);
      return true;
    } catch (error) {
      const { code } = error as { code?: string };
      // PostgreSQL manual, appendix A. 42P04: it exists. 23505: another process created it at the same moment.
      if (code === '42P04' || code === '23505') return false;
      // 55006: another process is connected to the template, usually for a moment.
      if (code !== '55006' || performance.now() - startedAt > PATIENCE_MS) throw error;
    }
    await sleep(PAUSE_MS);
  }
}

runTool(import.meta, main);
