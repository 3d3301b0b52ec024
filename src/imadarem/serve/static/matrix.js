/** The grid of tokens × steps: a row per step, a column per position; on a phone the other way. */

import { h } from "./dom.js";
import { MEASURES, heatOf, marksAt, shortToken, valueAt } from "./record.js";

const NARROW = matchMedia("(max-width: 640px)");

const SAID = {
  blank: "blank", end: "end", given: "given", frozen: "behind the end",
  changed: "changed", remasked: "re-masked",
};

/** One run's grid. `onPick(step, position)` hears clicks and the keys of the grid. */
export class Matrix {
  constructor({ frames, positions, measure, label, onPick }) {
    this.positions = positions;
    this.measure = measure;
    this.onPick = onPick;
    [this.frames, this.cells, this.heads, this.rows] = [[], [], [], []];
    this.band = h("div", { class: "band", "aria-hidden": "true", "--count": positions + 1 });
    this.element = h("div", {
      class: "matrix", role: "grid", "aria-label": label,
      "aria-readonly": "true",
      onclick: (event) => this.#clicked(event), onkeydown: (event) => this.#pressed(event),
    }, this.band);
    frames.forEach((frame) => this.add(frame));
  }

  /** One more step; those before it stay as they are. */
  add(frame) {
    const step = this.frames.push(frame) - 1;
    const head = this.#head(step);
    const cells = Array.from({ length: this.positions }, (_, i) => this.#cell(frame, step, i));
    const row = h("div", { role: "row", class: "row" }, head, cells);
    this.heads.push(head);
    this.cells.push(cells);
    this.rows.push(row);
    cells.forEach((cell, i) => this.#paint(cell, step, i));
    row.classList.toggle("later", step > this.step);
    this.element.append(row);
  }

  /** Move the band to a step and grey what comes after it. */
  setStep(step) {
    this.step = step;
    this.band.style.setProperty("--s", step + 1);
    this.rows.forEach((row, at) => {
      row.classList.toggle("now", at === step);
      row.classList.toggle("later", at > step);
    });
    this.#rove(this.selected ?? { step, position: 0 });
  }

  setMeasure(measure) {
    this.measure = measure;
    this.cells.forEach((cells, step) => cells.forEach((cell, i) => this.#paint(cell, step, i)));
  }

  /** Mark one token, {step, position}, or none; it is scrolled to sideways. */
  select(place) {
    this.#at(this.selected)?.removeAttribute("aria-selected");
    this.selected = place;
    const cell = this.#at(place);
    cell?.setAttribute("aria-selected", "true");
    this.#rove(place ?? { step: this.step, position: 0 });
    const room = this.element.parentElement;
    if (!cell || !room) return;
    const [inner, outer] = [cell.getBoundingClientRect(), room.getBoundingClientRect()];
    const left = outer.left + this.heads[0].offsetWidth;
    if (inner.left < left) room.scrollLeft -= left - inner.left + inner.width;
    else if (inner.right > outer.right) room.scrollLeft += inner.right - outer.right + inner.width;
  }

  focus(step, position) {
    this.cells[step]?.[position]?.focus();
  }

  /** Show what a user wants fixed or masked at a step: a Map of position to edit. */
  setEdits(step, edits) {
    this.element.querySelectorAll(".to-fix, .to-mask").forEach((cell) =>
      cell.classList.remove("to-fix", "to-mask"));
    for (const [position, edit] of edits) {
      this.cells[step]?.[position]?.classList.add(`to-${edit.kind}`);
    }
  }

  #cell(frame, step, position) {
    return h("div", {
      role: "gridcell", tabindex: -1, "data-step": step, "data-position": position,
      "--s": step + 1, "--p": position + 2,
    }, h("span", {}, this.#text(frame, step, position)));
  }

  #head(step) {
    return h("div", { role: "rowheader", class: "head", "data-head": step, "--s": step + 1 }, `${step}`);
  }

  /** What went back to blank is shown as it was, struck through. */
  #text(frame, step, position) {
    const before = step > 0 && frame.remasked?.[position];
    return shortToken((before ? this.frames[step - 1] : frame).tokens[position] ?? "");
  }

  #paint(cell, step, position) {
    const frame = this.frames[step];
    const marks = marksAt(frame, position);
    const value = valueAt(frame, position, this.measure);
    const judged = value !== null && !(this.measure !== "gate" && marks.includes("blank"));
    const kept = [...cell.classList].filter((name) => name.startsWith("to-"));
    const heat = judged ? `h${heatOf(value, this.measure)}` : "unjudged";
    cell.className = ["cell", heat, ...marks, ...kept].join(" ");
    const said = marks.map((name) => SAID[name]);
    const token = marks.includes("blank") ? "" : frame.tokens[position];
    const number = judged ? `${MEASURES[this.measure].label.toLowerCase()} ${value.toFixed(2)}` : "";
    cell.setAttribute("aria-label", [
      `step ${step}, position ${position + 1}`, token, ...said, number,
    ].filter(Boolean).join(", "));
  }

  #at(place) {
    return place ? this.cells[place.step]?.[place.position] : null;
  }

  /** One cell at a time is in the order of the Tab key. */
  #rove(place) {
    this.element.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
    this.#at(place)?.setAttribute("tabindex", "0");
  }

  #clicked(event) {
    const target = event.target.closest("[data-step], [data-head]");
    if (!target) return;
    if (target.dataset.head !== undefined) this.onPick(Number(target.dataset.head), null);
    else this.onPick(Number(target.dataset.step), Number(target.dataset.position));
  }

  #pressed(event) {
    const cell = event.target.closest("[data-step]");
    if (!cell || event.altKey || event.ctrlKey || event.metaKey) return;
    const step = Number(cell.dataset.step);
    const position = Number(cell.dataset.position);
    const [across, down] = NARROW.matches ? [[1, 0], [0, 1]] : [[0, 1], [1, 0]];
    const moves = {
      ArrowRight: across, ArrowLeft: across.map((n) => -n),
      ArrowDown: down, ArrowUp: down.map((n) => -n), Enter: [0, 0],
    };
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    const to = [step + move[0], position + move[1]];
    if (!this.cells[to[0]]?.[to[1]]) return;
    this.onPick(...to);
    this.focus(...to);
  }
}
