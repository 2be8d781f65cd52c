import type { ServiceProcess } from '../../dev/local/service.ts';
import { type Fault, lasting, type Stage } from './faults.ts';

const HOUR_MS = 3_600_000;

/** Our own processes are killed, stopped or shut down, or their clocks step. */
export function processFaults(stage: Stage): Fault[] {
  const { stack, clocks, random } = stage;
  const clock = () => ({ CLOCK_SHIFT_MS: String(random.pick([0, 0, HOUR_MS, -HOUR_MS])) });

  const onProcess = (service: ServiceProcess, name: string, run: () => Promise<void>): Fault => ({
    name: `${service.name} ${name}`,
    on: service.name,
    run,
  });
  const shutDown = (service: ServiceProcess) =>
    onProcess(service, 'is shut down (12, 22)', async () => {
      const code = await service.stop();
      await service.start(clock());
      if (code !== 0) throw new Error(`${service.name} ended with code ${code} after SIGTERM`);
    });
  const stepClock = (service: ServiceProcess) =>
    onProcess(service, 'has a clock that steps while it runs, and steps back (22)', async () => {
      clocks.step(service, random.pick([HOUR_MS, -HOUR_MS, 90_000, -90_000, -5_000]));
      await lasting(stage, 1, 5);
      clocks.step(service, 0);
    });

  const faults: Fault[] = [];
  for (const worker of stack.workers) {
    faults.push(
      onProcess(worker, 'is killed (9, 11)', async () => {
        await worker.kill();
        await lasting(stage, 0.1, 3);
        await worker.start(clock());
      }),
      onProcess(worker, 'is stopped past its locks (10)', async () => {
        worker.signal('SIGSTOP');
        await lasting(stage, 5.5, 9);
        worker.signal('SIGCONT');
      }),
      onProcess(worker, 'is stopped for a moment (10)', async () => {
        worker.signal('SIGSTOP');
        await lasting(stage, 0.2, 2);
        worker.signal('SIGCONT');
      }),
      shutDown(worker),
      stepClock(worker),
    );
  }
  for (const api of stack.apis) {
    faults.push(
      onProcess(api, 'is killed (20, 22)', async () => {
        await api.kill();
        await lasting(stage, 0.1, 1);
        await api.start(clock());
      }),
      shutDown(api),
      stepClock(api),
    );
  }
  return faults;
}
