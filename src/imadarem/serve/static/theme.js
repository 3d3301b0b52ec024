/** Light, dark, or whatever the system says; the choice is kept where the browser allows it. */

import { h, icon } from "./dom.js";

const THEMES = ["auto", "light", "dark"];
const HALF = "M8 2a6 6 0 1 0 0 12A6 6 0 0 0 8 2zm0 1.5v9a4.5 4.5 0 0 1 0-9z";
const KEY = "imadarem-theme";
const system = matchMedia("(prefers-color-scheme: dark)");

/** The button that goes through the three; follows the system until it is pressed. */
export function themeButton() {
  let chosen = remembered();
  const button = h("button", { type: "button", class: "quiet", id: "theme" });
  const apply = () => {
    const resolved = chosen === "auto" ? (system.matches ? "dark" : "light") : chosen;
    document.documentElement.dataset.theme = resolved;
    const name = { auto: "Auto", light: "Light", dark: "Dark" }[chosen];
    button.replaceChildren(icon(HALF), name);
    button.setAttribute("aria-label", `Colour theme: ${chosen}. Change it.`);
  };
  button.addEventListener("click", () => {
    chosen = THEMES[(THEMES.indexOf(chosen) + 1) % THEMES.length];
    keep(chosen);
    apply();
  });
  system.addEventListener("change", apply);
  apply();
  return button;
}

// A page opened from a file may not be allowed any storage.
function remembered() {
  try {
    const kept = localStorage.getItem(KEY);
    return THEMES.includes(kept) ? kept : "auto";
  } catch {
    return "auto";
  }
}

function keep(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // The choice holds for this visit.
  }
}
