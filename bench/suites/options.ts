export interface SuiteOptions {
  readonly rounds: number;
  /** Of one measurement. */
  readonly seconds: number;
  /** Only the settings whose title holds this. */
  readonly only: string | undefined;
}
