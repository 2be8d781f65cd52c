import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type StartedProcess, startProcess } from './processes.ts';

/** As `npm start` and the image have them. */
const NODE_FLAGS = ['--max-semi-space-size=8'];

const projectDir = fileURLToPath(new URL('../..', import.meta.url));

/** Compiled code is kept between starts, as in the image: half of the time of a start is compiling. */
const COMPILE_CACHE = join(projectDir, 'node_modules/.cache/compile');

/** One of the project's own programs, running as a child process. */
export interface ServiceProcess {
  readonly name: string;
  /** Undefined for a program that does not listen. */
  readonly url: string | undefined;
  readonly pid: number;
  readonly exited: Promise<number | null>;
  /** Starts it again after its end. `env` is added to its environment for this start. */
  start(env?: Readonly<Record<string, string>>): Promise<void>;
  /** Sends SIGTERM and resolves with the exit code. */
  stop(): Promise<number | null>;
  kill(): Promise<void>;
  signal(signal: NodeJS.Signals): void;
}

export interface ServiceOptions {
  name: string;
  script: string;
  env: Readonly<Record<string, string>>;
  port?: number;
  onLine?: ((line: string) => void) | undefined;
  nodeArgs?: readonly string[];
}

/**
 * Starts one of our programs with the Node that runs this one. Its environment is PATH and `env`.
 * Resolves when the program sends a message to its parent: `process.send?.('ready')`.
 * @throws an Error with its last lines when it ends, or takes too long, before that.
 */
export async function startService(options: ServiceOptions): Promise<ServiceProcess> {
  const { name, script, env, port, onLine, nodeArgs = [] } = options;
  let current: StartedProcess;

  async function start(extraEnv: Readonly<Record<string, string>> = {}): Promise<void> {
    current = await startProcess({
      command: process.execPath,
      args: [...NODE_FLAGS, ...nodeArgs, join(projectDir, script)],
      cwd: projectDir,
      env: {
        PATH: process.env['PATH'],
        NODE_COMPILE_CACHE: COMPILE_CACHE,
        ...env,
        ...(port !== undefined && { PORT: String(port) }),
        ...extraEnv,
      },
      readyWhen: 'message',
      onLine,
    });
  }
  async function end(signal: NodeJS.Signals): Promise<number | null> {
    current.child.kill(signal);
    current.child.kill('SIGCONT');
    return current.exited;
  }

  await start();
  return {
    name,
    url: port === undefined ? undefined : `http://127.0.0.1:${port}`,
    get pid() {
      return current.child.pid!;
    },
    get exited() {
      return current.exited;
    },
    start,
    stop: () => end('SIGTERM'),
    async kill() {
      await end('SIGKILL');
    },
    signal(signal) {
      current.child.kill(signal);
    },
  };
}
