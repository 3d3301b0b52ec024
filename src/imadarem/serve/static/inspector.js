/** What is known of the chosen token, and what a user wants changed before running on. */

import { h } from "./dom.js";
import { MEASURES, marksAt, valueAt } from "./record.js";

// A vocabulary up to so many tokens can be chosen from a list.
const LIST = 400;

/** The line under the player. Without `onRunOn` it only tells. */
export class Inspector {
  constructor({ vocabulary = [], onEdit, onRunOn, onClear }) {
    this.onEdit = onEdit;
    this.told = h("p", { class: "told" });
    this.element = h("div", { class: "inspector", "aria-label": "The chosen token", role: "group" }, this.told);
    if (!onRunOn) return;
    this.mask = h("button", { type: "button", id: "mask", "aria-pressed": "false", onclick: () => onEdit("mask") },
      "Mask it");
    this.fix = h("button", { type: "button", id: "fix", "aria-pressed": "false", onclick: () => onEdit("fix") },
      "Fix it");
    const choices = vocabulary.length <= LIST ? vocabulary : [];
    this.write = h("select", {
      id: "write", "aria-label": "Fix another token here", hidden: choices.length === 0,
      onchange: () => this.write.value && onEdit("write", this.write.value),
    }, h("option", { value: "" }, "Fix as …"), choices.map((token) => h("option", {}, token)));
    this.tools = h("div", { class: "edit-tools", hidden: true }, this.mask, this.fix, this.write);
    this.count = h("span", {});
    this.run = h("button", { type: "button", class: "strong", id: "run-on", onclick: onRunOn });
    this.pending = h("div", { class: "pending", hidden: true }, this.count,
      h("button", { type: "button", class: "quiet", id: "clear", onclick: onClear }, "Undo"), this.run);
    this.element.append(this.tools, this.pending);
  }

  /** Tell about a token, or how to choose one. */
  show(frame, position, edit) {
    if (this.tools) this.tools.hidden = !frame || position === null;
    if (!frame || position === null) {
      this.told.replaceChildren(this.tools ? "Choose a token to see its numbers, to mask it or to fix it."
        : "Choose a token to see its numbers.");
      return;
    }
    const marks = marksAt(frame, position).filter((name) => name !== "blank");
    const token = frame.tokens[position];
    const numbers = Object.entries(MEASURES).map(([name, { label, says }]) => {
      const value = valueAt(frame, position, name);
      return value === null ? null : h("span", { class: "number", title: says }, `${label.toLowerCase()} `, h("b", {}, value.toFixed(2)));
    });
    this.told.replaceChildren(
      h("code", { class: "chosen" }, token === "[MASK]" ? "blank" : token || "–"),
      h("span", { class: "muted" }, ` position ${position + 1}, step ${frame.step} `),
      ...numbers.filter(Boolean),
      ...marks.map((name) => h("span", { class: "tag" }, name === "remasked" ? "re-masked" : name)),
    );
    if (!this.tools) return;
    this.mask.setAttribute("aria-pressed", String(edit?.kind === "mask"));
    this.fix.setAttribute("aria-pressed", String(edit?.kind === "fix" && !edit.token));
    this.mask.disabled = frame.states[position] === "PAD";
    this.fix.disabled = token === "[MASK]" || token === "";
    this.write.value = edit?.token ?? "";
  }

  /** How many edits wait, and from which step the run goes on. */
  wait(step, edits) {
    if (!this.pending) return;
    const of = (kind) => [...edits.values()].filter((edit) => edit.kind === kind).length;
    const parts = [[of("fix"), "fixed"], [of("mask"), "masked"]].filter(([n]) => n > 0);
    this.pending.hidden = edits.size === 0;
    this.count.textContent = parts.map(([n, word]) => `${n} ${word}`).join(", ");
    this.run.textContent = `Run on from step ${step}`;
  }
}
