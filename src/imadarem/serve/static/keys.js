/** The keyboard: one listener for the page, and a dialog that says what it knows. */

import { h } from "./dom.js";

const KEYS = [
  ["Space", "play or pause"],
  ["← →", "a step back, a step on; in the grid they move between tokens"],
  ["Home End", "first step, last step"],
  ["+ −", "faster, slower"],
  ["G E C", "colour by gate, entropy, confidence"],
  ["Tab, arrows", "into the grid and through it; Enter chooses a token"],
];
const EDITING = [
  ["M F", "mask the chosen token, fix it"],
  ["Esc", "undo the edits"],
  ["R", "run"],
];

/** Hear the page's keys; `pressed(key)` says whether one was used. */
export function listen(pressed, help) {
  document.addEventListener("keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey || event.defaultPrevented) return;
    if (document.querySelector("dialog[open]")) return;
    const { target } = event;
    if (target.closest("input:not([type=range], [type=radio]), select, textarea")) return;
    // A key that a control has for itself stays with the control.
    const control = target.closest("button, input, a, summary");
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (control && [" ", "ArrowLeft", "ArrowRight", "Home", "End"].includes(key)) return;
    if (key === "?") help.showModal();
    else if (!pressed(key)) return;
    event.preventDefault();
  });
}

/** The dialog and the button that opens it. */
export function helpDialog({ editing }) {
  const rows = [...KEYS, ...(editing ? EDITING : []), ["?", "this list"]];
  const dialog = h("dialog", { "aria-labelledby": "keys" },
    h("h2", { id: "keys" }, "Keys"),
    h("dl", {}, rows.map(([keys, says]) => [
      h("dt", {}, keys.split(" ").flatMap((key) => [h("kbd", {}, key), " "])), h("dd", {}, says),
    ])),
    h("button", { type: "button", class: "strong", onclick: () => dialog.close() }, "Close"));
  const button = h("button", {
    type: "button", class: "quiet", id: "help", "aria-label": "Keyboard shortcuts",
    onclick: () => dialog.showModal(),
  }, "Keys");
  return { dialog, button };
}
