/** What the tokens are, at one step: a molecule's structure, a sudoku's board, a line of text. */

import { h } from "./dom.js";
import { boardSize, heatOf, marksAt, shortToken, valueAt } from "./record.js";

// RDKit's white sheet, which the page's own paper takes the place of.
const BACKGROUND = /<rect style='opacity:1.0;fill:#FFFFFF[^>]*>\s*<\/rect>/;

/** A place for the three views. `draw(text)` gives a promise of an SVG, or of null. */
export class Stage {
  constructor({ kind, draw, onPick }) {
    this.kind = kind;
    this.draw = draw;
    this.onPick = onPick;
    this.element = h("div", { class: `stage ${kind}` });
  }

  show(frame, measure) {
    if (this.kind === "sudoku" && boardSize(frame)) this.#board(frame, measure);
    else if (this.kind === "molecules") this.#structure(frame);
    else this.#line(frame, measure);
  }

  /** Mark the chosen token and those that are to be fixed or masked, where tokens are seen. */
  mark(chosen, edits) {
    this.element.querySelectorAll("[data-token]").forEach((token) => {
      const position = Number(token.dataset.token);
      token.classList.toggle("chosen", position === chosen);
      for (const kind of ["fix", "mask"]) {
        token.classList.toggle(`to-${kind}`, edits.get(position)?.kind === kind);
      }
    });
  }

  /** The structure of the tokens written so far; until it is drawn the one before stays. */
  async #structure(frame) {
    this.picture ??= h("div", { class: "picture" });
    this.caption ??= h("p", { class: "smiles mono" });
    this.element.replaceChildren(this.picture, this.caption);
    const text = frame.text ?? "";
    this.caption.textContent = text;
    this.wanted = text;
    const svg = text ? await this.draw(text).catch(() => null) : null;
    if (this.wanted !== text) return;
    this.picture.replaceChildren(...(svg ? [image(svg, text)] : [empty(text)]));
  }

  #board(frame, measure) {
    const size = boardSize(frame);
    const tall = { 4: 2, 6: 2, 9: 3 }[size];
    const cells = frame.tokens.map((token, i) => {
      const [row, column] = [Math.floor(i / size), i % size];
      const cell = this.#token(frame, i, measure, token === "[MASK]" ? "" : shortToken(token));
      if (row % tall === 0 && row) cell.classList.add("box-top");
      if (column % (size / tall) === 0 && column) cell.classList.add("box-left");
      return cell;
    });
    const digits = frame.tokens.map((token) => (token === "[MASK]" ? "." : token)).join("");
    this.element.replaceChildren(h("div", {
      class: "board", "--size": size, role: "img", "aria-label": `The grid: ${digits}`,
    }, cells));
  }

  #line(frame, measure) {
    const words = frame.tokens
      .map((token, i) => ({ token, i }))
      .filter(({ token, i }) => token !== "" && frame.states[i] !== "FROZEN" || token === "[EOS]")
      .map(({ token, i }) => this.#token(frame, i, measure, spelled(token)));
    this.element.replaceChildren(h("p", {
      class: "line", role: "img", "aria-label": frame.tokens.map(spelled).join(""),
    }, words));
  }

  #token(frame, position, measure, text) {
    const value = valueAt(frame, position, measure);
    const marks = marksAt(frame, position);
    const heat = value === null || marks.includes("blank") ? "unjudged" : `h${heatOf(value, measure)}`;
    return h("span", {
      class: ["token", heat, ...marks].join(" "), "data-token": position,
      onclick: () => this.onPick(frame.step, position),
    }, text);
  }
}

/** An image and not inline SVG: what a server drew can then run nothing. */
export function image(svg, text) {
  const open = svg.replace(BACKGROUND, "");
  const source = `data:image/svg+xml,${encodeURIComponent(open)}`;
  return h("img", { src: source, alt: `Structure of ${text}`, width: 240, height: 200 });
}

function empty(text) {
  return h("p", { class: "muted none" }, text ? "no drawing of this" : "no structure yet");
}

function spelled(token) {
  if (token === "[MASK]") return "·";
  if (token === "[EOS]") return "∎";
  return token.replaceAll("Ġ", " ").replaceAll("▁", " ");
}
