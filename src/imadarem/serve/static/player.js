/** Play, scrub, step and speed, for as many steps as the longest run has. */

import { h, icon } from "./dom.js";

const SPEEDS = [0.5, 1, 2, 4];
// One step at speed 1, in milliseconds.
const PACE = 700;
const ICONS = {
  first: "M3 3h2v10H3zM13 3v10L6 8z", back: "M11 3v10L4 8z", play: "M4 2.5v11l9-5.5z",
  pause: "M4 3h3v10H4zM9 3h3v10H9z", next: "M5 3v10l7-5z", last: "M11 3h2v10h-2zM3 3v10l7-5z",
};

/** The transport bar. `onStep(step)` hears where it stands. */
export class Player {
  constructor(onStep) {
    this.onStep = onStep;
    this.step = 0;
    this.last = 0;
    this.timer = null;
    this.live = false;
    const button = (name, label, action) =>
      h("button", { type: "button", class: "icon quiet", "aria-label": label, title: label, onclick: action }, icon(ICONS[name]));
    this.toggle = button("play", "Play", () => this.playing ? this.pause() : this.play());
    this.toggle.id = "play";
    this.slider = h("input", {
      type: "range", min: 0, max: 0, value: 0, "aria-label": "Step",
      oninput: () => this.go(Number(this.slider.value)),
    });
    this.place = h("output", { class: "place mono", "aria-live": "off" });
    this.speed = h("select", { "aria-label": "Speed", class: "speed" },
      SPEEDS.map((speed) => h("option", { value: speed, selected: speed === 1 }, `${speed}×`)));
    this.element = h("div", { class: "player", role: "group", "aria-label": "Playback" },
      button("first", "First step", () => this.go(0)),
      button("back", "One step back", () => this.go(this.step - 1)),
      this.toggle,
      button("next", "One step on", () => this.go(this.step + 1)),
      button("last", "Last step", () => this.go(this.last)),
      this.slider, this.place, this.speed);
  }

  get playing() {
    return this.timer !== null;
  }

  /** There are steps up to `last`. Who stood at the end stays at the end. */
  extend(last) {
    const follows = this.step === this.last && !this.playing;
    this.last = last;
    this.slider.max = last;
    this.#set(follows ? last : Math.min(this.step, last));
  }

  /** Move there by hand, which ends playing. */
  go(step) {
    this.pause();
    this.#set(Math.min(Math.max(step, 0), this.last));
  }

  /** From here, or from the start where it stands at the end; `live` waits for more steps. */
  play({ live = false } = {}) {
    if (this.last === 0 && !live) return;
    this.live = live;
    if (this.step === this.last) this.#set(0);
    this.#sign("pause", "Pause");
    this.#wait();
  }

  pause() {
    clearTimeout(this.timer);
    this.timer = null;
    this.#sign("play", "Play");
  }

  faster(by) {
    const at = SPEEDS.indexOf(Number(this.speed.value)) + by;
    this.speed.value = SPEEDS[Math.min(Math.max(at, 0), SPEEDS.length - 1)];
  }

  #wait() {
    this.timer = setTimeout(() => {
      if (this.step < this.last) this.#set(this.step + 1);
      if (this.step < this.last || this.live) this.#wait();
      else this.pause();
    }, PACE / Number(this.speed.value));
  }

  #set(step) {
    this.step = step;
    this.slider.value = step;
    this.slider.setAttribute("aria-valuetext", `step ${step} of ${this.last}`);
    this.place.textContent = `${step} / ${this.last}`;
    this.onStep(step);
  }

  #sign(name, label) {
    this.toggle.replaceChildren(icon(ICONS[name]));
    this.toggle.setAttribute("aria-label", label);
    this.toggle.title = label;
  }
}
