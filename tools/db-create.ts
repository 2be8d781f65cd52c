import pg from 'pg';
import { loadConfig } from '../src/config.ts';

/** `npm run db:create`: creates the database that the settings name, unless it is there. */
const { url, ssl } = loadConfig().database;
const name = decodeURIComponent(new URL(url).pathname.slice(1));
const maintenance = new URL(url);
maintenance.pathname = '/postgres';

const client = new pg.Client({ connectionString: maintenance.href, ssl });
await client.connect();
try {
  await client.query(`CREATE DATABASE ${client.escapeIdentifier(name)}`);
  console.log(`created database ${name}`);
} catch (error) {
  // 42P04: it exists (PostgreSQL manual, appendix A).
  if ((error as { code?: string }).code !== '42P04') throw error;
  console.log(`database ${name} is there already`);
} finally {
  await client.end();
}
