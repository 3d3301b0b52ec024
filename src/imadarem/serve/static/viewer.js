/** One or two runs with one player: the part that the studio and the exported file share. */

import { h } from "./dom.js";
import { Inspector } from "./inspector.js";
import { Player } from "./player.js";
import { MEASURES, canvasFrom } from "./record.js";
import { RunView } from "./run.js";

/** Options: `draw(text)` → promise of an SVG or null; `onRunOn({tokens, given, step})` where a
 *  run can go on from an edited canvas; `vocabulary` to choose tokens from. */
export class Viewer {
  constructor({ draw, onRunOn = null, vocabulary = [] }) {
    this.draw = draw;
    this.onRunOn = onRunOn;
    this.measure = "gate";
    this.views = [];
    this.chosen = null;
    this.edits = { run: 0, step: 0, of: new Map() };
    this.player = new Player((step) => {
      this.views.forEach((view) => view.setStep(step));
      this.#showEdits();
    });
    this.inspector = new Inspector({
      vocabulary,
      onEdit: (kind, token) => this.edit(kind, token),
      onRunOn: onRunOn && (() => this.#runOn()),
      onClear: () => this.clear(),
    });
    this.runs = h("div", { class: "runs" });
    this.element = h("section", { class: "viewer", "aria-label": "Refinement, step by step" },
      h("div", { class: "reading" }, this.#measures(), this.#legend()),
      this.runs,
      h("div", { class: "dock" }, this.player.element, this.inspector.element));
    this.clear();
  }

  /** Show these runs from the start on, or all at once. */
  show(runs, { atEnd = true } = {}) {
    this.player.pause();
    this.views = runs.map((run, number) => new RunView(run, {
      draw: this.draw,
      measure: this.measure,
      onPick: (step, position) => this.#picked(number, step, position),
    }));
    this.runs.replaceChildren(...this.views.map((view) => view.element));
    this.runs.classList.toggle("two", runs.length > 1);
    this.clear();
    this.player.step = 0;
    this.player.last = 0;
    if (atEnd) this.player.extend(this.#last());
    else this.player.go(0);
  }

  /** One run has more steps. */
  update(number, run) {
    this.views[number].update(run);
    this.player.live &&= this.views.some((view) => view.run.live);
    this.player.extend(this.#last());
  }

  setMeasure(measure) {
    this.measure = measure;
    this.element.querySelector(`input[value="${measure}"]`).checked = true;
    this.#say();
    this.views.forEach((view) => view.setMeasure(measure));
  }

  /** Keys of the page; true where one was meant for here. */
  pressed(key) {
    const actions = {
      " ": () => (this.player.playing ? this.player.pause() : this.player.play()),
      ArrowLeft: () => this.player.go(this.player.step - 1),
      ArrowRight: () => this.player.go(this.player.step + 1),
      Home: () => this.player.go(0),
      End: () => this.player.go(this.player.last),
      g: () => this.setMeasure("gate"),
      e: () => this.setMeasure("entropy"),
      c: () => this.setMeasure("confidence"),
      "+": () => this.player.faster(1),
      "-": () => this.player.faster(-1),
      m: () => this.edit("mask"),
      f: () => this.edit("fix"),
      Escape: () => this.clear(),
    };
    if (!actions[key] || this.views.length === 0) return false;
    actions[key]();
    return true;
  }

  /** Mark the chosen token to be masked, fixed, or fixed as another; the same again undoes it. */
  edit(kind, token) {
    if (!this.onRunOn || !this.chosen) return;
    const { run, step, position } = this.chosen;
    const frame = this.views[run].frames[step];
    const standing = frame.tokens[position];
    if (kind === "fix" && (standing === "[MASK]" || standing === "")) return;
    if (this.edits.run !== run || this.edits.step !== step) this.edits = { run, step, of: new Map() };
    const wanted = kind === "write" ? { kind: "fix", token } : { kind };
    const before = this.edits.of.get(position);
    if (before && before.kind === wanted.kind && before.token === wanted.token) this.edits.of.delete(position);
    else this.edits.of.set(position, wanted);
    this.#showEdits();
  }

  /** Forget the choice and the edits. */
  clear() {
    this.edits = { run: 0, step: 0, of: new Map() };
    this.chosen = null;
    this.#showEdits();
  }

  #last() {
    return Math.max(0, ...this.views.map((view) => view.last));
  }

  #picked(run, step, position) {
    if (this.player.step !== step) this.player.go(step);
    else this.player.pause();
    this.chosen = position === null ? null : { run, step, position };
    this.#showEdits();
  }

  #showEdits() {
    const { run, step, of } = this.edits;
    const { chosen } = this;
    this.views.forEach((view, number) => view.mark(
      chosen?.run === number ? chosen : null, step, number === run ? of : new Map(),
    ));
    const frame = chosen && this.views[chosen.run]?.frames[chosen.step];
    const mine = chosen && chosen.run === run && chosen.step === step;
    this.inspector.show(frame, chosen?.position ?? null, mine ? of.get(chosen.position) : null);
    this.inspector.wait(step, of);
  }

  #runOn() {
    const { run, step, of } = this.edits;
    this.onRunOn({ ...canvasFrom(this.views[run].frames[step], of), step });
  }

  #measures() {
    const options = Object.entries(MEASURES).map(([name, { label }]) =>
      h("label", {}, h("input", {
        type: "radio", name: "measure", value: name, checked: name === this.measure,
        onchange: () => this.setMeasure(name),
      }), label));
    return h("div", { class: "segments", role: "radiogroup", "aria-label": "What the colour means" }, options);
  }

  #legend() {
    this.low = h("span", {});
    this.high = h("span", {});
    this.meaning = h("span", { class: "meaning muted" });
    const ramp = Array.from({ length: 11 }, (_, level) => h("i", { class: `h${level}` }));
    const sign = (marks, text, word) =>
      h("span", { class: "sign" }, h("span", { class: `cell ${marks}` }, text), word);
    this.#say();
    return h("div", { class: "legend" },
      h("span", { class: "ramp", role: "img", "aria-label": "From certain to uncertain" }, this.low, ramp, this.high),
      this.meaning,
      h("span", { class: "signs" },
        sign("unjudged changed", "C", "changed"), sign("unjudged remasked", "C", "re-masked"),
        sign("unjudged given", "C", "given"), sign("unjudged frozen", "", "frozen"),
        sign("unjudged end", "end", "end")));
  }

  #say() {
    const [low, high] = this.measure === "confidence" ? ["1", "0"] : ["0", "1"];
    this.low.textContent = low;
    this.high.textContent = high;
    this.meaning.textContent = MEASURES[this.measure].says;
  }
}
