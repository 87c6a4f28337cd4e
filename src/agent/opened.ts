import type { HttpServer } from '../telemetry/http.ts';
import type { RuntimeWatch } from './runtime-watch.ts';
import type { Tls } from './tls.ts';

/** The parts that a start opens last. A failed start closes those that were opened. */
export interface Opened {
  readonly tls: Tls;
  http: HttpServer | null;
  runtimeWatch: RuntimeWatch | null;
}
