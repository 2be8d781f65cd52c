import { fileURLToPath } from 'node:url';
import type { Knex } from 'knex';
import { loadConfig } from './src/config.ts';
import { knexConfig } from './src/ledger/db.ts';

/** For the knex command line and for `npm run db:*`; the settings come from the same place as the service's. */
const config: Knex.Config = {
  ...knexConfig(loadConfig().database),
  migrations: {
    directory: fileURLToPath(new URL('./migrations', import.meta.url)),
    extension: 'ts',
    loadExtensions: ['.ts'],
  },
};

export default config;
