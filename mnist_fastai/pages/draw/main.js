// Everything together: what is drawn goes through the network, and what comes out is shown.

import { bytes, numbers } from "./arrays.js";
import { folders, zip } from "./collect.js";
import { read, readRaw, SIDE } from "./ink.js";
import { makeMap } from "./map.js";
import { makeNeighbors } from "./neighbors.js";
import { forward, gradient, makeDetector, randomize, softmax, unpack } from "./network.js";
import { Pad } from "./pad.js";
import { grid, kernel, only, paintImage, paintInk, paintMaps, pen, readTheme } from "./paint.js";

const NOVEL = 1;  // as in mnist_fastai.reader.session
const BARS = 10;
const COUNTS = ["", "One", "Two", "Three", "Four", "Five"];

/** @param {string} id @returns {any} the element, of whatever kind */
const byId = id => document.getElementById(id);
/** @param {Element} parent @param {string} name @param {string} [text] @param {string} [className] @returns {any} */
function element(parent, name, text = "", className = "") {
  const child = parent.appendChild(document.createElement(name));
  child.textContent = text;
  child.className = className;
  return child;
}
/** A canvas of 28×28 pixels. @param {Element} parent */
const thumbnail = parent => Object.assign(element(parent, "canvas"), { width: 28, height: 28 });

/** @type {import("./arrays.js").Contents} */
const contents = JSON.parse(byId("data").textContent);
const { classes, colors, mean, std, temperature, lowConfidence, sample, misclassified } = contents;
const trained = contents.layers.map(unpack);
const detect = contents.detector && makeDetector(contents.detector);
const neighbors = makeNeighbors(sample), sampleLabels = numbers(sample.labels);
const lastLinear = trained.findLastIndex(layer => layer.kind === "linear");
const featuresAt = lastLinear < 0 ? trained.length : lastLinear;  // in the outputs of `forward`
let layers = trained;

/** @param {Uint8Array} image */
const novelty = image => detect ? detect(forward(trained, image, mean, std)) : 0;

// --- the parts of the page -------------------------------------------------------------------------------------------

readTheme();
const map = makeMap(byId("map"), byId("mark"), contents);
const pad = new Pad(byId("pad"), changed);

const bars = Array.from({ length: Math.min(BARS, classes.length) }, () => {
  const row = element(byId("bars"), "li");
  return { row, name: element(row, "b"), bar: element(element(row, "span", "", "bar"), "i"), share: element(row, "span", "", "share") };
});

const nearest = Array.from({ length: 10 }, () => {
  const item = element(byId("nearest"), "li");
  return { item, canvas: Object.assign(thumbnail(item), { ariaHidden: "true" }), name: element(item, "span") };
});

// A layer's maps are shown after its activation
const blank = forward(trained, new Uint8Array(784), mean, std);
const stages = trained.flatMap((layer, i) => {
  if (!layer.outputs || (i >= featuresAt && layer.kind === "linear")) return [];
  const at = i + 1 + +["relu", "tanh"].includes(trained[i + 1]?.kind), { h, w, c } = blank[at];
  return [{ i, at, size: h * w === 1 ? `${c} features` : `${c} maps of ${w}×${h}` }];
}).map((stage, n) => {
  const name = `${trained[stage.i].kind === "conv" ? "Convolution" : "Linear layer"} ${n + 1}`;
  const figure = element(byId("layers"), "figure"), caption = element(figure, "figcaption");
  element(caption, "b", name);
  caption.append(stage.size);
  const button = Object.assign(element(figure, "button", "", "maps"), { type: "button", ariaLabel: `Enlarge a map of ${name}` });
  const canvas = element(button, "canvas"), frame = element(button, "i");
  button.onclick = (/** @type {MouseEvent} */ event) => {
    const { columns, dx, dy } = grid(blank[stage.at]), scale = canvas.width / canvas.clientWidth;
    const k = Math.floor(event.offsetY * scale / dy) * columns + Math.floor(event.offsetX * scale / dx);
    look(n, event.detail ? Math.min(k, blank[stage.at].c - 1) : 0);  // a key press has no place
    byId("lens").scrollIntoView({ block: "nearest" });
  };
  return { ...stage, name, canvas, frame };
});
const lens = { stage: 0, k: 0 };

/** Enlarge a map. @param {number} stage @param {number} k */
function look(stage, k) {
  Object.assign(lens, { stage, k });
  stages.forEach(({ frame, at }, n) => {
    frame.hidden = n !== stage;
    const { columns, rows, dx, dy } = grid(blank[at]), width = columns * dx - 1, height = rows * dy - 1;
    const left = (k % columns) * dx, top = Math.floor(k / columns) * dy;
    Object.assign(frame.style, { left: 100 * left / width + "%", top: 100 * top / height + "%",
      width: 100 * (dx - 1) / width + "%", height: 100 * (dy - 1) / height + "%" });
  });
  const { i, name, at } = stages[stage], weights = kernel(layers[i], k, blank[trained[i - 1]?.kind === "flatten" ? i - 1 : i]);
  byId("lens-name").textContent = `${name}, ${blank[at].h * blank[at].w === 1 ? "feature" : "map"} ${k + 1} of ${blank[at].c}`;
  const count = weights.h * weights.w === 1 ? `${weights.c} weights` : `${weights.w}×${weights.h}` + (weights.c > 1 ? `, for each of ${weights.c} maps` : "");
  byId("kernel-size").textContent = `Its ${layers[i].kind === "conv" ? "kernel" : "weights"}: ${count}`;
  paintMaps(byId("kernel"), weights);
  paintLens();
}
/** @param {number} step */
const next = step => look(lens.stage, (lens.k + step + blank[stages[lens.stage].at].c) % blank[stages[lens.stage].at].c);
byId("before").onclick = () => next(-1);
byId("after").onclick = () => next(1);

