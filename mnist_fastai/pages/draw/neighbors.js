// Which training images are nearest by features, and where among them a drawing lies on the map.

import { numbers } from "./arrays.js";

export const NEAREST = 10;
const PLACED = 3;  // whose median position is the place, as embedding.transform begins with

/** @typedef {{nearest: number[], place: number[]}} Found indices of images, nearest first, and x and y in [0, 1] */

/** @param {import("./arrays.js").SampleData} sample @returns {(features: Float32Array) => Found} */
export function makeNeighbors({ positions, mean, axes, features, scale }) {
  const [n, width] = features.shape, all = numbers(features), points = numbers(positions);
  const centre = numbers(mean), a = numbers(axes);
  /** @param {number[]} values */
  const median = values => values.sort((x, y) => x - y)[values.length >> 1] / 65535;
  return values => {
    const at = new Float64Array(width);
    /** @type {{i: number, d: number}[]} */
    const found = [];
    for (let i = 0; i < values.length; i++) {
      const v = (values[i] - centre[i]) / scale;
      for (let k = 0; k < width; k++) at[k] += v * a[i * width + k];
    }
    for (let i = 0; i < n; i++) {
      let sum = 0;
      for (let k = 0, j = i * width; k < width; k++, j++) sum += (all[j] - at[k]) * (all[j] - at[k]);
      if (found.length === NEAREST && sum >= found[NEAREST - 1].d) continue;
      found.splice(found.findLastIndex(({ d }) => d <= sum) + 1, 0, { i, d: sum });
      found.length = Math.min(found.length, NEAREST);
    }
    const nearest = found.map(({ i }) => i);
    const around = nearest.slice(0, PLACED);
    return { nearest, place: [0, 1].map(axis => median(around.map(i => points[2 * i + axis]))) };
  };
}
