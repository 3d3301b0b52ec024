/** The live page: ask the server, show the steps as they come, run on from an edited canvas. */

import { Api } from "./api.js";
import { Ask } from "./ask.js";
import { h } from "./dom.js";
import { helpDialog, listen } from "./keys.js";
import { RepairView } from "./repair.js";
import { codeButtons } from "./requests.js";
import { themeButton } from "./theme.js";
import { Viewer } from "./viewer.js";

const $ = (id) => document.getElementById(id);
const api = new Api();
const ask = new Ask({ onModel: (model) => reset(model) });
const repair = new RepairView({ api, fail });
const calm = matchMedia("(prefers-reduced-motion: reduce)");
let viewer = null;
// What is shown and what it was run on from: {runs, note}.
let shown = null;
let earlier = [];
let running = null;
// What the server wanted its token for, to be done once it is given.
let locked = null;

/** Leave the run that is under way, if there is one, without a word. */
function leave() {
  running?.abort();
  running = null;
  busy(false);
}

function reset(model) {
  leave();
  viewer = new Viewer({
    draw: (text) => api.draw(text),
    onRunOn: ({ tokens, given, step }) => {
      const named = tokens.map((token) => token ?? "[MASK]");
      run({ tokens: named, given }, `Run on from step ${step}.`);
    },
    vocabulary: model.vocabulary ?? [],
  });
  [shown, earlier] = [null, []];
  $("place").replaceChildren();
  $("empty").hidden = false;
  tell("");
  fail(null);
}

/** Refine one canvas with each of the policies, at the same time and with the same seed. */
async function run(canvas, note = "") {
  leave();
  const abort = new AbortController();
  running = abort;
  fail(null);
  busy(true);
  tell("Waiting for the first step …");
  const policies = ask.policies;
  const { kind } = ask.model;
  const runs = policies.map((policy) => ({
    title: policy, kind, steps: ask.steps, live: true,
    row: { start: [], given: [], steps: [], text: null, stopping_reason: "running" },
  }));
  const started = new Set();
  const hear = (number) => (name, data) => {
    if (running !== abort) return;
    const { row } = runs[number];
    if (name === "start") {
      Object.assign(row, data);
      started.add(number);
      if (started.size === runs.length) begin(runs, note);
    } else if (name === "step") {
      row.steps.push(data);
    } else {
      Object.assign(row, { text: data.text, stopping_reason: data.stopping_reason });
      runs[number].live = false;
    }
    if (started.size === runs.length) draw();
  };
  // Steps may come faster than they are drawn: most of the time is left to the user.
  let [waiting, pause] = [null, 16];
  const draw = () => {
    waiting ??= setTimeout(() => {
      const begun = performance.now();
      if (running === abort) show();
      waiting = null;
      pause = Math.max(16, 3 * (performance.now() - begun));
    }, pause);
  };
  const show = () => runs.forEach((each, number) => viewer.update(number, each));
  try {
    const settings = ask.settings();
    await Promise.all(policies.map((policy, number) =>
      api.trace({ ...settings, ...canvas, policy }, hear(number), abort.signal)));
    show();
    tell(...outcome(runs, note));
  } catch (error) {
    if (running !== abort) return;
    abort.abort();
    cutOff(runs, started.size === runs.length);
    if (error.name === "AbortError") tell("Stopped.");
    else fail(error, () => run(canvas, note));
  } finally {
    if (running === abort) {
      running = null;
      busy(false);
    }
  }
}

/** Runs that did not come to their end stay as they are, and say so. */
function cutOff(runs, placed) {
  runs.forEach((each, number) => {
    if (!each.live) return;
    each.live = false;
    each.row.stopping_reason = "interrupted";
    if (placed) viewer.update(number, each);
  });
}

/** The canvases are there: make room for the runs, and follow them. */
function begin(runs, note) {
  if (note && shown) earlier.push(shown);
  else earlier = [];
  shown = { runs, note };
  place(runs, { atEnd: calm.matches });
  if (!calm.matches) viewer.player.play({ live: true });
}

function place(runs, options) {
  $("empty").hidden = true;
  $("place").replaceChildren(viewer.element);
  viewer.show(runs, options);
  // On a phone the form fills the screen.
  if ($("place").getBoundingClientRect().top > 0.6 * innerHeight) {
    $("status").scrollIntoView({ behavior: calm.matches ? "auto" : "smooth" });
  }
}

function back() {
  leave();
  shown = earlier.pop();
  place(shown.runs);
  tell(...outcome(shown.runs, shown.note));
}

