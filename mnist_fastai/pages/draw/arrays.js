// What Python put into the page, and its arrays as typed ones.

/** @typedef {{type: string, shape: number[], data: string}} Packed an array, little-endian, in base64 */
/**
 * @typedef {object} LayerData a layer of the network, in the order of computation
 * @property {"conv" | "linear" | "max" | "average" | "relu" | "tanh" | "flatten" | "maxandmean"} kind
 * @property {Packed} [weight] [kernel height, kernel width, inputs, outputs], or [inputs, outputs]
 * @property {Packed} [scale] what to multiply the weights of each output with
 * @property {Packed} [bias]
 * @property {number[]} [stride]
 * @property {number[]} [padding]
 * @property {number[]} [size] of what is pooled
 */
/**
 * @typedef {object} DetectorData a normal distribution per class, as mnist_fastai.exports.detector has it
 * @property {{layer: number, mean: boolean}[]} taps
 * @property {Packed} mean
 * @property {Packed} axes
 * @property {Packed} axesScale
 * @property {Packed} whiten
 * @property {Packed} whitenScale
 * @property {Packed} centres
 * @property {Packed} offsets
 * @property {Packed} scale
 */
/**
 * @typedef {object} SampleData training images; their pixels are in the page's picture
 * @property {Packed} labels
 * @property {Packed} positions [n, 2], in 65,535ths of a square
 * @property {Packed} mean
 * @property {Packed} axes
 * @property {Packed} features
 * @property {number} scale
 */
/**
 * @typedef {object} Contents
 * @property {string[]} classes
 * @property {string[]} colors
 * @property {LayerData[]} layers
 * @property {number} mean
 * @property {number} std
 * @property {number} temperature
 * @property {number} lowConfidence
 * @property {DetectorData | null} detector
 * @property {number[]} join
 * @property {SampleData} sample
 * @property {{index: number[], images: Packed, labels: number[], predictions: number[]}} misclassified
 * @property {boolean} collect
 */

/** Half-precision bits → number. @param {number} bits */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  return sign * (exponent ? 2 ** (exponent - 25) * (1024 + fraction) : 2 ** -24 * fraction);
}

/** The bytes of base64. @param {string} text */
export function bytes(text) {
  return Uint8Array.from(atob(text), c => c.charCodeAt(0));
}

/** The numbers of an array, row by row. @param {Packed} packed @returns {Float32Array<ArrayBuffer>} */
export function numbers({ type, data }) {
  const { buffer } = bytes(data);
  switch (type) {
    case "int8": return Float32Array.from(new Int8Array(buffer));
    case "uint8": return Float32Array.from(new Uint8Array(buffer));
    case "uint16": return Float32Array.from(new Uint16Array(buffer));
    case "float16": return Float32Array.from(new Uint16Array(buffer), half);
    case "float32": return new Float32Array(buffer);
    default: throw new TypeError(type);
  }
}
