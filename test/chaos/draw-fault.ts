import type { Fault, Stage } from './faults.ts';
import { gatewayFaults } from './gateway-faults.ts';
import { intermediaryFaults } from './intermediary-faults.ts';
import { postgresFaults } from './postgres-faults.ts';
import { processFaults } from './process-faults.ts';
import { redisFaults } from './redis-faults.ts';

/**
 * Draws a fault: first its kind, so that many faults of one kind do not make the others rare, then one of that kind. The
 * numbers in the names are those of the README's table.
 */
export function createFaults(stage: Stage): { draw(): Fault } {
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
  if (stage.areIntermediariesLying) {
    const { draw } = intermediaryFaults(stage);
    kinds.push(draw, draw);
  }
  return { draw: () => random.pick(kinds)() };
}