/** What came out, in a sentence. */
function outcome(runs, note) {
  const parts = note ? [`${note} `] : [];
  if (runs.length === 2) parts.push(...compared(runs));
  else if (runs[0].kind === "sudoku") parts.push(solved(runs[0].row));
  else parts.push("Done: ", h("code", {}, runs[0].row.text || "nothing"));
  if (earlier.length) parts.push(h("button", { type: "button", id: "back", onclick: back }, "Back to the run before"));
  return parts;
}

function solved(row) {
  return row.stopping_reason === "verified" ? "Solved: complete and legal."
    : "Not solved; more steps may do it, or another digit fixed.";
}

function compared(runs) {
  const [one, other] = runs.map(({ row }) => row.steps.at(-1)?.tokens ?? row.start);
  const same = one.filter((token, i) => token === other[i]).length;
  const passes = runs.map(({ title, row }) => `${title} took ${row.steps.at(-1)?.forward_passes ?? 0} passes`);
  const length = Math.max(one.length, other.length);
  return [`${passes.join(", ")}; they agree on ${same} of ${length} positions.`];
}

function tell(...parts) {
  $("status").replaceChildren(...parts);
}

function busy(is) {
  $("status").classList.toggle("busy", is);
  $("place").setAttribute("aria-busy", String(is));
  $("run").textContent = is ? "Stop" : "Run";
}

/** Show an error with what to do next, or none. A result that is there stays. */
function fail(error, again = null) {
  $("error").hidden = error === null;
  $("unlock").hidden = error?.status !== 401;
  if (error === null) return;
  tell("");
  $("error").scrollIntoView({ block: "nearest" });
  const fields = error.status === 401 || error.status === 422;
  if (error.status === 401) {
    locked = again;
    $("token").select();
  }
  const { message, hint } = error;
  const sentence = message.charAt(0).toUpperCase() + message.slice(1);
  $("error").replaceChildren(
    h("p", { class: "message" }, sentence),
    // What is refused is corrected in the form; the hint is then for programs.
    hint && !fields ? h("p", { class: "hint" }, hint) : "",
    again && !fields ? h("button", { type: "button", id: "again", onclick: again }, "Try again") : "",
  );
}

async function load() {
  fail(null);
  tell("Asking the server for its models …");
  busy(true);
  try {
    const models = await api.models();
    ask.fill(models);
    open(repair.fill(models), new URLSearchParams(location.hash.slice(1)));
  } catch (error) {
    fail(error, load);
  } finally {
    busy(false);
  }
}

/** Open on the view of the link; else on a repair, where a model can do one. */
function open(repairs, link) {
  document.querySelector("#views [value=repair]").disabled = !repairs;
  const refines = link.get("view") === "refine";
  if (refines) ask.restore(link);
  show(repairs && !refines ? "repair" : "refine", link);
}

function show(view, link = new URLSearchParams()) {
  document.querySelector(`#views [value=${view}]`).checked = true;
  for (const name of ["repair", "refine"]) $(name).hidden = name !== view;
  fail(null);
  if (view === "repair" && !repair.opened) {
    repair.open({ sequence: link.get("sequence") ?? undefined, model: link.get("model") ?? "" });
  }
}

function decorate() {
  const { dialog, button } = helpDialog({ editing: true });
  document.querySelector(".tools").append(button, themeButton());
  document.querySelector("main").append(dialog);
  const heats = ["h0", "h1", "unjudged", "h4", "unjudged", "h2", "h7", "unjudged", "h1", "h0"];
  document.querySelector(".blanks").append(...heats.map((heat) => h("i", { class: heat })));
  $("repair").append(repair.element);
  $("ask").append(codeButtons(() => ["/v1/trace", {
    ...ask.settings(), ...ask.canvas(), policy: ask.policies[0], stream: false,
  }]));
  $("views").addEventListener("change", ({ target }) => {
    show(target.value);
    history.replaceState(null, "", `#view=${target.value}`);
  });
  $("ask").addEventListener("submit", (event) => {
    event.preventDefault();
    if (running) return running.abort();
    history.replaceState(null, "", `#${ask.link()}`);
    run(ask.canvas());
  });
  $("unlock").addEventListener("submit", (event) => {
    event.preventDefault();
    api.token = $("token").value.trim();
    locked();
  });
  listen((key) => {
    if (!$("repair").hidden) return key === "r" && (repair.run(), true);
    if (key !== "r") return viewer?.pressed(key) ?? false;
    if (!running && ask.models.length) $("ask").requestSubmit();
    return true;
  }, dialog);
}

decorate();
load();
