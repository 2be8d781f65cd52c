import { Redis } from 'ioredis';
import { type Fault, lasting, networkFault, type Stage } from './faults.ts';
import { topologyFaults } from './topology-faults.ts';

/** Redis is restarted, killed, hangs, or replies errors. */
export function redisFaults(stage: Stage): Fault[] {
  return stage.topology
    ? [...topologyFaults(stage, stage.topology), ...faultsByCommand(stage, stage.topology.primaryUrl)]
    : singleServerFaults(stage);
}

function singleServerFaults(stage: Stage): Fault[] {
  const { proxies } = stage;
  const redis = stage.stack.redis!;
  const url = async () => redis.url;

  return [
    onRedis('is restarted (13)', async () => {
      await redis.stop();
      await redis.start();
    }),
    onRedis('is killed and down for a while (13, 14)', async () => {
      await redis.kill();
      await lasting(stage, 0.5, 7);
      await redis.start();
    }),
    onRedis('is killed during an fsync (16)', async () => {
      await command(url, (client) => untilFsync(client));
      await redis.kill();
      await redis.start();
    }),
    onRedis('is killed while it rewrites its file (16)', async () => {
      await command(url, async (client) => {
        // Redis may have started a rewrite by itself.
        if (!(await client.info('persistence')).includes('aof_rewrite_in_progress:1')) await client.bgrewriteaof();
        await lasting(stage, 0, 0.3);
      });
      await redis.kill();
      await redis.start();
    }),
    onRedis('hangs (15)', async () => {
      redis.signal('SIGSTOP');
      await lasting(stage, 0.5, 3);
      redis.signal('SIGCONT');
    }),
    ...faultsByCommand(stage, url),
    onRedis('kills all connections (23)', async () => {
      proxies.redis!.resetAll();
    }),
    networkFault(stage, 'redis', 'loses its replies (23)', { kind: 'cut_replies' }, [0.2, 1]),
    networkFault(stage, 'redis', 'is a black hole (15)', { kind: 'black_hole' }, [0.5, 3]),
  ];
}

/** Faults that a command to the server causes, also to the primary of several. @param url where it is now */
function faultsByCommand(stage: Stage, url: () => Promise<string>): Fault[] {
  const { random } = stage;
  const configured = (name: string, setting: string, value: string, usual: string): Fault =>
    onRedis(name, () =>
      command(url, async (client) => {
        await client.config('SET', setting, value);
        await lasting(stage, 0.5, 3);
        await client.config('SET', setting, usual);
      }),
    );
  const withoutRight = (rule: string): Fault =>
    onRedis(`takes away the right to ${rule} (17)`, () =>
      command(url, async (client) => {
        await client.acl('SETUSER', 'default', `-${rule}`);
        await lasting(stage, 0.5, 4);
        await client.acl('SETUSER', 'default', '+@all');
      }),
    );

  return [
    onRedis('pauses its writes (15)', async () => {
      const pauseMs = Math.round(random.between(500, 3_000));
      await command(url, (client) => client.client('PAUSE', pauseMs, 'WRITE'));
      await lasting(stage, pauseMs / 1000, pauseMs / 1000);
    }),
    configured('is out of memory (17)', 'maxmemory', '1mb', '0'),
    // More than any topology has.
    configured('has too few replicas (17)', 'min-replicas-to-write', '9', '0'),
    withoutRight('@scripting'),
    withoutRight('info'),
    withoutRight('@write'),
  ];
}

function onRedis(name: string, run: () => Promise<void>): Fault {
  return { name: `redis ${name}`, on: 'redis', run };
}

/** Runs commands over a connection of its own, not through the proxy. */
async function command(url: () => Promise<string>, run: (client: Redis) => Promise<unknown>): Promise<void> {
  const client = new Redis(await url());
  try {
    await run(client);
  } finally {
    client.disconnect();
  }
}

/** How long to wait for an fsync in the background. With `appendfsync always` there is none, so the kill comes at any time. */
const FSYNC_PATIENCE_MS = 2_000;

/**
 * Resolves while Redis syncs its file in the background. Under `everysec`, what it confirms until then is in no file.
 */
async function untilFsync(client: Redis): Promise<void> {
  const deadline = performance.now() + FSYNC_PATIENCE_MS;
  while (performance.now() < deadline) {
    if ((await client.info('persistence')).includes('aof_pending_bio_fsync:1')) return;
  }
}
