// Ink on a square → MNIST's format, 28×28, as mnist_fastai.reader does it with a drawing: the names, numbers and order of
// the steps are those of reader/ink.py, parts.py and form.py, where they are explained.

export const SIDE = 392;  // pixels of the square, 14 per pixel of MNIST's
export const SIZE = 28;
const BOX = 20, THIN = 1.6, TYPICAL = 2.4, THICK = 4.2, CONTRAST = 0.06;  // of the reader
const NEAR = 0.35, WIDEST = 1.5, BAR = 3, LEAST = -1, MOST = 4;

/** @typedef {{left: number, top: number, right: number, bottom: number}} Box right and bottom excluded */
/** @typedef {Box & {number: number, area: number}} Part a connected piece of ink */
/** @typedef {{x: number, y: number, size: number}} Place of an image's upper left corner, and its side, on the square */
/** @typedef {{h: number, w: number, a: Float32Array, x: number, y: number, unit: number}} Patch ink in [0, 1], where its
 *   upper left corner is on the square, and how many of the square's pixels one of its own is */
/** @typedef {{digits: number, image: Uint8Array<ArrayBuffer>, place: Place}} Drawing */

const stack = new Int32Array(SIDE * SIDE);  // kept, since to make it takes as long as to use it
const LEVELS = Float32Array.from({ length: 256 }, (_, i) => 1 - Math.fround((255 - i) / 255));
/** @param {number} x to the nearest integer, the even one of two, as Python does */
const round = x => Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x);
/** @param {Box} b */
const width = b => b.right - b.left;
/** @param {Box} b */
const height = b => b.bottom - b.top;
/** @param {Box[]} boxes @returns {Box} */
const around = boxes => ({
  left: Math.min(...boxes.map(b => b.left)), top: Math.min(...boxes.map(b => b.top)),
  right: Math.max(...boxes.map(b => b.right)), bottom: Math.max(...boxes.map(b => b.bottom)),
});

/**
 * What is drawn, in MNIST's format, with the number of digits that it looks like; null where there is no ink to read.
 * @param {Uint8Array} ink [392, 392], 255 where there is full ink
 * @param {((image: Uint8Array) => number) | null} novelty of an image, by which strokes apart are taken for one digit
 * @param {number[]} join weights of the logistic regression that decides it
 * @returns {Drawing | null}
 */
export function read(ink, novelty, join) {
  const { labels, parts } = findParts(ink);
  let groups = group(parts);
  if (groups.length === 2 && novelty && joins(groups)) groups = [groups.flat()];
  const tallest = Math.max(0, ...groups.map(g => height(around(g))));
  groups = groups.map(around).flatMap((b, i) => BAR * height(b) < Math.min(width(b), tallest) ? [] : [groups[i]]);
  if (!groups.length) return null;
  const whole = bring(ink, labels, groups.flat());
  return whole.image.some(v => v) ? { digits: groups.length, ...whole } : null;

  /** @param {Part[][]} pair */
  function joins([a, b]) {
    const box = around([...a, ...b]), h = height(box), w = width(box), wanted = /** @type {Function} */ (novelty);
    if (w > WIDEST * h) return false;
    const apart = gap(labels, a, b, box) / Math.max(h, w);
    if (apart > NEAR) return false;
    /** @param {Uint8Array[]} images */
    const worst = images => Math.min(MOST, Math.max(LEAST, ...images.map(image => wanted(image))));
    const less = worst([a, b].map(part => bring(ink, labels, part).image)) - worst([bring(ink, labels, [...a, ...b]).image]);
    return join[0] + join[1] * apart + join[2] * w / h + join[3] * less > 0;
  }
}

/** @param {Uint8Array} ink @returns {number} in [0, 1] (Otsu 1979) */
function otsu(ink) {
  const counts = new Float64Array(256);
  for (const v of ink) counts[Math.trunc(Math.fround(LEVELS[v] * 255))]++;
  let below = 0, sum = 0, best = -1, at = 254, total = 0;
  counts.forEach((n, i) => total += n * i);
  counts.forEach((n, i) => {
    below += n;
    sum += n * i;
    const above = ink.length - below, between = below * above * (sum / below - (total - sum) / above) ** 2;
    if (between > best) [best, at] = [between, i];
  });
  return (at + 1) / 255;
}

