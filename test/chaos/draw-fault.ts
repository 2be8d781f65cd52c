import type { Fault, Stage } from './faults.ts';
import { gatewayFaults } from './gateway-faults.ts';
import { intermediaryFaults } from './intermediary-faults.ts';
import { postgresFaults } from './postgres-faults.ts';
import { processFaults } from './process-faults.ts';
import { redisFaults } from './redis-faults.ts';

/** After so many draws without a match, a filter counts as one that no fault matches. */
const MAX_DRAWS = 10_000;

/**
 * Draws a fault whose name matches: first a kind, then a fault of that kind, so that many faults of one kind do not make the
 * others rare. The numbers in the names are those of the README's table.
 */
export function createFaults(stage: Stage, filter: RegExp): { draw(): Fault } {
  const { random } = stage;
  const gateways = gatewayFaults(stage);
  const processes = processFaults(stage);
  const redis = redisFaults(stage);
  const postgres = postgresFaults(stage);
  const kinds: (() => Fault)[] = [
    () => random.pick(gateways),
    () => random.pick(gateways),
    () => random.pick(processes),
    () => random.pick(redis),
    () => random.pick(postgres),
  ];
  // Redis on several machines is what such a run is about.
  if (stage.topology) kinds.push(() => random.pick(redis));
  if (stage.areIntermediariesLying) {
    const { draw } = intermediaryFaults(stage);
    kinds.push(draw, draw);
  }
  return {
    draw() {
      for (let draws = 0; draws < MAX_DRAWS; draws += 1) {
        const fault = random.pick(kinds)();
        if (filter.test(fault.name)) return fault;
      }
      throw new Error(`no fault of this run matches ${filter}`);
    },
  };
}
