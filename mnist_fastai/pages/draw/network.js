// The network: forward, and backward to its input. Maps are [height, width, channels], so that the innermost loops run
// over channels; inputs that are 0, as a ReLU leaves most, are left out, and the others are taken four at a time, which
// is three times as fast as one at a time.

import { numbers } from "./arrays.js";

/** @typedef {import("./arrays.js").LayerData} LayerData */
/** @typedef {{h: number, w: number, c: number, a: Float32Array<ArrayBuffer>}} Maps */
/** @typedef {{kind: LayerData["kind"], stride: number[], padding: number[], size: number[], inputs: number,
 *   outputs: number, weight: Float32Array<ArrayBuffer>, bias: Float32Array<ArrayBuffer>}} Layer a Linear is a convolution
 *   of 1×1 */

/** The products of one sum: values that are not 0, and where in the weights each one's begin. */
let values = new Float64Array(0), starts = new Int32Array(0);

/** @param {LayerData} data @returns {Layer} */
export function unpack({ kind, weight, scale, bias, stride = [1, 1], padding = [0, 0], size = [1, 1] }) {
  const none = new Float32Array(0);
  if (!weight || !scale || !bias) return { kind, stride, padding, size, inputs: 0, outputs: 0, weight: none, bias: none };
  const all = numbers(weight), scales = numbers(scale), outputs = scales.length, shape = weight.shape;
  for (let i = 0; i < all.length; i++) all[i] *= scales[i % outputs];
  const most = Math.max(all.length / outputs, outputs) + 3;
  if (values.length < most) [values, starts] = [new Float64Array(most), new Int32Array(most)];
  return { kind, stride, padding, size: kind === "conv" ? shape.slice(0, 2) : [1, 1], inputs: shape[shape.length - 2], outputs,
    weight: all, bias: numbers(bias) };
}

/** The layers with random weights, by PyTorch's default: uniform in ±1/√fan-in. @param {Layer[]} layers */
export function randomize(layers) {
  return layers.map(layer => {
    const bound = 1 / Math.sqrt(layer.inputs * layer.size[0] * layer.size[1]);
    const random = () => bound * (2 * Math.random() - 1);
    return { ...layer, weight: layer.weight.map(random), bias: layer.bias.map(random) };
  });
}

/**
 * The output of each layer, the input before them.
 * @param {Layer[]} layers @param {Uint8Array} pixels 28×28 @param {number} mean @param {number} std @returns {Maps[]}
 */
export function forward(layers, pixels, mean, std) {
  /** @type {Maps} */
  let x = { h: 28, w: 28, c: 1, a: Float32Array.from(pixels, p => (p / 255 - mean) / std) };
  const out = [x];
  for (const layer of layers) out.push(x = apply(layer, x));
  return out;
}

/** Add the n values times their weights to so many numbers of y. @param {Float32Array} y @param {number} o
 *  @param {number} width @param {Float32Array} w @param {number} offset in w @param {number} n */
function accumulate(y, o, width, w, offset, n) {
  for (; n & 3; n++) [values[n], starts[n]] = [0, 0];
  for (let j = 0; j < n; j += 4) {
    const a = values[j], b = values[j + 1], c = values[j + 2], d = values[j + 3];
    const i = starts[j] + offset, k = starts[j + 1] + offset, l = starts[j + 2] + offset, m = starts[j + 3] + offset;
    for (let t = 0; t < width; t++) y[o + t] += a * w[i + t] + b * w[k + t] + c * w[l + t] + d * w[m + t];
  }
}

/** Call `visit` with where each pixel of an output begins, those of the input that it is made of, and their place in the
 *  kernel. @param {Layer} layer @param {Maps} x @param {Maps} y @param {(o: number, i: number, tap: number) => void} visit
 *  @param {(o: number) => void} [done] with a pixel */