/** Pieces of ink, 8-connected, largest first, and each pixel's piece, 0 for none. @param {Uint8Array} ink */
function findParts(ink) {
  const threshold = Math.max(otsu(ink), CONTRAST), [strong, faint] = [threshold, threshold / 2].map(
    least => LEVELS.findIndex(level => level >= Math.fround(least)));
  const labels = new Uint16Array(SIDE * SIDE);
  /** @type {Part[]} */
  const parts = [];
  for (let start = 0; start < ink.length; start++) {
    if (ink[start] < strong || labels[start]) continue;
    const part = { number: parts.length + 1, area: 0, left: SIDE, top: SIDE, right: 0, bottom: 0 };
    let n = 1;
    stack[0] = start;
    labels[start] = part.number;
    while (n) {
      const p = stack[--n], x = p % SIDE, y = (p - x) / SIDE;
      part.area++;
      part.left = Math.min(part.left, x);
      part.right = Math.max(part.right, x + 1);
      part.top = Math.min(part.top, y);
      part.bottom = Math.max(part.bottom, y + 1);
      for (let v = Math.max(0, y - 1); v <= Math.min(SIDE - 1, y + 1); v++) {
        for (let u = Math.max(0, x - 1); u <= Math.min(SIDE - 1, x + 1); u++) {
          const q = v * SIDE + u;
          if (ink[q] < faint || labels[q]) continue;
          labels[q] = part.number;
          stack[n++] = q;
        }
      }
    }
    parts.push(part);
  }
  return { labels, parts: parts.sort((a, b) => b.area - a.area) };
}

/** The parts of each digit, from left to right. @param {Part[]} parts @returns {Part[][]} */
function group(parts) {
  const largest = parts.length ? parts[0].area : 0;
  const size = Math.max(0, ...parts.filter(p => p.area >= 0.25 * largest).map(p => Math.max(height(p), width(p) / 2)));
  if (size < Math.max(4, 0.02 * SIDE)) return [];
  /** @param {Part} a @param {Part} b */
  const joined = (a, b) => {
    const dx = Math.max(a.left, b.left) - Math.min(a.right, b.right);
    const dy = Math.max(a.top, b.top) - Math.min(a.bottom, b.bottom);
    if (-dx > 0.5 * Math.min(width(a), width(b))) return dy <= 0.35 * size;
    const low = Math.min(height(a), height(b));
    return (low < 0.6 * size || -dy < 0.5 * low) && Math.hypot(Math.max(dx, 0), Math.max(dy, 0)) <= 0.3 * size;
  };
  /** @type {Part[][]} */
  let groups = [];
  for (const part of parts) {
    if (Math.max(height(part), width(part)) < 0.15 * size || part.area < 0.02 * largest) continue;  // a speck
    const near = groups.filter(g => g.some(other => joined(part, other)));
    groups = [...groups.filter(g => !near.includes(g)), [...near.flat(), part]];
  }
  return groups.filter(g => Math.max(height(around(g)), width(around(g))) >= 0.35 * size)
    .sort((a, b) => around(a).left - around(b).left);
}

/** The least distance between pixels of two digits. @param {Uint16Array} labels @param {Part[]} a @param {Part[]} b
 *  @param {Box} box of both */
function gap(labels, a, b, box) {
  const h = height(box), w = width(box), at = new Uint8Array(h * w), first = new Set(a.map(p => p.number));
  const second = new Set(b.map(p => p.number));
  /** @param {number} i */
  const label = i => labels[(box.top + Math.floor(i / w)) * SIDE + box.left + i % w];
  for (let i = 0; i < at.length; i++) at[i] = +first.has(label(i));
  return distances(at, h, w).reduce((least, d, i) => d < least && second.has(label(i)) ? d : least, Infinity);
}

