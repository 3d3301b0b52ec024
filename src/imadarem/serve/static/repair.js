/** The repair view: what looks wrong in a sequence and why, and each edit to accept or refuse. */

import { h } from "./dom.js";
import { codeButtons } from "./requests.js";
import { image } from "./stage.js";

/** The view opens on the first one. */
const EXAMPLES = [
  ["a branch left open", "COc1ccc(C(=O)N2CCOCC2cc1"],
  ["a bracket too many", "COc1ccc(CNC(=O)c2cccs2))cc1"],
  ["a wrong atom", "O=C(NCc1ccco1)c1ccc(F)cn1Cl"],
];
const ALTERNATIVES = 5;
/** A gap is shown where its probability is above this. */
const VISIBLE_GAP = 0.05;

export class RepairView {
  /** `fail(error, again)` shows an error, `fail(null)` takes it away. */
  constructor({ api, fail }) {
    Object.assign(this, { api, fail, models: [], protected: new Set(), refused: new Set() });
    const field = (label, control) => h("div", {}, h("label", { for: control.id }, label), control);
    this.sequence = h("input", {
      id: "sequence", autocomplete: "off", autocapitalize: "off", spellcheck: "false",
      oninput: () => this.protected.clear(),
    });
    this.button = h("button", { class: "strong", id: "mend", type: "submit", disabled: true }, "Repair");
    this.model = h("select", { id: "repair-model", onchange: () => this.#modelChosen() });
    this.check = h("select", { id: "check", onchange: () => this.run() },
      h("option", { value: "none" }, "the model's judge"), h("option", { value: "rdkit" }, "RDKit"));
    this.threshold = h("input", { id: "threshold", type: "number", min: 0, max: 1, step: 0.05, placeholder: 0.5 });
    this.budget = h("input", { id: "budget", type: "number", min: 1, max: 500, step: 1, placeholder: 60 });
    this.result = h("div", { class: "mended", "aria-live": "polite" });
    this.code = codeButtons(() => ["/v1/repair", this.#request()]);
    this.element = h("div", {},
      h("form", { class: "ask", "aria-label": "What to repair", novalidate: true, onsubmit: (event) => {
        event.preventDefault();
        this.run();
      } },
      h("div", { class: "prompt" },
        h("label", { for: "sequence" }, "Sequence to check and repair"), this.sequence, this.button),
      h("p", { class: "examples" }, "Try", EXAMPLES.map(([name, text]) =>
        h("button", { type: "button", onclick: () => this.open({ sequence: text }) }, name))),
      h("div", { class: "fields four" },
        field("Model", this.model), field("Checked by", this.check),
        field("Threshold", this.threshold), field("Most calls of RDKit", this.budget))),
      this.result);
  }

  /** The models of the server: those that judge, or that write molecules, which RDKit checks. */
  fill(models) {
    this.models = models.filter(({ kind, judge }) => judge && kind !== "sudoku");
    this.model.replaceChildren(...this.models.map(({ id }) => h("option", { value: id }, id)));
    this.button.disabled = this.models.length === 0;
    return this.models.length > 0;
  }

  /** Show a repair: of the example, or of what a link says. */
  open({ sequence = EXAMPLES[0][1], model = "" } = {}) {
    if (this.models.some(({ id }) => id === model)) this.model.value = model;
    this.#limits();
    this.opened = true;
    this.sequence.value = sequence;
    this.protected.clear();
    this.run();
  }

  /** Judge and repair what stands in the field. */
  async run() {
    if (this.button.disabled || !this.sequence.value.trim()) return;
    this.running?.abort();
    const abort = new AbortController();
    this.running = abort;
    this.fail(null);
    this.result.setAttribute("aria-busy", "true");
    const { check, budget, threshold, protected: kept, ...judged } = this.#request();
    try {
      const [judgement, repair] = await Promise.all([
        this.api.review("judge", { ...judged, alternatives: ALTERNATIVES }, abort.signal),
        this.api.review("repair", this.#request(), abort.signal),
      ]);
      if (this.running !== abort) return;
      this.refused.clear();
      this.#show(judgement, repair);
      const link = new URLSearchParams({ view: "repair", model: this.model.value, sequence: judgement.text });
      history.replaceState(null, "", `#${link}`);
    } catch (error) {
      if (this.running !== abort || error.name === "AbortError") return;
      this.fail(error, () => this.run());
    } finally {
      if (this.running === abort) {
        this.running = null;
        this.result.setAttribute("aria-busy", "false");
      }
    }
  }

  #request() {
    const number = ({ value }) => (value === "" ? undefined : Number(value));
    const kept = [...this.protected].sort((a, b) => a - b);
    const fields = {
      model: this.model.value, rows: [this.sequence.value.trim()], check: this.check.value,
      threshold: number(this.threshold), budget: number(this.budget),
      protected: kept.length ? [kept] : undefined,
    };
    return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
  }

  #modelChosen() {
    this.#limits();
    this.protected.clear();
    this.run();
  }

  /** RDKit checks molecules only. */
  #limits() {
    const { kind } = this.models.find(({ id }) => id === this.model.value);
    const molecules = kind === "molecules";
    this.check.querySelector("[value=rdkit]").disabled = !molecules;
    this.check.value = molecules ? "rdkit" : "none";
    this.budget.disabled = !molecules;
  }

  #show(judgement, repair) {
    Object.assign(this, { judgement, repair });
    this.about = h("p", { class: "why", id: "why" });
    this.after = h("div", { class: "pair" });
    this.edits = h("ol", { class: "edits" }, repair.edits.map((edit, number) => this.#edit(edit, number)));
    this.result.replaceChildren(
      h("p", { class: "status", id: "mended" }, this.#outcome()),
      h("div", { class: "tokens", role: "group", "aria-label": "The given tokens; a click protects one" },
        judgement.tokens.map((_, i) => [this.#gap(i), this.#token(i)]), this.#gap(judgement.tokens.length)),
      this.about, this.#legend(), this.edits, this.after, this.code);
    this.#explain(this.#mostSuspect());
    this.#compose();
  }

  #outcome() {
    const { reason, edits, checks } = this.repair;
    const count = edits.length === 1 ? "one edit" : `${edits.length} edits`;
    const calls = this.check.value === "rdkit" ? `, ${checks} ${checks === 1 ? "call" : "calls"} of RDKit` : "";
    return {
      clean: `Nothing to repair${calls}.`,
      repaired: `Repaired by ${count}; nothing looks wrong now.`,
      checked: `Repaired by ${count}${calls}.`,
      gave_up: `Not repaired${calls}. The sequence is unchanged.`,
    }[reason];
  }

  #token(position) {
    const wrong = this.judgement.wrong[position];
    const kept = this.protected.has(position);
    return h("button", {
      type: "button", class: `chip h${heat(wrong)}`, "data-token": position, "aria-pressed": String(kept),
      "aria-label": `${this.judgement.tokens[position]}: probability of being wrong ${percent(wrong)}`,
      ...this.#explained({ position }),
      onclick: () => {
        if (!this.protected.delete(position)) this.protected.add(position);
        this.run();
      },
    }, this.judgement.tokens[position]);
  }

  /** Where something looks missing, or is inserted by an edit. */
  #gap(position) {
    const missing = this.judgement.missing[position];
    const inserts = this.repair.edits.some((edit) => edit.kind === "insert" && edit.position === position);
    if (missing < VISIBLE_GAP && !inserts) return null;
    return h("button", {
      type: "button", class: `gap h${heat(missing)}`, "data-gap": position,
      "aria-label": `Gap: probability that tokens are missing ${percent(missing)}`,
      ...this.#explained({ position, isGap: true }),
    }, "+");
  }

  #explained(place) {
    const explain = () => this.#explain(place);
    return { "aria-describedby": "why", onmouseenter: explain, onfocus: explain };
  }

  #mostSuspect() {
    const { wrong, missing } = this.judgement;
    const [token, gap] = [Math.max(...wrong), Math.max(...missing)];
    return gap > token ? { position: missing.indexOf(gap), isGap: true } : { position: wrong.indexOf(token) };
  }

  /** Why a place looks wrong, and what else could stand there. */
  #explain({ position, isGap = false }) {
    const { tokens, wrong, missing, surprise, replacements, insertions } = this.judgement;
    const listed = (isGap ? insertions : replacements)[position];
    const said = isGap
      ? [`Before position ${position + 1}: probability that tokens are missing `, h("b", {}, percent(missing[position]))]
      : [h("code", { class: "chosen" }, tokens[position]), ` at position ${position + 1}: probability of being wrong `,
        h("b", {}, percent(wrong[position])), ", of this token here ",
        h("b", {}, percent(Math.exp(-surprise[position])))];
    const others = listed.flatMap(({ token, probability }) => [
      " ", h("span", { class: "number" }, h("code", {}, token || "∅"), ` ${percent(probability)}`)]);
    this.about.replaceChildren(...said, ". Most likely here: ", ...others);
  }

  #legend() {
    const ramp = Array.from({ length: 11 }, (_, level) => h("i", { class: `h${level}` }));
    return h("p", { class: "legend muted" },
      h("span", { class: "ramp", role: "img", "aria-label": "From right to wrong" }, "right", ramp, "wrong"),
      h("span", {}, h("b", { class: "gap" }, "+"), "a gap where tokens may be missing"),
      h("span", {}, "Point at a token for its numbers; click it to protect it from changes."));
  }

  #edit(edit, number) {
    const { position, kind, before, after, probability } = edit;
    const words = { replace: "replace", insert: "insert", delete: "delete" }[kind];
    const change = { replace: `${before} → ${after}`, insert: after, delete: before }[kind];
    const box = h("input", {
      type: "checkbox", checked: true, onchange: () => {
        if (box.checked) this.refused.delete(number);
        else this.refused.add(number);
        this.#compose();
      },
    });
    const place = `${kind === "insert" ? "before" : "at"} position ${position + 1}`;
    const doubt = probability === null ? "" : `; probability of an error here ${percent(probability)}`;
    return h("li", {}, h("label", {}, box, `${words} `, h("code", {}, change),
      h("span", { class: "muted" }, ` ${place}${doubt}`)));
  }

