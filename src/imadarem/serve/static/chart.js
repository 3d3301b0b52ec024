/** The mean of the chosen measure and the share that changed, step by step. */

import { s } from "./dom.js";
import { MEASURES, meanOf } from "./record.js";

const HEIGHT = 150;
const EDGE = { left: 30, right: 92, top: 12, bottom: 24 };

/** An SVG as wide as its place. `onPick(step)` hears clicks on a step. */
export function chart({ frames, steps, measure, width, step, onPick }) {
  const inner = Math.max(width - EDGE.left - EDGE.right, 60);
  const x = (at) => EDGE.left + (inner * at) / Math.max(steps, 1);
  const y = (value) => EDGE.top + (HEIGHT - EDGE.top - EDGE.bottom) * (1 - value);
  const lines = [
    { name: MEASURES[measure].label.toLowerCase(), kind: "mean", values: frames.map((f) => meanOf(f, measure)) },
    { name: "changed", kind: "share", values: frames.map((f) => f.changed_fraction ?? null) },
  ];
  const picture = s("svg", {
    class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img",
    "aria-label": described(lines),
    onclick: (event) => {
      const at = event.clientX - picture.getBoundingClientRect().left;
      onPick(Math.min(Math.max(Math.round(((at - EDGE.left) / inner) * steps), 0), frames.length - 1));
    },
  },
    [0, 0.5, 1].map((value) => [
      s("line", { class: "rule", x1: EDGE.left, x2: EDGE.left + inner, y1: y(value), y2: y(value) }),
      s("text", { class: "tick", x: EDGE.left - 6, y: y(value) + 4, "text-anchor": "end" }, String(value)),
    ]),
    ticks(steps, inner).map((at) =>
      s("text", { class: "tick", x: x(at), y: HEIGHT - 6, "text-anchor": "middle" }, `${at}`)),
    s("line", { class: "now", x1: x(step), x2: x(step), y1: EDGE.top, y2: HEIGHT - EDGE.bottom }),
    lines.map((line) => drawn(line, x, y)),
    named(lines, x, y),
  );
  return picture;
}

function ticks(steps, inner) {
  const every = Math.ceil(steps / Math.max(inner / 26, 1)) || 1;
  return Array.from({ length: steps + 1 }, (_, at) => at).filter((at) => at % every === 0);
}

/** A line may have gaps: before anything is written, nothing is judged. */
function drawn({ kind, values }, x, y) {
  let pen = "M";
  let path = "";
  const dots = [];
  values.forEach((value, at) => {
    if (value === null) {
      pen = "M";
      return;
    }
    path += `${pen}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    pen = "L";
    dots.push(kind === "mean"
      ? s("circle", { class: kind, cx: x(at), cy: y(value), r: 3 })
      : s("rect", { class: kind, x: x(at) - 2.5, y: y(value) - 2.5, width: 5, height: 5 }));
  });
  return [s("path", { class: `stroke ${kind}`, d: path || "M0 0" }), dots];
}

/** Each line's name and last value at its end, apart from each other. */
function named(lines, x, y) {
  const ends = lines
    .map(({ name, kind, values }) => {
      const at = values.findLastIndex((value) => value !== null);
      return at < 0 ? null : { name, kind, value: values[at], x: x(at) + 9, y: y(values[at]) + 4 };
    })
    .filter(Boolean)
    .sort((one, other) => one.y - other.y);
  if (ends.length === 2 && ends[1].y - ends[0].y < 15) {
    const middle = (ends[0].y + ends[1].y) / 2;
    ends[0].y = Math.min(middle - 7.5, HEIGHT - EDGE.bottom - 12);
    ends[1].y = ends[0].y + 15;
  }
  return ends.map((end) =>
    s("text", { class: `name ${end.kind}`, x: end.x, y: end.y }, `${end.name} ${end.value.toFixed(2)}`));
}

function described(lines) {
  return lines
    .map(({ name, values }) => {
      const shown = values.map((value) => (value === null ? "none" : value.toFixed(2)));
      return `${name} by step: ${shown.join(", ")}`;
    })
    .join(". ");
}
