// The t-SNE map of training images, and the drawing's way over it.

import { numbers } from "./arrays.js";
import { pen } from "./paint.js";

const MARGIN = 0.04;  // of the map's side
const TRAIL = 30;  // places that are kept
const EASE = 0.3;  // share of the way to its place that the mark goes per frame

/**
 * @param {HTMLCanvasElement} base with the images @param {HTMLCanvasElement} over it, with the drawing
 * @param {import("./arrays.js").Contents} contents
 */
export function makeMap(base, over, { sample, classes, colors }) {
  const points = numbers(sample.positions).map(v => v / 65535), labels = numbers(sample.labels);
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  /** @type {number[][]} */
  let trail = [];
  /** @type {number[] | null} */
  let place = null;
  /** @type {number[] | null} */
  let mark = null;
  /** @type {number[]} */
  let nearest = [];
  let frame = 0, size = 0, color = "", background = "";  // of the map; to ask for them each time takes milliseconds

  /** A cleared canvas as a square of side 1, its y upwards, and the length of a pixel in it. @param {HTMLCanvasElement} canvas */
  function open(canvas) {
    const context = pen(canvas), inner = size * (1 - 2 * MARGIN);
    const side = Math.round(size * devicePixelRatio);
    if (canvas.width !== side) canvas.width = canvas.height = side;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, side, side);
    context.scale(devicePixelRatio, devicePixelRatio);
    /** @param {number[]} point */
    const at = ([x, y]) => [size * MARGIN + inner * x, size * (1 - MARGIN) - inner * y];
    return { context, at };
  }
  /** @param {CanvasRenderingContext2D} context @param {number[]} point @param {number} radius */
  function dot(context, [x, y], radius) {
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
  }
  const colorOf = (/** @type {number} */ label) => colors[label % colors.length];

  function paintImages() {
    size = base.clientWidth;
    ({ color, backgroundColor: background } = getComputedStyle(base));
    const { context, at } = open(base), radius = Math.max(1.6, size / 220);
    context.globalAlpha = 0.75;
    labels.forEach((label, i) => {
      context.fillStyle = colorOf(label);
      dot(context, at([points[2 * i], points[2 * i + 1]]), radius);
      context.fill();
    });
    Object.assign(context, { globalAlpha: 1, textAlign: "center", textBaseline: "middle", lineJoin: "round", lineWidth: 5,
      font: `650 ${classes.length > 10 ? 13 : 17}px system-ui, sans-serif`, fillStyle: color,
      strokeStyle: background });
    classes.forEach((name, label) => {
      const own = [...labels.keys()].filter(i => labels[i] === label);
      if (!own.length) return;
      const [x, y] = at([0, 1].map(axis => own.map(i => points[2 * i + axis]).sort((a, b) => a - b)[own.length >> 1]));
      const short = name.length > 12 ? name.slice(0, 11) + "…" : name;
      context.strokeText(short, x, y);
      context.fillText(short, x, y);
    });
  }

  function paintDrawing() {
    const { context, at } = open(over);
    if (!mark || !place) return;
    mark = still.matches ? place : mark.map((v, axis) => v + EASE * (/** @type {number[]} */ (place)[axis] - v));
    if (Math.hypot(mark[0] - place[0], mark[1] - place[1]) < 0.002) mark = place;
    else frame = requestAnimationFrame(paintDrawing);
    trail = [...trail.slice(1 - TRAIL), mark];
    Object.assign(context, { strokeStyle: color, lineWidth: 2, lineCap: "round" });
    trail.slice(1).forEach((to, i) => {
      context.globalAlpha = 0.5 * (i + 1) / trail.length;
      context.beginPath();
      context.moveTo(.../** @type {[number, number]} */ (at(trail[i])));
      context.lineTo(.../** @type {[number, number]} */ (at(to)));
      context.stroke();
    });
    context.globalAlpha = 1;
    context.lineWidth = 1.5;
    for (const i of nearest) {
      dot(context, at([points[2 * i], points[2 * i + 1]]), size / 220 + 2);
      context.stroke();
    }
    for (const [extra, style] of /** @type {[number, string][]} */ ([[4, background], [2, color], [-2, background]])) {
      context.fillStyle = style;
      dot(context, at(mark), size / 60 + extra);
      context.fill();
    }
  }

  const repaint = () => {
    paintImages();
    paintDrawing();
  };
  new ResizeObserver(repaint).observe(base);
  return {
    repaint,
    /** Where the drawing lies, and its nearest images; none. @param {import("./neighbors.js").Found | null} found */
    show(found) {
      cancelAnimationFrame(frame);
      place = found && found.place;
      nearest = found ? found.nearest : [];
      mark = place && (mark ?? place);
      if (!place) trail = [];
      paintDrawing();
    },
    /** Where it is drawn now, in the map's square. */
    get mark() { return mark; },
  };
}
