import { readFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';

/** Of `make run` and what reads its state, in the current directory: npm and make set it to the project's. */
export const RUN_DIRECTORY = '.run';

const STATE_FILE = join(RUN_DIRECTORY, 'state.json');

/** What `make run` writes to `.run/state.json` while it runs. It has no passwords. */
export interface RunState {
  readonly pids: Readonly<Record<string, number>>;
  readonly apiUrl: string;
  /** The Unix socket on which `make run` takes the commands of `npm run break`. Nobody listens there after its end. */
  readonly control: string;
  /** The settings of API and worker, except those in `withheld`. */
  readonly settings: Readonly<Record<string, string>>;
  /** Settings that are set and may be secrets. */
  readonly withheld: readonly string[];
}

/** A command found no services to use. The message is one sentence that says what to do. */
export class NoServicesError extends Error {}

/** The state of the `make run` of this directory. Undefined when none runs, also when one has left its file behind. */
export async function findRun(directory = process.cwd()): Promise<RunState | undefined> {
  const state = readState(join(directory, STATE_FILE));
  return state !== undefined && (await isListening(state.control)) ? state : undefined;
}

function readState(path: string): RunState | undefined {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as RunState;
  } catch {
    // There is none, or a crash has cut it.
    return undefined;
  }
}

/** Not by pid: the system may have given it to another process since. */
function isListening(socketPath: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(socketPath);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', () => resolve(false));
  });
}

/** A command uses the environment when it names any of these servers, and a running `make run` otherwise. */
const NAMING = [
  'REDIS_URL',
  'REDIS_HOST',
  'REDIS_CLUSTER_NODES',
  'REDIS_SENTINELS',
  'DATABASE_URL',
  'DB_HOST',
  'GATEWAY_PRIMARY_URL',
  'GATEWAY_FALLBACK_URL',
];

/**
 * The settings for a command that an operator runs: the environment if it names a server, otherwise those of a running
 * `make run`, under the environment's.
 * @throws NoServicesError when there is neither, or when `make run` uses a server with a password
 */
export async function settingsOrRun(
  env: NodeJS.ProcessEnv = process.env,
  directory = process.cwd(),
): Promise<NodeJS.ProcessEnv> {
  const isSet = (name: string) => (env[name] ?? '') !== '';
  if (NAMING.some(isSet)) return env;
  const run = await findRun(directory);
  if (run === undefined) {
    throw new NoServicesError(
      'No `make run` is running here, and no setting names a server: start it, or set REDIS_URL, DATABASE_URL, GATEWAY_PRIMARY_URL and GATEWAY_FALLBACK_URL.',
    );
  }
  const missing = run.withheld.filter((name) => !isSet(name));
  if (missing.length > 0) {
    throw new NoServicesError(
      `The running \`make run\` was given ${missing.join(', ')}, and its state has no secrets: set the same here.`,
    );
  }
  const own = Object.fromEntries(Object.entries(env).filter(([name]) => isSet(name)));
  return { ...run.settings, ...own };
}
