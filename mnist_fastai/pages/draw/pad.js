// The square that is drawn on: pointers, undo, and images that are loaded to be mended.

import { SIDE, SIZE, stroke } from "./ink.js";

const UNDO = 50;  // steps

export class Pad {
  /** @type {Uint8Array} */
  ink = new Uint8Array(SIDE * SIDE);
  radius = 14;
  erases = false;
  /** Which test image was loaded, so that the square is read as it is; -1: a drawing, which is cropped and centred. */
  loaded = -1;
  /** @type {{ink: Uint8Array, loaded: number}[]} */
  #undo = [];
  /** @type {{x: number, y: number, r: number} | null} */
  #last = null;

  /** @param {HTMLCanvasElement} canvas @param {(time: number) => void} changed at that time */
  constructor(canvas, changed) {
    this.changed = changed;
    canvas.addEventListener("pointerdown", event => {
      if (event.button || this.#last) return;  // one pointer draws at a time
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      this.#save();
      this.#draw(canvas, event);
    });
    canvas.addEventListener("pointermove", event => {
      if (!this.#last || !canvas.hasPointerCapture(event.pointerId)) return;
      const all = event.getCoalescedEvents?.() ?? [];  // what the screen was too slow to show
      for (const part of all.length ? all : [event]) this.#draw(canvas, part);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => this.#last = null);
  }

  /** @param {HTMLCanvasElement} canvas @param {PointerEvent} event */
  #draw(canvas, event) {
    const box = canvas.getBoundingClientRect(), scale = SIDE / box.width;
    const pressed = event.pointerType === "pen" && event.pressure ? 0.4 + 1.2 * event.pressure : 1;  // 0.5 is usual
    const at = { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale, r: this.radius * pressed };
    stroke(this.ink, this.#last ?? at, at, this.erases);
    this.#last = at;
    this.changed(event.timeStamp);
  }

  #save() {
    this.#undo.push({ ink: this.ink.slice(), loaded: this.loaded });
    if (this.#undo.length > UNDO) this.#undo.shift();
  }

  get isBlank() {
    return !this.ink.some(v => v);
  }

  undo() {
    const before = this.#undo.pop();
    if (!before) return;
    [this.ink, this.loaded, this.#last] = [before.ink, before.loaded, null];
    this.changed(performance.now());
  }

  clear() {
    if (this.isBlank && this.loaded < 0) return;
    this.#save();
    this.ink = new Uint8Array(SIDE * SIDE);
    this.loaded = -1;
    this.changed(performance.now());
  }

  /** @param {Uint8Array} image 28×28 @param {number} number */
  load(image, number) {
    this.#save();
    const step = SIDE / SIZE;
    this.ink = this.ink.map((_, i) => image[Math.floor(i / SIDE / step) * SIZE + Math.floor((i % SIDE) / step)]);
    this.loaded = number;
    this.changed(performance.now());
  }
}
