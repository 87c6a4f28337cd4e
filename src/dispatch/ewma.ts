/** The exponentially weighted moving average after one more value; `weight` is the weight of the value. */
export function ewma(average: number, value: number, weight: number): number {
  return average * (1 - weight) + value * weight;
}