/** Parts of the ink, cropped, in MNIST's format. @param {Uint8Array} ink @param {Uint16Array} labels @param {Part[]} parts */
function bring(ink, labels, parts) {
  const numbers = new Set(parts.map(p => p.number)), box = around(parts);
  const left = Math.max(0, box.left - 2), top = Math.max(0, box.top - 2);
  const w = Math.min(SIDE, box.right + 2) - left, h = Math.min(SIDE, box.bottom + 2) - top;
  const a = new Float32Array(w * h), counts = new Int32Array(256), own = new Uint8Array(labels.length);
  for (let y = 0, i = 0; y < h; y++) for (let x = 0, p = (top + y) * SIDE + left; x < w; x++, p++, i++) {
    if (!labels[p] || !numbers.has(labels[p])) continue;
    own[p] = 1;
    counts[ink[p]]++;
  }
  for (let y = 0, i = 0; y < h; y++) for (let x = 0, p = (top + y) * SIDE + left; x < w; x++, p++, i++) {
    let near = own[p];  // strokes are anti-aliased beyond the mask
    if (!near && ink[p]) for (let v = -2; v <= 2; v++) for (let u = -2; u <= 2; u++) near |= own[p + v * SIDE + u];
    if (near) a[i] = LEVELS[ink[p]];
  }
  const full = Math.max(0.05, percentile(counts, 0.8));
  return fit(usualStrokes(trim({ h, w, a: a.map(v => Math.min(1, v / full)), x: left, y: top, unit: 1 })));
}

/** The level below which a share of the ink is, between two of it in proportion. @param {Int32Array} counts of levels
 *  @param {number} share */
function percentile(counts, share) {
  const at = share * (counts.reduce((a, b) => a + b) - 1);
  const [low, high] = [Math.floor(at), Math.ceil(at)].map(rank => {
    let level = 0;
    for (let below = counts[0]; below <= rank; below += counts[++level]);
    return LEVELS[level];
  });
  return low + (at % 1) * (high - low);
}

/** @param {Patch} p @returns {Patch} */
function trim({ h, w, a, x, y, unit }) {
  const box = { left: w, top: h, right: 0, bottom: 0 };
  for (let v = 0; v < h; v++) for (let u = 0; u < w; u++) if (a[v * w + u] > 0.02) {
    box.left = Math.min(box.left, u);
    box.right = Math.max(box.right, u + 1);
    box.top = Math.min(box.top, v);
    box.bottom = v + 1;
  }
  const out = new Float32Array(width(box) * height(box));
  for (let v = box.top; v < box.bottom; v++) {
    out.set(a.subarray(v * w + box.left, v * w + box.right), (v - box.top) * width(box));
  }
  return { h: height(box), w: width(box), a: out, x: x + box.left * unit, y: y + box.top * unit, unit };
}

/** The mean width of strokes, in pixels: 2 × area / perimeter. @param {Patch} p */
function strokeWidth({ h, w, a }) {
  /** @param {number} y @param {number} x */
  const at = (y, x) => y < 0 || x < 0 || y >= h || x >= w ? 0 : a[y * w + x];
  let area = 0, perimeter = 0;
  for (let y = -1; y < h; y++) for (let x = -1; x < w; x++) {
    area += at(y, x);
    perimeter += Math.hypot(at(y + 1, x) - at(y, x), at(y, x + 1) - at(y, x));
  }
  return 2 * area / perimeter;
}

