import { parentPort, workerData } from 'node:worker_threads';
import { loadConfig } from './load.ts';
import type { LoadRequest } from './load-apart.ts';

// The thread that load-apart.ts starts.
const { file, env, overrides } = workerData as LoadRequest;
parentPort?.postMessage(await loadConfig(file, env, overrides));
