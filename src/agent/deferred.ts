/** A promise that is resolved from outside and knows whether it was. */
export interface Deferred<T> {
  readonly promise: Promise<T>;
  isResolved(): boolean;
  /** Only the first call has an effect. */
  resolve(value: T): void;
}

export function createDeferred<T>(): Deferred<T> {
  let settle = (_: T): void => undefined;
  let isResolved = false;
  const promise = new Promise<T>((done) => {
    settle = done;
  });
  return {
    promise,
    isResolved: () => isResolved,
    resolve: (value) => {
      isResolved = true;
      settle(value);
    },
  };
}
