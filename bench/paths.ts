import { fileURLToPath } from 'node:url';

/** The checkout: this file runs from .pitwarden/bench/. */
export const root = fileURLToPath(new URL('../../', import.meta.url));
export const built = fileURLToPath(new URL('./', import.meta.url));
export const python = `${root}.venv/bin/python`;