function paintLens() {
  const maps = (outputs ?? blank)[stages[lens.stage].at];
  paintMaps(byId("lens-map"), only(maps, lens.k), !outputs);
}

// --- from the square to the answer -----------------------------------------------------------------------------------

/** @type {import("./network.js").Maps[] | null} */
let outputs = null;  // of the last drawing
/** @type {Uint8Array<ArrayBuffer> | null} */
let image = null;
let first = 0, frame = 0, said = 0;  // the time of the first change that is not yet shown; timers

/** @param {number} time */
function changed(time) {
  first ||= time;
  frame ||= requestAnimationFrame(update);
}

function update() {
  const start = first;
  first = frame = 0;
  const found = pad.loaded >= 0 ? readRaw(pad.ink) : read(pad.ink, layers === trained && detect ? novelty : null, contents.join);
  image = found && found.image;
  outputs = image && forward(layers, image, mean, std);
  const p = outputs && softmax(outputs[layers.length].a, temperature);
  const best = p ? p.indexOf(Math.max(...p)) : -1;
  paintImage(byId("seen"), image);
  const saliency = outputs && byId("saliency").checked ? gradient(layers, outputs, best) : null;
  paintInk(byId("pad"), pad.ink, saliency && saliency.map((g, i) => g * /** @type {Uint8Array} */ (image)[i]),
    found ? found.place : { x: 0, y: 0, size: SIDE });
  byId("hint").hidden = found !== null || !pad.isBlank;
  showAnswer(p, best, found ? found.digits : 0);
  for (const { canvas, at } of stages) paintMaps(canvas, (outputs ?? blank)[at], !outputs);
  if (stages.length) paintLens();
  showNeighbors(outputs && layers === trained ? neighbors(outputs[featuresAt].a) : null);
  performance.measure("draw", { start });  // for benchmarks/draw.py, and the browser's own profiler
  performance.clearMeasures("draw");
}

/** @param {number[] | null} p @param {number} best @param {number} digits */
function showAnswer(p, best, digits) {
  const order = [...classes.keys()];
  if (p && classes.length > BARS) order.sort((a, b) => p[b] - p[a]);
  bars.forEach(({ row, name, bar, share }, i) => {
    const c = order[i];
    name.textContent = classes[c];
    bar.style.width = 100 * (p ? p[c] : 0) + "%";
    share.textContent = p ? percent(p[c]) : "";
    row.className = c === best ? "best" : "";
  });
  let answer = "", note = "";
  byId("bars").className = "";
  if (p) {
    const second = [...p.keys()].filter(c => c !== best).reduce((a, b) => p[b] > p[a] ? b : a, best ? 0 : p.length - 1);
    const new_ = layers === trained && detect ? detect(/** @type {any} */ (outputs)) : 0;
    if (digits > 1) [answer, note] = [`${COUNTS[digits] ?? digits} digits?`, "Draw one at a time"];
    else if (new_ > NOVEL) [answer, note] = ["No digit", `Unlike those that the network knows; most like ${classes[best]}`];
    else if (p[best] < lowConfidence) [answer, note] = ["Not sure", `${classes[best]}, or perhaps ${classes[second]}`];
    else [answer, note] = [classes[best], percent(p[best]) + " sure"];
    if (answer !== classes[best]) byId("bars").className = "doubt";
    if (pad.loaded >= 0) note += `. Its label is ${classes[misclassified.labels[pad.loaded]]}`;
  }
  byId("answer").textContent = answer;
  byId("answer").className = answer.length > 3 ? "words" : "";
  byId("note").textContent = note;
  clearTimeout(said);  // a screen reader hears it once the pen rests
  said = setTimeout(() => { byId("status").textContent = answer && `${answer}. ${note}`; }, 600);
}

/** @param {number} p */
const percent = p => (p > 0.999 && p < 1 ? Math.floor(1000 * p) / 10 : 100 * p).toFixed(1) + "%";

/** @param {import("./neighbors.js").Found | null} found */
function showNeighbors(found) {
  map.show(found);
  nearest.forEach(({ item, canvas, name }, rank) => {
    const i = found && found.nearest[rank];
    item.hidden = i == null;
    if (i == null || i === item.image) return;
    item.image = i;
    const columns = byId("sprite").naturalWidth / 28;
    pen(canvas).drawImage(byId("sprite"), 28 * (i % columns), 28 * Math.floor(i / columns), 28, 28, 0, 0, 28, 28);
    name.textContent = classes[sampleLabels[i]];
    item.style.setProperty("--color", colors[sampleLabels[i] % colors.length]);
  });
  byId("nearest").hidden = layers !== trained;
  byId("nearest-none").hidden = layers === trained;
}

