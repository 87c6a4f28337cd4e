import type { HttpServer } from '../telemetry/http.ts';
import type { RuntimeWatch } from './runtime-watch.ts';

/** What a start opens last. A start that fails closes what is there. */
export interface Opened {
  http: HttpServer | null;
  runtime: RuntimeWatch | null;
}
