/** Indentation stops growing at this depth: otherwise it would outgrow the text. */
const depthMax = 100;

/**
 * Lays out a JSON text like `JSON.stringify(value, null, 2)`, but without parsing its values: numbers beyond 2^53,
 * `1.0`, the order of keys and repeated keys stay as they were sent. Never throws; the layout of invalid JSON is
 * unspecified.
 */
export function layOut(json: string): string {
  const pieces: string[] = [];
  let depth = 0;
  let at = 0;
  const newLine = (): string => `\n${'  '.repeat(Math.max(0, Math.min(depth, depthMax)))}`;
  while (at < json.length) {
    const start = at;
    at = tokenEnd(json, start);
    const token = json.slice(start, at);
    if (token === '}' || token === ']') {
      depth -= 1;
      pieces.push(newLine(), token);
    } else if (token === '{' || token === '[') {
      const next = skipSpace(json, at);
      if (json[next] === (token === '{' ? '}' : ']')) {
        pieces.push(token, json.charAt(next));
        at = next + 1;
      } else {
        depth += 1;
        pieces.push(token, newLine());
      }
    } else if (token === ',') pieces.push(token, newLine());
    else if (token === ':') pieces.push(': ');
    else if (!isSpace(token)) pieces.push(token);
  }
  return pieces.join('');
}

function tokenEnd(json: string, start: number): number {
  const first = json.charAt(start);
  if ('{}[],:'.includes(first) || isSpace(first)) return start + 1;
  let end = start + 1;
  if (first === '"') {
    while (end < json.length && json[end] !== '"') end += json[end] === '\\' ? 2 : 1;
    return Math.min(end + 1, json.length);
  }
  while (end < json.length && !'{}[],:"'.includes(json.charAt(end)) && !isSpace(json.charAt(end))) end += 1;
  return end;
}

function skipSpace(json: string, from: number): number {
  let at = from;
  while (isSpace(json.charAt(at))) at += 1;
  return at;
}

function isSpace(character: string): boolean {
  return character === ' ' || character === '\n' || character === '\r' || character === '\t';
}