/** Strokes thinner or thicker than MNIST's made as wide as there. @param {Patch} p @returns {Patch} */
function usualStrokes(p) {
  const small = reduce(p, Math.ceil(Math.max(p.h, p.w) / 100));
  const mean = strokeWidth(small) * BOX / Math.max(small.h, small.w);
  if (mean >= THIN && mean <= THICK) return p;
  if (Math.max(p.h, p.w) < 160) {
    p = scaleTo(p, 160);
    p.a = p.a.map(v => Math.min(1, Math.max(0, v)));
  }
  const wanted = mean < THIN ? TYPICAL : THICK, radius = (wanted - mean) * Math.max(p.h, p.w) / (2 * (BOX - wanted));
  const pad = Math.max(0, Math.ceil(radius)) + 1, h = p.h + 2 * pad, w = p.w + 2 * pad;
  const ink = new Float32Array(h * w);
  for (let y = 0; y < p.h; y++) ink.set(p.a.subarray(y * p.w, (y + 1) * p.w), (y + pad) * w + pad);
  const inside = Uint8Array.from(ink, v => +(v >= 0.5));
  const grows = radius > 0, far = distances(grows ? inside : inside.map(v => 1 - v), h, w);
  const a = ink.map((v, i) => {
    const distance = grows ? inside[i] - far[i] : far[i] - (1 - inside[i]);
    const moved = Math.min(1, Math.max(0, distance + radius + 0.5 - inside[i]));
    return grows ? Math.max(v, moved) : Math.min(v, moved);
  });
  return trim({ h, w, a, x: p.x - pad * p.unit, y: p.y - pad * p.unit, unit: p.unit });
}

/** The distance of each pixel from the nearest one of a mask (Felzenszwalb & Huttenlocher 2012).
 *  @param {Uint8Array} mask @param {number} h @param {number} w */
function distances(mask, h, w) {
  const far = h + w, squares = new Float64Array(h * w), out = new Float32Array(h * w);
  for (let x = 0; x < w; x++) {  // within each column
    for (let y = 0, d = far; y < h; y++) squares[y * w + x] = d = mask[y * w + x] ? 0 : d + 1;
    for (let y = h - 1, d = far; y >= 0; y--) squares[y * w + x] = d = Math.min(squares[y * w + x], d + 1);
  }
  const of = new Int32Array(w), from = new Float64Array(w + 1);  // the lower envelope of a row's parabolas
  for (let y = 0; y < h; y++) {
    const row = squares.subarray(y * w, (y + 1) * w).map(d => d * d);
    let k = -1;
    for (let x = 0; x < w; x++) {
      let start = -Infinity;
      while (k >= 0 && (start = (row[x] - row[of[k]] + x * x - of[k] * of[k]) / (2 * (x - of[k]))) <= from[k]) k--;
      if (k < 0) start = -Infinity;
      of[++k] = x;
      from[k] = start;
    }
    from[k + 1] = Infinity;
    for (let x = 0, i = 0; x < w; x++) {
      while (from[i + 1] < x) i++;
      out[y * w + x] = Math.sqrt(row[of[i]] + (x - of[i]) ** 2);
    }
  }
  return out;
}

/** Means over squares of so many pixels, as Pillow's `reduce`. @param {Patch} p @param {number} factor @returns {Patch} */
function reduce(p, factor) {
  if (factor < 2) return p;
  const h = Math.ceil(p.h / factor), w = Math.ceil(p.w / factor), a = new Float32Array(h * w);
  for (let y = 0; y < p.h; y++) for (let x = 0; x < p.w; x++) {
    a[Math.floor(y / factor) * w + Math.floor(x / factor)] += p.a[y * p.w + x];
  }
  for (let i = 0; i < a.length; i++) {
    a[i] /= Math.min(factor, p.h - Math.floor(i / w) * factor) * Math.min(factor, p.w - (i % w) * factor);
  }
  return { ...p, h, w, a, unit: p.unit * factor };
}

/** The long side made `long` pixels. @param {Patch} p @param {number} long @returns {Patch} */
function scaleTo(p, long) {
  const scale = long / Math.max(p.h, p.w);
  if (scale === 1) return p;
  const h = Math.max(1, round(p.h * scale)), w = Math.max(1, round(p.w * scale));
  const across = resample(p.a, p.h, p.w, w);  // and transposed, so that the same does the columns
  return { ...p, h, w, a: resample(across, w, p.h, h), unit: p.unit / scale };
}

/** Rows of `from` pixels made `to` long, and transposed: by area where that shrinks them, else bicubic, as Pillow does.
 *  @param {Float32Array} a @param {number} rows @param {number} from @param {number} to */
