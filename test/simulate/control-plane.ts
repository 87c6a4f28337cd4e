import { isDeepStrictEqual } from 'node:util';
import type { Intent } from '../../src/domain/state.ts';
import { hold } from '../domain/invariants.ts';
import type { SimulatedAgent } from './agent.ts';
import type { Random } from './random.ts';

/** A control plane with leaders that come, go, and repeat themselves. It knows what agents have answered. */
export class ControlPlane {
  /** The newest intent that an agent has accepted. */
  #accepted: Intent | null = null;
  #newest = { epoch: 1, generation: 0 };

  /** Sends an intent, now and then an outdated one or the same again. */
  async send(agent: SimulatedAgent, random: Random): Promise<void> {
    const again = random.chance(0.2) ? this.#accepted : null;
    const intent = again ?? this.#draw(agent, random);
    const outcome = await agent.desired.set(intent, false);
    if (agent.isDead) return;
    const applied = agent.state.node.intent;
    if (outcome.kind === 'outdated') {
      hold(!isNewer(intent, applied), `${nameOf(intent)} was refused although ${nameOf(applied)} is in force`);
    } else if (outcome.kind === 'changed' || outcome.kind === 'unchanged') {
      hold(isDeepStrictEqual(applied, intent), `${nameOf(intent)} was accepted, and ${nameOf(applied)} is in force`);
      hold(!isNewer(this.#accepted, intent), `${nameOf(intent)} was accepted after ${nameOf(this.#accepted)}`);
      this.#accepted = intent;
    }
  }

  /** What was accepted holds for the next agent, whole, or what is newer. */
  nextAgent({ state }: SimulatedAgent): void {
    const { intent } = state.node;
    hold(!isNewer(this.#accepted, intent), `expected ${nameOf(this.#accepted)} or newer, got ${nameOf(intent)}`);
  }

  #draw(agent: SimulatedAgent, random: Random): Intent {
    if (random.chance(0.1)) this.#newest = { epoch: this.#newest.epoch + 1, generation: 1 };
    else this.#newest = { ...this.#newest, generation: this.#newest.generation + 1 };
    const { epoch, generation } = this.#newest;
    const names = [...agent.state.pools.keys()].filter(() => random.chance(0.7)).sort();
    const pools = names.map((pool) => ({ pool, size: random.int(0, 5), drained: random.chance(0.1) }));
    const [late, wasOther] = [random.chance(0.1), random.chance(0.1)];
    return {
      ...{ clusterUid: 'c', controller: 'r', released: false, drained: random.chance(0.05), pools },
      epoch: epoch - (wasOther ? 1 : 0),
      generation: Math.max(1, generation - (late ? 2 : 0)),
    };
  }
}

function isNewer(a: Intent | null, b: Intent | null): boolean {
  if (a === null) return false;
  return b === null || a.epoch > b.epoch || (a.epoch === b.epoch && a.generation > b.generation);
}

function nameOf(intent: Intent | null): string {
  return intent === null ? 'no intent' : `epoch ${intent.epoch}, generation ${intent.generation}`;
}
