/** One run on the page: its title and facts, what the tokens are, the grid and the chart. */

import { chart } from "./chart.js";
import { h } from "./dom.js";
import { Matrix } from "./matrix.js";
import { framesOf, reasonInWords } from "./record.js";
import { Stage } from "./stage.js";

/** A run is {title, kind, row, steps?, live?}; `onPick(step, position or null)` hears its places. */
export class RunView {
  constructor(run, { draw, onPick, measure }) {
    this.onPick = onPick;
    this.measure = measure;
    this.step = 0;
    this.stage = new Stage({ kind: run.kind, draw, onPick });
    this.facts = h("p", { class: "facts" });
    this.now = h("p", { class: "facts now-facts" });
    this.scroller = h("div", { class: "scroller" });
    this.plot = h("figure", { class: "plot" });
    this.element = h("article", { class: `run ${run.kind}`, "aria-label": `Run with ${run.title}` },
      h("header", {}, h("h2", {}, run.title), this.facts),
      h("div", { class: "body" },
        h("div", { class: "seen" }, this.stage.element, this.now),
        h("div", { class: "history" }, this.scroller, this.plot)));
    new ResizeObserver(() => this.#plot()).observe(this.plot);
    this.update(run);
  }

  /** Take a run that has more steps than before. */
  update(run) {
    this.run = run;
    this.frames = framesOf(run.row);
    this.last = this.frames.length - 1;
    if (!this.matrix) {
      this.matrix = new Matrix({
        frames: [],
        positions: run.row.start.length,
        measure: this.measure,
        label: `${run.title}: tokens by step`,
        onPick: this.onPick,
      });
      this.scroller.append(this.matrix.element);
    }
    this.frames.slice(this.matrix.frames.length).forEach((frame) => this.matrix.add(frame));
    this.facts.replaceChildren(...this.#summary());
    this.setStep(Math.min(this.step, this.last));
  }

  /** Shorter runs stay at their end while a longer one goes on. */
  setStep(step) {
    this.step = Math.min(step, this.last);
    this.matrix.setStep(this.step);
    this.stage.show(this.frames[this.step], this.measure);
    this.now.textContent = this.#sentence();
    this.#plot();
  }

  /** Show what is chosen, {step, position} or null, and the edits that wait at a step. */
  mark(chosen, step, edits) {
    this.matrix.select(chosen);
    this.matrix.setEdits(step, edits);
    const here = chosen?.step === this.step ? chosen.position : null;
    this.stage.mark(here, step === this.step ? edits : new Map());
  }

  setMeasure(measure) {
    this.measure = measure;
    this.matrix.setMeasure(measure);
    this.setStep(this.step);
  }

  #summary() {
    const passes = this.frames[this.last].forward_passes;
    const count = h("strong", {}, `${passes} forward ${passes === 1 ? "pass" : "passes"}`);
    if (this.run.live) return [count, " so far …"];
    const { stopping_reason: reason } = this.run.row;
    return [count, " · stopped: ", h("code", {}, reason), ` – ${reasonInWords(reason)}`];
  }

  #sentence() {
    const frame = this.frames[this.step];
    if (this.step === 0) return "Before the first step.";
    const share = `${Math.round(frame.changed_fraction * 100)} % changed`;
    const halt = frame.halt === null || frame.halt === undefined ? "" : `, halting ${frame.halt.toFixed(2)}`;
    return `Step ${this.step} of ${this.last}: ${share}, ${frame.forward_passes} passes${halt}.`;
  }

  #plot() {
    const width = this.plot.clientWidth;
    if (!width) return;
    const steps = this.run.live ? Math.max(this.run.steps, this.last) : this.last;
    this.plot.replaceChildren(chart({
      frames: this.frames, steps, measure: this.measure, width, step: this.step,
      onPick: (step) => this.onPick(step, null),
    }));
  }
}