function slide({ size: [kh, kw], stride: [sy, sx], padding: [py, px] }, x, y, visit, done) {
  for (let r = 0, o = 0; r < y.h; r++) for (let q = 0; q < y.w; q++, o += y.c) {
    for (let u = 0; u < kh; u++) for (let v = 0; v < kw; v++) {
      const row = r * sy + u - py, column = q * sx + v - px;
      if (row >= 0 && column >= 0 && row < x.h && column < x.w) visit(o, (row * x.w + column) * x.c, u * kw + v);
    }
    done?.(o);
  }
}

/** @param {Layer} layer @param {Maps} x @returns {Maps} */
function apply(layer, x) {
  const { kind, size, stride, padding, weight, bias, inputs, outputs } = layer;
  if (kind === "flatten") {  // to PyTorch's order: channels first
    const n = x.h * x.w, c = x.a.length;
    return { h: 1, w: 1, c, a: x.a.map((_, i) => x.a[(i % n) * x.c + Math.floor(i / n)]) };
  }
  if (kind === "maxandmean") {
    const n = x.h * x.w, c = x.c, y = { h: 1, w: 1, c: 2 * c, a: new Float32Array(2 * c).fill(-Infinity, 0, c) };
    x.a.forEach((v, i) => {
      y.a[i % c] = Math.max(y.a[i % c], v);
      y.a[c + i % c] += v / n;
    });
    return y;
  }
  if (kind === "relu") {
    const y = x.a.slice();
    for (let i = 0; i < y.length; i++) if (y[i] < 0) y[i] = 0;  // four times as fast as `map`
    return { ...x, a: y };
  }
  if (kind === "tanh") return { ...x, a: x.a.map(Math.tanh) };
  const [h, w] = [x.h, x.w].map((n, d) => Math.floor((n + 2 * padding[d] - size[d]) / stride[d]) + 1);
  const c = outputs || x.c, y = { h, w, c, a: new Float32Array(h * w * c) };
  if (outputs) {
    let n = 0;
    slide(layer, x, y, (_, i, tap) => {
      for (let k = 0; k < inputs; k++) {
        const v = x.a[i + k];
        if (v === 0) continue;
        values[n] = v;
        starts[n++] = (tap * inputs + k) * outputs;
      }
    }, o => {
      y.a.set(bias, o);
      accumulate(y.a, o, outputs, weight, 0, n);
      n = 0;
    });
  } else if (kind === "max") {
    y.a.fill(-Infinity);
    slide(layer, x, y, (o, i) => { for (let k = 0; k < c; k++) if (x.a[i + k] > y.a[o + k]) y.a[o + k] = x.a[i + k]; });
  } else {
    slide(layer, x, y, (o, i) => { for (let k = 0; k < c; k++) y.a[o + k] += x.a[i + k] / (size[0] * size[1]); });
  }
  return y;
}

/**
 * The gradient of one of the last layer's outputs with respect to the input, 28×28.
 * @param {Layer[]} layers @param {Maps[]} maps of `forward` @param {number} output
 */
export function gradient(layers, maps, output) {
  let d = maps[layers.length].a.map((_, k) => k === output ? 1 : 0);
  for (let l = layers.length - 1; l >= 0; l--) d = back(layers[l], maps[l], maps[l + 1], d);
  return d;
}

/** The gradient at a layer's input x, from that at its output y. @param {Layer} layer @param {Maps} x @param {Maps} y
 *  @param {Float32Array<ArrayBuffer>} d */