  /** The row with the accepted edits alone, beside the row as it was given. */
  #compose() {
    const { tokens, text: given } = this.judgement;
    const all = this.repair.edits;
    const edits = all.filter((_, number) => !this.refused.has(number));
    const whole = edits.length === all.length ? this.repair.text : applied(tokens, edits).join("");
    this.text = edits.length ? whole : given;
    this.#mark(edits);
    const molecules = this.models.find(({ id }) => id === this.model.value).kind === "molecules";
    this.after.replaceChildren(
      this.#side("Before", given, molecules), this.#side("After", this.text, molecules));
  }

  /** What the accepted edits take out is struck through, what they put in stands behind it. */
  #mark(edits) {
    this.result.querySelectorAll(".chip, .tokens .gap").forEach((place) => {
      const isGap = place.dataset.gap !== undefined;
      const position = Number(place.dataset.gap ?? place.dataset.token);
      const here = edits.filter((edit) => edit.position === position && (edit.kind === "insert") === isGap);
      const after = here.map((edit) => edit.after ?? "").join("");
      place.classList.toggle("struck", here.length > 0 && !isGap);
      place.classList.toggle("added", here.length > 0 && isGap);
      if (isGap) place.textContent = after || "+";
      else place.replaceChildren(this.judgement.tokens[position], after && h("ins", {}, after));
    });
  }

  #side(title, text, molecules) {
    const picture = h("div", { class: "picture" });
    if (molecules) {
      this.api.draw(text).then((svg) => picture.replaceChildren(
        svg ? image(svg, text) : h("p", { class: "muted none" }, "RDKit cannot read it")));
    }
    const copy = h("button", { type: "button", class: "quiet", onclick: () => navigator.clipboard?.writeText(text) }, "Copy");
    return h("figure", { class: title.toLowerCase() }, h("figcaption", {}, title, copy),
      molecules ? picture : null, h("p", { class: "smiles mono" }, text));
  }
}

/** The tokens after edits; positions are those of the tokens as given. */
export function applied(tokens, edits) {
  const before = tokens.map(() => []);
  before.push([]);
  const now = [...tokens];
  for (const { position, kind, after } of edits) {
    if (kind === "insert") before[position].push(after);
    else now[position] = kind === "delete" ? null : after;
  }
  return before.flatMap((inserted, i) => [...inserted, ...(i < now.length && now[i] !== null ? [now[i]] : [])]);
}

function heat(probability) {
  return Math.round(Math.min(Math.max(probability, 0), 1) * 10);
}

function percent(probability) {
  if (probability > 0 && probability < 0.005) return "< 1 %";
  return `${Math.round(100 * probability)} %`;
}
