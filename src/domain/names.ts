/** What names may look like, as patterns for JSON schemas and for regular expressions. */

export const poolNamePattern = '^[a-z][a-z0-9_-]{0,62}$';
/** Of nodes and of controllers. */
export const nodeIdPattern = '^[A-Za-z0-9][A-Za-z0-9._-]{0,252}$';
