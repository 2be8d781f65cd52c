import { once } from 'node:events';
import { startProcess, temporaryDirectory } from '../../dev/local/processes.ts';
import { atTestEnd } from './cleanup.ts';

type Params = Readonly<Record<string, unknown>>;

interface Message {
  readonly id?: number;
  readonly method?: string;
  readonly params: Params;
  readonly result?: Params;
  readonly error?: { readonly message: string };
}

/** A tab of a browser, over the DevTools protocol. */
export interface Tab {
  /** The URL of each request that the tab has begun. */
  readonly requests: readonly string[];
  /** What the browser has reported about the page: blocked requests, violations of its policy, exceptions. */
  readonly complaints: readonly string[];
  /** What the page itself has written to `console.error`. */
  readonly consoleErrors: readonly string[];
  goTo(url: string): Promise<void>;
  /** The value of an expression in the page, which must be JSON. @throws an Error when the page throws. */
  evaluate<T>(expression: string): Promise<T>;
  /** From then on the page has this size, in CSS pixels. */
  resize(width: number, height: number, scheme?: 'light' | 'dark'): Promise<void>;
  /** What the page shows, as PNG. */
  screenshot(): Promise<Buffer>;
  /** Presses a key, as a person at the keyboard does. */
  press(key: 'Tab' | 'Enter' | 'Escape'): Promise<void>;
}

const KEY_CODES = { Tab: 9, Enter: 13, Escape: 27 };

/** Starts Chromium without a window and opens a tab. Both close after the test. Needs `chromium` on PATH. */
export async function openTab(): Promise<Tab> {
  let endpoint = '';
  const { child, exited } = await startProcess({
    command: 'chromium',
    args: [
      '--headless',
      // Chromium's sandbox does not start for root, nor in most containers.
      '--no-sandbox',
      '--disable-gpu',
      '--disable-dev-shm-usage',
      '--no-proxy-server',
      '--lang=en-US',
      '--window-size=1400,1000',
      `--user-data-dir=${temporaryDirectory('chromium')}`,
      '--remote-debugging-port=0',
      'about:blank',
    ],
    readyWhen: /DevTools listening on/,
    onLine: (line) => {
      endpoint ||= /DevTools listening on (\S+)/.exec(line)?.[1] ?? '';
    },
  });
  atTestEnd(async () => {
    child.kill('SIGKILL');
    await exited;
  });
  const socket = new WebSocket(endpoint);
  await once(socket, 'open');
  atTestEnd(() => socket.close());

  const requests: string[] = [];
  const complaints: string[] = [];
  const consoleErrors: string[] = [];
  const waiting = new Map<number, { resolve: (result: Params) => void; reject: (error: Error) => void }>();
  let sent = 0;
  let sessionId: unknown;
  const send = (method: string, params: Params = {}) =>
    new Promise<Params>((resolve, reject) => {
      sent += 1;
      waiting.set(sent, { resolve, reject });
      socket.send(JSON.stringify({ id: sent, method, params, sessionId }));
    });
  const onEvent: Readonly<Record<string, (params: Params) => void>> = {
    'Network.requestWillBeSent': ({ request }) => requests.push((request as { url: string }).url),
    'Network.loadingFailed': ({ errorText, blockedReason }) => {
      if (blockedReason !== undefined) complaints.push(`${blockedReason}: ${errorText}`);
    },
    'Log.entryAdded': ({ entry }) => {
      const { level, text, url = '' } = entry as { level: string; text: string; url?: string };
      // A page that names no icon, as a JSON text: the browser looks for one by itself.
      const isOwnSearch = url.endsWith('/favicon.ico');
      if (level === 'error' && !isOwnSearch) complaints.push(`${text} ${url}`);
    },
    'Runtime.consoleAPICalled': ({ type, args }) => {
      if (type === 'error') consoleErrors.push(JSON.stringify(args));
    },
    'Runtime.exceptionThrown': ({ exceptionDetails }) => complaints.push(JSON.stringify(exceptionDetails)),
  };
  socket.addEventListener('message', ({ data }) => {
    const { id, method, params, result, error } = JSON.parse(String(data)) as Message;
    if (method !== undefined) onEvent[method]?.(params);
    const call = waiting.get(id ?? 0);
    if (error === undefined) call?.resolve(result ?? {});
    else call?.reject(new Error(error.message));
    waiting.delete(id ?? 0);
  });

  const { targetId } = await send('Target.createTarget', { url: 'about:blank' });
  ({ sessionId } = await send('Target.attachToTarget', { targetId, flatten: true }));
  for (const domain of ['Network', 'Log', 'Runtime', 'Page']) await send(`${domain}.enable`);

  return {
    requests,
    complaints,
    consoleErrors,
    async goTo(url) {
      const { errorText } = await send('Page.navigate', { url });
      if (errorText !== undefined) throw new Error(`${url}: ${errorText}`);
    },
    async evaluate<T>(expression: string) {
      const { result, exceptionDetails } = await send('Runtime.evaluate', {
        expression,
        awaitPromise: true,
        returnByValue: true,
      });
      if (exceptionDetails !== undefined) throw new Error(JSON.stringify(exceptionDetails));
      return (result as { value: T }).value;
    },
    async resize(width, height, scheme = 'light') {
      await send('Emulation.setDeviceMetricsOverride', { width, height, deviceScaleFactor: 1, mobile: width < 500 });
      await send('Emulation.setEmulatedMedia', { features: [{ name: 'prefers-color-scheme', value: scheme }] });
    },
    async screenshot() {
      const { data } = await send('Page.captureScreenshot', { format: 'png', optimizeForSpeed: false });
      return Buffer.from(data as string, 'base64');
    },
    async press(key) {
      const event = { key, code: key, windowsVirtualKeyCode: KEY_CODES[key], ...(key === 'Enter' && { text: '\r' }) };
      await send('Input.dispatchKeyEvent', { type: 'keyDown', ...event });
      await send('Input.dispatchKeyEvent', { type: 'keyUp', ...event });
    },
  };
}
