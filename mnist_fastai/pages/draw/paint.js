// Numbers as pixels.

/** @typedef {import("./network.js").Maps} Maps */
/** @typedef {import("./network.js").Layer} Layer */
/** @typedef {{fg: number[], ink: number[], tile: number[], plus: number[], minus: number[]}} Theme red, green, blue */

/** @type {Theme} */
export const theme = { fg: [], ink: [], tile: [], plus: [], minus: [] };

const STEPS = 255;
/** Of values from -1 to 1, as pixels: `minus`, `tile`, `plus`. */
const ramp = new Uint32Array(2 * STEPS + 1);

/** An opaque pixel between two colours. @param {number[]} from @param {number[]} to @param {number} share */
function color(from, to, share) {
  const [r, g, b] = from.map((v, c) => Math.round(v + share * (to[c] - v)));
  return (255 << 24) | (b << 16) | (g << 8) | r;
}

/** Read the colours of the style sheet, which follow the device's light or dark mode. */
export function readTheme() {
  const style = getComputedStyle(document.documentElement);
  for (const name of /** @type {(keyof Theme)[]} */ (Object.keys(theme))) {
    const hex = style.getPropertyValue("--" + name).trim();
    theme[name] = [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));
  }
  for (let i = -STEPS; i <= STEPS; i++) ramp[STEPS + i] = color(theme.tile, i < 0 ? theme.minus : theme.plus, Math.abs(i) / STEPS);
}

/** @param {HTMLCanvasElement} canvas */
export const pen = canvas => /** @type {CanvasRenderingContext2D} */ (canvas.getContext("2d"));

/** A grey image, white on black. @param {HTMLCanvasElement} canvas 28×28 @param {Uint8Array | null} image */
export function paintImage(canvas, image) {
  const context = pen(canvas), data = context.createImageData(28, 28);
  for (let i = 0; i < 784; i++) data.data.fill(image ? image[i] : 0, 4 * i, 4 * i + 3), data.data[4 * i + 3] = 255;
  context.putImageData(data, 0, 0);
}

/** How maps stand on a canvas: how many in a row, and the step from one to the next in pixels. @param {Maps} maps */
export function grid({ h, w, c }) {
  const zoom = h * w === 1 ? 4 : 1, columns = Math.min(c, h * w === 1 ? 20 : 8);
  return { zoom, columns, rows: Math.ceil(c / columns), dx: zoom * w + 1, dy: zoom * h + 1 };
}

/** All maps of a layer, relative to the largest value among them. @param {HTMLCanvasElement} canvas
 *  @param {Maps} maps @param {boolean} [none] leave all at zero */
export function paintMaps(canvas, maps, none = false) {
  const { zoom, columns, rows, dx, dy } = grid(maps), { h, w, c, a } = maps;
  const width = columns * dx - 1, height = rows * dy - 1;
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const context = pen(canvas), data = context.createImageData(width, height);
  const words = new Uint32Array(data.data.buffer), scale = none ? 0 : STEPS / largest(a);
  for (let k = 0; k < c; k++) {
    const start = Math.floor(k / columns) * dy * width + (k % columns) * dx;
    for (let y = 0; y < zoom * h; y++) for (let x = 0; x < zoom * w; x++) {
      const value = a[(Math.floor(y / zoom) * w + Math.floor(x / zoom)) * c + k];
      words[start + y * width + x] = ramp[STEPS + Math.round(scale * value)];
    }
  }
  context.putImageData(data, 0, 0);
}

/** The largest absolute value. @param {Float32Array} a */
function largest(a) {
  let most = 1e-9;
  for (let i = 0; i < a.length; i++) most = Math.max(most, Math.abs(a[i]));
  return most;
}

/** One of the maps by itself. @param {Maps} maps @param {number} k @returns {Maps} */
export const only = ({ h, w, c, a }, k) => ({ h, w, c: 1, a: new Float32Array(h * w).map((_, i) => a[i * c + k]) });

/** The weights from which one output is made, as maps: a kernel per input, or one weight per pixel of the maps that were
 *  flattened. @param {Layer} layer @param {number} output @param {Maps} input @returns {Maps} */
export function kernel({ kind, size: [h, w], inputs, outputs, weight }, output, input) {
  const a = weight.filter((_, i) => i % outputs === output), n = input.h * input.w;
  if (kind === "conv") return { h, w, c: inputs, a };
  return { ...input, a: a.map((_, i) => a[(i % input.c) * n + Math.floor(i / input.c)]) };
}

/** Ink, and over it what speaks for the answer and against it.
 *  @param {HTMLCanvasElement} canvas 392×392 @param {Uint8Array} ink @param {Float32Array | null} saliency 28×28
 *  @param {import("./ink.js").Place} place of it */
export function paintInk(canvas, ink, saliency, place) {
  const context = pen(canvas), data = context.createImageData(canvas.width, canvas.height);
  const words = new Uint32Array(data.data.buffer), base = color(saliency ? theme.ink : theme.fg, theme.fg, 0) & 0xffffff;
  for (let i = 0; i < ink.length; i++) words[i] = (ink[i] << 24) | base;
  context.putImageData(data, 0, 0);
  if (!saliency) return;
  const over = new OffscreenCanvas(28, 28), small = /** @type {OffscreenCanvasRenderingContext2D} */ (over.getContext("2d"));
  const pixels = small.createImageData(28, 28), scale = 2 / largest(saliency);
  saliency.forEach((v, i) => {
    pixels.data.set(v < 0 ? theme.minus : theme.plus, 4 * i);
    pixels.data[4 * i + 3] = 255 * Math.min(1, scale * Math.abs(v));
  });
  small.putImageData(pixels, 0, 0);
  context.globalCompositeOperation = "source-atop";  // on ink alone
  context.drawImage(over, place.x, place.y, place.size, place.size);
  context.globalCompositeOperation = "source-over";
}
