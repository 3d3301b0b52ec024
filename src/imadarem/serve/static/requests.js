/** The request of a view as Python and as curl, to go on from the page in a script. */

import { h } from "./dom.js";

/** Two buttons; `request()` gives the route and the body of the moment. */
export function codeButtons(request) {
  const note = h("span", { class: "muted", role: "status" });
  const button = (name, written) => h("button", {
    type: "button", class: "quiet",
    onclick: async () => {
      await navigator.clipboard?.writeText(written(...request()));
      note.textContent = `${name} copied.`;
    },
  }, `Copy as ${name}`);
  return h("p", { class: "code-buttons" }, button("Python", asPython), button("curl", asCurl), note);
}

export function asCurl(route, body) {
  const text = JSON.stringify(body).replaceAll("'", "'\\''");
  return `curl ${location.origin}${route} -H 'Content-Type: application/json' -d '${text}'`;
}

export function asPython(route, body) {
  return [
    "import json",
    "from urllib.request import Request, urlopen",
    "",
    `body = json.loads(r'''${JSON.stringify(body).replaceAll("'", "\\u0027")}''')`,
    `request = Request("${location.origin}${route}", json.dumps(body).encode(), {"Content-Type": "application/json"})`,
    'print(json.load(urlopen(request)))',
  ].join("\n");
}
