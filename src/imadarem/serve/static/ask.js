/** The form: which model, what to start from, how to refine. */

import { h } from "./dom.js";

const PROMPTS = {
  molecules: {
    label: "Prompt, in SELFIES; empty for a canvas of blanks",
    placeholder: "[C][C]<mask><mask><mask>[O]",
    examples: [
      ["blanks", ""],
      ["an ether with holes", "[C][C][O]<mask><mask><mask><mask><mask><mask><mask><mask>"],
      ["a ring to decorate", "[C][=C][C][=C]<mask><mask><mask>[C][=C][Ring1][=Branch1]<mask><mask><mask>"],
    ],
  },
  smiles: {
    label: "Prompt, in SMILES; empty for a canvas of blanks",
    placeholder: "CC(=O)N<mask><mask><mask>",
    examples: [
      ["blanks", ""],
      ["an amide with holes", "CC(=O)N<mask><mask><mask><mask><mask><mask><mask>"],
      ["a ring to decorate", "O=C(<mask><mask><mask>)c1ccc(<mask><mask>)cc1"],
    ],
  },
  sudoku: {
    label: "Puzzle, row by row, with . for a blank",
    placeholder: "53..7....6..195...",
    examples: [
      ["9 × 9", "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"],
      ["harder", ".54.9..2.....3.9.4.9...53...7..2..1...3..8...2.6....3.9....7.63.65.8...7....6.4.."],
      ["6 × 6", "65.4.2....6........2.3..1......4...5"],
    ],
  },
  text: { label: "Prompt, with <mask> for each blank; empty for a canvas of blanks", placeholder: "", examples: [["blanks", ""]] },
};
const BIGGEST_SEED = 2 ** 31;
/** Steps that are shown of a model whose default is a single one. */
const STEPS_TO_WATCH = 6;

const $ = (id) => document.getElementById(id);

/** Fields that a link holds, in the order in which they are filled. */
const FIELDS = ["model", "prompt", "policy", "other", "steps", "temperature", "length", "seed"];

/** The fields of the page, filled from what the server says of its models. */
export class Ask {
  constructor({ onModel }) {
    this.onModel = onModel;
    this.models = [];
    $("model").addEventListener("change", () => this.#modelChosen());
    $("policy").addEventListener("change", () => this.#explain());
    $("other").addEventListener("change", () => this.#explain());
    $("prompt").addEventListener("input", () => this.#lengthCounts());
    $("dice").addEventListener("click", () => {
      $("seed").value = Math.floor(Math.random() * BIGGEST_SEED);
    });
  }

  /** The models of the server; the first one is chosen. */
  fill(models) {
    this.models = models;
    $("model").replaceChildren(...models.map(({ id }) => h("option", { value: id }, id)));
    for (const id of ["model", "policy", "other", "run"]) $(id).disabled = false;
    this.#modelChosen();
  }

  get model() {
    return this.models.find(({ id }) => id === $("model").value);
  }

  /** One policy, or two to be seen beside each other. */
  get policies() {
    return [$("policy").value, $("other").value].filter(Boolean);
  }

  /** Most steps that may come. */
  get steps() {
    return number("steps") ?? this.model.default_steps;
  }

  /** A request's settings, without policy and canvas. */
  settings() {
    return whole({
      model: this.model.id, steps: number("steps"), temperature: number("temperature"),
      seed: number("seed") ?? 0,
    });
  }

  /** Where to start: a text, or blanks of a length. */
  canvas() {
    const text = $("prompt").value.trim();
    return text ? { text } : whole({ length: number("length") });
  }

  /** What the fields say, for a link to them. */
  link() {
    const filled = FIELDS.map((id) => [id, id === "steps" ? this.steps : $(id).value])
      .filter(([, value]) => value !== "");
    return new URLSearchParams([["view", "refine"], ...filled]);
  }

  /** Fill the fields from a link; what no field takes is left out. */
  restore(link) {
    for (const id of FIELDS) {
      if (!link.has(id)) continue;
      const [field, value] = [$(id), link.get(id)];
      if (field.tagName === "SELECT" && ![...field.options].some((each) => each.value === value)) continue;
      field.value = value;
      if (id === "model") this.#modelChosen();
    }
    this.#lengthCounts();
    this.#explain();
  }

  #modelChosen() {
    const { model } = this;
    const selfies = model.vocabulary?.every((token) => token.startsWith("["));
    const kind = model.kind === "molecules" && !selfies ? "smiles" : model.kind;
    const { label, placeholder, examples } = PROMPTS[kind];
    const names = model.policies.map(({ name }) => h("option", { value: name, selected: name === model.default_policy }, name));
    $("policy").replaceChildren(...names);
    $("other").replaceChildren(h("option", { value: "" }, "nothing"), ...names.map((name) => h("option", { value: name.value }, name.value)));
    document.querySelector("label[for=prompt]").textContent = label.replace("<mask>", model.mask);
    $("prompt").placeholder = placeholder;
    $("prompt").value = model.kind === "sudoku" ? examples[0][1] : "";
    for (const id of ["steps", "temperature", "length"]) $(id).value = "";
    if (model.default_steps === 1) $("steps").value = STEPS_TO_WATCH;
    $("steps").placeholder = model.default_steps;
    $("temperature").placeholder = model.default_temperature;
    $("length").max = model.max_length;
    $("examples").replaceChildren("Try", ...examples.map(([name, text]) =>
      h("button", { type: "button", onclick: () => this.#tryOut(text) }, name)));
    this.#lengthCounts();
    this.#explain();
    this.onModel(model);
  }

  #tryOut(text) {
    $("prompt").value = text;
    this.#lengthCounts();
    $("ask").requestSubmit();
  }

  #lengthCounts() {
    $("length").disabled = this.model?.kind === "sudoku" || $("prompt").value.trim() !== "";
  }

  #explain() {
    const said = this.policies.map((policy) => {
      const { about } = this.model.policies.find(({ name }) => name === policy);
      return `${policy}: ${about}`;
    });
    $("about").textContent = said.join("  ·  ");
  }
}

/** A number field's value, or undefined where it is empty; the server says what is legal. */
function number(id) {
  const { value, disabled } = $(id);
  return value === "" || disabled ? undefined : Number(value);
}

function whole(fields) {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined));
}