function resample(a, rows, from, to) {
  const scale = from / to, stretch = Math.max(scale, 1), support = (scale > 1 ? 0.5 : 2) * stretch;
  /** @param {number} x */
  const cubic = x => x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
  const out = new Float32Array(to * rows);
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale, first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5)), weights = [];
    for (let k = first; k < last; k++) {
      const x = (k - centre + 0.5) / stretch;
      weights.push(scale > 1 ? +(x > -0.5 && x <= 0.5) : cubic(Math.abs(x)));
    }
    const total = weights.reduce((sum, w) => sum + w);
    for (let r = 0; r < rows; r++) {
      let sum = 0;
      for (let k = first; k < last; k++) sum += a[r * from + k] * (weights[k - first] / total);
      out[i * rows + r] = sum;
    }
  }
  return out;
}

/** The long side at 20 pixels, and the centre of mass in the middle of 28×28. @param {Patch} p */
function fit(p) {
  const small = scaleTo(p, BOX), { h, w, unit } = small, values = Uint8Array.from(small.a, v => Math.min(255, Math.max(0, round(v * 255))));
  let mass = 0, sumX = 0, sumY = 0;
  values.forEach((v, i) => {
    mass += v;
    sumX += v * (i % w);
    sumY += v * Math.floor(i / w);
  });
  /** @param {number} sum @param {number} n */
  const corner = (sum, n) => Math.min(SIZE - n, Math.max(0, round(SIZE / 2 - sum / Math.max(mass, 1))));
  const left = corner(sumX, w), top = corner(sumY, h), image = new Uint8Array(SIZE * SIZE);
  for (let y = 0; y < h; y++) image.set(values.subarray(y * w, (y + 1) * w), (top + y) * SIZE + left);
  return { image, place: { x: p.x - left * unit, y: p.y - top * unit, size: SIZE * unit } };
}

/** The square in MNIST's format as it is, 14×14 of its pixels being one. @param {Uint8Array} ink @returns {Drawing} */
export function readRaw(ink) {
  const image = new Uint8Array(SIZE * SIZE), step = SIDE / SIZE;
  for (let i = 0; i < image.length; i++) {
    let sum = 0;
    for (let y = 0; y < step; y++) for (let x = 0; x < step; x++) {
      sum += ink[(Math.floor(i / SIZE) * step + y) * SIDE + (i % SIZE) * step + x];
    }
    image[i] = Math.round(sum / (step * step));
  }
  return { digits: 1, image, place: { x: 0, y: 0, size: SIDE } };
}

/**
 * Draw a straight stroke, or erase along it: a round pen whose radius changes evenly from one end to the other.
 * @param {Uint8Array} ink @param {{x: number, y: number, r: number}} a @param {{x: number, y: number, r: number}} b
 * @param {boolean} erase
 */
export function stroke(ink, a, b, erase) {
  const dx = b.x - a.x, dy = b.y - a.y, square = dx * dx + dy * dy || 1, reach = Math.max(a.r, b.r) + 1;
  const right = Math.min(SIDE, Math.max(a.x, b.x) + reach), bottom = Math.min(SIDE, Math.max(a.y, b.y) + reach);
  for (let y = Math.max(0, Math.floor(Math.min(a.y, b.y) - reach)); y < bottom; y++) {
    for (let x = Math.max(0, Math.floor(Math.min(a.x, b.x) - reach)); x < right; x++) {
      const u = x + 0.5 - a.x, v = y + 0.5 - a.y, t = Math.min(1, Math.max(0, (u * dx + v * dy) / square));
      const inside = a.r + t * (b.r - a.r) - Math.hypot(u - t * dx, v - t * dy) + 0.5;
      const cover = Math.round(255 * Math.min(1, Math.max(0, inside))), i = y * SIDE + x;
      ink[i] = erase ? Math.min(ink[i], 255 - cover) : Math.max(ink[i], cover);
    }
  }
}