// --- controls --------------------------------------------------------------------------------------------------------

byId("undo").onclick = () => pad.undo();
byId("clear").onclick = () => pad.clear();
byId("erase").onclick = () => {
  pad.erases = !pad.erases;
  byId("erase").setAttribute("aria-pressed", pad.erases);
};
byId("width").oninput = () => { pad.radius = byId("width").value / 2; };
byId("saliency").onchange = () => changed(performance.now());
byId("weights").onchange = (/** @type {Event} */ event) => {
  layers = /** @type {HTMLInputElement} */ (event.target).value === "random" ? randomize(trained) : trained;
  if (stages.length) look(lens.stage, lens.k);
  changed(performance.now());
};
addEventListener("keydown", event => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.key.toLowerCase() === "z" && (event.ctrlKey || event.metaKey)) pad.undo();
  else if (["Delete", "Backspace", "Escape"].includes(event.key) && !event.ctrlKey) pad.clear();
  else if (contents.collect && classes.includes(event.key) && !event.ctrlKey && !event.metaKey && target.tagName !== "INPUT") keep(classes.indexOf(event.key));
  else return;
  event.preventDefault();
});
matchMedia("(prefers-color-scheme: dark)").onchange = () => {
  readTheme();
  map.repaint();
  if (stages.length) look(lens.stage, lens.k);
  changed(performance.now());
};

// --- misclassified test images ---------------------------------------------------------------------------------------

const wrong = numbers(misclassified.images);
misclassified.index.forEach((index, i) => {
  const pixels = Uint8Array.from(wrong.subarray(784 * i, 784 * (i + 1)));
  const label = classes[misclassified.labels[i]], prediction = classes[misclassified.predictions[i]];
  const button = element(element(byId("wrong"), "li"), "button");
  button.type = "button";
  paintImage(Object.assign(thumbnail(button), { role: "img", ariaLabel: `Load test image ${index}:` }), pixels);
  element(button, "span", `${label} → ${prediction}`);
  button.onclick = () => {
    pad.load(pixels, i);
    byId("pad").scrollIntoView({ block: "nearest" });
  };
});
byId("misclassified").hidden = !misclassified.index.length;

// --- a data set of one's own -----------------------------------------------------------------------------------------

/** @type {{label: number, url: string}[]} */
let kept = [];
let isSaved = true;
const counts = classes.map((name, label) => {
  const button = element(byId("labels"), "button", name);
  Object.assign(button, { type: "button", onclick: () => keep(label) });
  return element(button, "small");
});

/** Keep the drawing as an image of a class. @param {number} label */
function keep(label) {
  if (!image) return;
  kept.push({ label, url: byId("seen").toDataURL("image/png") });
  isSaved = false;
  pad.clear();
  showKept();
}

function showKept() {
  counts.forEach((count, label) => { count.textContent = kept.filter(one => one.label === label).length || ""; });
  byId("download").disabled = byId("drop").disabled = !kept.length;
  byId("kept").textContent = kept.length === 1 ? "1 image" : `${kept.length} images`;
}

byId("drop").onclick = () => {
  kept.pop();
  showKept();
};
byId("download").onclick = () => {
  const names = folders(classes), files = kept.map(({ label, url }, i) => ({
    name: `my-digits/${names[label]}/${String(i + 1).padStart(4, "0")}.png`, bytes: bytes(url.split(",")[1]),
  }));
  const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(zip(files)), download: "my-digits.zip" });
  link.click();
  isSaved = true;
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
};
byId("collect").hidden = !contents.collect;
addEventListener("beforeunload", event => { if (!isSaved) event.preventDefault(); });

showKept();
if (stages.length) look(0, 0);
byId("lens").hidden = !stages.length;
byId("sprite").decode();  // else the first drawing waits for it
changed(performance.now());

// For the browser's console, and for the tests
Object.assign(globalThis, {
  page: {
    /** The class of each image. @param {Uint8Array} images [n, 28, 28] */
    classify: images => Array.from({ length: images.length / 784 }, (_, i) => {
      const logits = forward(trained, images.subarray(784 * i, 784 * (i + 1)), mean, std)[trained.length].a;
      return logits.indexOf(Math.max(...logits));
    }),
    /** What the network makes of an image. @param {Uint8Array} pixels 28×28 @param {number} output of the gradient */
    scores: (pixels, output = 0) => {
      const maps = forward(trained, pixels, mean, std), logits = maps[trained.length].a;
      return { logits: [...logits], probabilities: softmax(logits, temperature), novelty: detect && detect(maps),
        gradient: [...gradient(trained, maps, output)], ...neighbors(maps[featuresAt].a) };
    },
    pad, map,
    get image() { return image; },
    get layers() { return layers; },
  },
});
