// The network: forward, and backward to its input. Maps are [height, width, channels], so that the innermost loops run
// over channels, and inputs that are 0, as a ReLU leaves most, are passed over.

import { numbers } from "./arrays.js";

/** @typedef {import("./arrays.js").LayerData} LayerData */
/** @typedef {{h: number, w: number, c: number, a: Float32Array<ArrayBuffer>}} Maps */
/** @typedef {{kind: LayerData["kind"], stride: number[], padding: number[], size: number[], inputs: number,
 *   outputs: number, weight: Float32Array<ArrayBuffer>, bias: Float32Array<ArrayBuffer>}} Layer */

/** @param {LayerData} data @returns {Layer} */
export function unpack({ kind, weight, scale, bias, stride = [1, 1], padding = [0, 0], size = [1, 1] }) {
  const none = new Float32Array(0);
  if (!weight || !scale || !bias) return { kind, stride, padding, size, inputs: 0, outputs: 0, weight: none, bias: none };
  const values = numbers(weight), scales = numbers(scale), outputs = scales.length;
  for (let i = 0; i < values.length; i++) values[i] *= scales[i % outputs];
  const shape = weight.shape;
  return { kind, stride, padding, size: shape.length === 4 ? shape.slice(0, 2) : [1, 1], inputs: shape[shape.length - 2],
    outputs, weight: values, bias: numbers(bias) };
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

/** @param {number} h @param {number} w @param {number} c @returns {Maps} */
const empty = (h, w, c) => ({ h, w, c, a: new Float32Array(h * w * c) });

/** @param {Layer} layer @param {Maps} x @returns {Maps} */
function apply(layer, x) {
  const { kind, weight, bias, inputs, outputs } = layer;
  if (kind === "flatten") {  // to PyTorch's order: channels first
    const y = empty(1, 1, x.a.length), n = x.h * x.w;
    for (let p = 0; p < n; p++) for (let k = 0; k < x.c; k++) y.a[k * n + p] = x.a[p * x.c + k];
    return y;
  }
  if (kind === "relu") return { ...x, a: x.a.map(v => v > 0 ? v : 0) };
  if (kind === "tanh") return { ...x, a: x.a.map(Math.tanh) };
  if (kind === "linear") {
    const y = { h: 1, w: 1, c: outputs, a: bias.slice() };
    for (let i = 0; i < inputs; i++) add(y.a, 0, x.a[i], weight, i * outputs, outputs);
    return y;
  }
  const [kh, kw] = layer.size, [sy, sx] = layer.stride, [py, px] = layer.padding, conv = kind === "conv";
  const y = empty(Math.floor((x.h + 2 * py - kh) / sy) + 1, Math.floor((x.w + 2 * px - kw) / sx) + 1, conv ? outputs : x.c);
  for (let r = 0, o = 0; r < y.h; r++) for (let q = 0; q < y.w; q++, o += y.c) {
    if (conv) y.a.set(bias, o);
    else if (kind === "max") y.a.fill(-Infinity, o, o + y.c);
    for (let u = 0; u < kh; u++) for (let v = 0; v < kw; v++) {
      const row = r * sy + u - py, column = q * sx + v - px;
      if (row < 0 || column < 0 || row >= x.h || column >= x.w) continue;
      const i = (row * x.w + column) * x.c;
      if (conv) {
        for (let k = 0; k < inputs; k++) add(y.a, o, x.a[i + k], weight, ((u * kw + v) * inputs + k) * outputs, outputs);
      } else if (kind === "max") {
        for (let k = 0; k < x.c; k++) if (x.a[i + k] > y.a[o + k]) y.a[o + k] = x.a[i + k];
      } else {
        for (let k = 0; k < x.c; k++) y.a[o + k] += x.a[i + k] / (kh * kw);
      }
    }
  }
  return y;
}

/** @param {Float32Array} y @param {number} o @param {number} v @param {Float32Array} w @param {number} i @param {number} n */
function add(y, o, v, w, i, n) {
  if (v !== 0) for (let k = 0; k < n; k++) y[o + k] += v * w[i + k];
}

/** @param {Float32Array} d @param {number} o @param {Float32Array} w @param {number} i @param {number} n */
function dot(d, o, w, i, n) {
  let sum = 0;
  for (let k = 0; k < n; k++) sum += d[o + k] * w[i + k];
  return sum;
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
  const { kind, weight, inputs, outputs } = layer, e = new Float32Array(x.a.length);
  if (kind === "flatten") {
    const n = x.h * x.w;
    for (let p = 0; p < n; p++) for (let k = 0; k < x.c; k++) e[p * x.c + k] = d[k * n + p];
    return e;
  }
  if (kind === "relu") return d.map((g, i) => y.a[i] > 0 ? g : 0);
  if (kind === "tanh") return d.map((g, i) => g * (1 - y.a[i] * y.a[i]));
  if (kind === "linear") return e.map((_, i) => dot(d, 0, weight, i * outputs, outputs));
  const [kh, kw] = layer.size, [sy, sx] = layer.stride, [py, px] = layer.padding;
  for (let r = 0, o = 0; r < y.h; r++) for (let q = 0; q < y.w; q++, o += y.c) {
    for (let u = 0; u < kh; u++) for (let v = 0; v < kw; v++) {
      const row = r * sy + u - py, column = q * sx + v - px;
      if (row < 0 || column < 0 || row >= x.h || column >= x.w) continue;
      const i = (row * x.w + column) * x.c;
      if (kind === "conv") {
        for (let k = 0; k < inputs; k++) e[i + k] += dot(d, o, weight, ((u * kw + v) * inputs + k) * outputs, outputs);
      } else if (kind === "max") {
        for (let k = 0; k < x.c; k++) if (x.a[i + k] === y.a[o + k]) e[i + k] += d[o + k];
      } else {
        for (let k = 0; k < x.c; k++) e[i + k] += d[o + k] / (kh * kw);
      }
    }
  }
  return e;
}

/** Probabilities from logits. @param {Float32Array} logits @param {number} temperature */
export function softmax(logits, temperature) {
  const top = Math.max(...logits), exp = Array.from(logits, z => Math.exp((z - top) / temperature));
  const sum = exp.reduce((a, b) => a + b);
  return exp.map(x => x / sum);
}

/** What is no digit: maps of `forward` → novelty, as mnist_fastai.exports.detector computes it.
 *  @param {import("./arrays.js").DetectorData} data @returns {(maps: Maps[]) => number} */
export function makeDetector({ taps, axes, whiten, ...rest }) {
  const width = axes.shape[1], a = numbers(axes), w = numbers(whiten);
  const mean = numbers(rest.mean), axesScale = numbers(rest.axesScale), whitenScale = numbers(rest.whitenScale);
  const centres = numbers(rest.centres), offsets = numbers(rest.offsets), [usual, range] = numbers(rest.scale);
  return maps => {
    /** @type {number[]} */
    const values = [];
    for (const { layer, mean } of taps) {
      const { h, w, c, a } = maps[layer + 1];
      for (let k = 0; k < c; k++) {
        let sum = 0;
        for (let i = k; i < a.length; i += c) sum += a[i];
        values.push(mean ? sum / (h * w) : sum);
      }
    }
    const reduced = new Float32Array(width);
    values.forEach((v, i) => add(reduced, 0, (v - mean[i]) * axesScale[i], a, i * width, width));
    let least = Infinity;
    for (let c = 0, i = 0; c < offsets.length; c++) {
      const white = new Float32Array(width);
      for (let k = 0; k < width; i += ++k) add(white, 0, reduced[k] * whitenScale[c], w, i, k + 1);
      const score = white.reduce((sum, x, k) => sum + (x - centres[c * width + k]) ** 2, offsets[c]);
      if (score < least) least = score;
    }
    return (least - usual) / range;
  };
}