function back(layer, x, y, d) {
  const { kind, size, inputs, outputs } = layer, n = x.h * x.w, e = new Float32Array(x.a.length);
  if (kind === "flatten") return e.map((_, i) => d[(i % x.c) * n + Math.floor(i / x.c)]);
  if (kind === "relu") {
    for (let i = 0; i < e.length; i++) e[i] = y.a[i] > 0 ? d[i] : 0;
    return e;
  }
  if (kind === "maxandmean") {  // of equal ones, each gets its share
    const c = x.c, equal = new Float32Array(c);
    x.a.forEach((v, i) => { equal[i % c] += +(v === y.a[i % c]); });
    return e.map((_, i) => (x.a[i] === y.a[i % c] ? d[i % c] / equal[i % c] : 0) + d[c + i % c] / n);
  }
  if (kind === "tanh") return d.map((g, i) => g * (1 - y.a[i] * y.a[i]));
  if (outputs) {
    const weight = transposed(layer);
    let of = -1, count = 0;  // the pixel whose gradients `values` has, and how many
    slide(layer, x, y, (o, i, tap) => {
      if (o !== of) {
        [of, count] = [o, 0];
        for (let k = 0; k < outputs; k++) {
          if (d[o + k] === 0) continue;
          values[count] = d[o + k];
          starts[count++] = k * inputs;
        }
      }
      accumulate(e, i, inputs, weight, tap * inputs * outputs, count);
    });
  } else if (kind === "max") {
    const rest = d.slice();  // of two equal ones, the first gets it, as in PyTorch
    slide(layer, x, y, (o, i) => {
      for (let k = 0; k < x.c; k++) if (x.a[i + k] === y.a[o + k]) {
        e[i + k] += rest[o + k];
        rest[o + k] = 0;
      }
    });
  } else {
    slide(layer, x, y, (o, i) => { for (let k = 0; k < x.c; k++) e[i + k] += d[o + k] / (size[0] * size[1]); });
  }
  return e;
}

/** @type {WeakMap<Layer, Float32Array>} */
const turned = new WeakMap();

/** The weights as [kernel, outputs, inputs]. @param {Layer} layer */
function transposed(layer) {
  const { weight, inputs, outputs } = layer, n = inputs * outputs;
  const found = turned.get(layer) ?? weight.map((_, i) => {
    const k = i % n;
    return weight[i - k + (k % inputs) * outputs + Math.floor(k / inputs)];
  });
  turned.set(layer, found);
  return found;
}

/** Probabilities from logits. @param {Float32Array} logits @param {number} temperature */
export function softmax(logits, temperature) {
  const top = Math.max(...logits), exp = Array.from(logits, z => Math.exp((z - top) / temperature));
  const sum = exp.reduce((a, b) => a + b);
  return exp.map(x => x / sum);
}

/** @param {Float32Array} y @param {number} v @param {Float32Array} w @param {number} i @param {number} n */
function add(y, v, w, i, n) {
  for (let k = 0; k < n; k++) y[k] += v * w[i + k];
}

/** What is no digit: maps of `forward` → novelty, as mnist_fastai.exports.detector computes it.
 *  @param {import("./arrays.js").DetectorData} data @returns {(maps: Maps[]) => number} */
export function makeDetector({ taps, axes, whiten, ...rest }) {
  const width = axes.shape[1], a = numbers(axes), w = numbers(whiten);
  const mean = numbers(rest.mean), axesScale = numbers(rest.axesScale), whitenScale = numbers(rest.whitenScale);
  const centres = numbers(rest.centres), offsets = numbers(rest.offsets), [usual, range] = numbers(rest.scale);
  return maps => {
    /** @type {number[]} */
    const means = [];
    for (const { layer, mean } of taps) {
      const { h, w, c, a } = maps[layer + 1];
      for (let k = 0; k < c; k++) {
        let sum = 0;
        for (let i = k; i < a.length; i += c) sum += a[i];
        means.push(mean ? sum / (h * w) : sum);
      }
    }
    const reduced = new Float32Array(width);
    means.forEach((v, i) => add(reduced, (v - mean[i]) * axesScale[i], a, i * width, width));
    let least = Infinity;
    for (let c = 0, i = 0; c < offsets.length; c++) {
      const white = new Float32Array(width);
      for (let k = 0; k < width; i += ++k) add(white, reduced[k] * whitenScale[c], w, i, k + 1);
      const score = white.reduce((sum, x, k) => sum + (x - centres[c * width + k]) ** 2, offsets[c]);
      if (score < least) least = score;
    }
    return (least - usual) / range;
  };
}
