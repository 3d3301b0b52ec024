/** Start of an exported file: the record and the drawings stand in the page itself. */

import { h } from "./dom.js";
import { helpDialog, listen } from "./keys.js";
import { themeButton } from "./theme.js";
import { Viewer } from "./viewer.js";

function start() {
  const { title, kind, record, drawings } = JSON.parse(document.getElementById("record").textContent);
  const viewer = new Viewer({ draw: async (text) => drawings[text] ?? null });
  const { dialog, button } = helpDialog({ editing: false });
  const show = (number) => viewer.show([{ title, kind, row: record.rows[number] }]);
  document.querySelector(".tools").append(...chooser(record.rows, show), button, themeButton());
  document.querySelector("main").append(viewer.element, dialog);
  listen((key) => viewer.pressed(key), dialog);
  show(0);
}

function chooser(rows, show) {
  if (rows.length < 2) return [];
  const options = rows.map((row, i) => h("option", { value: i }, `${i + 1}  ${row.text ?? ""}`));
  const select = h("select", { "aria-label": "Which sample", id: "row", onchange: () => show(Number(select.value)) }, options);
  return [select];
}

start();
