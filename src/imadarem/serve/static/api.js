/** The server's interface: models, traces as they are made, drawings. */

/** An error as the server tells it, or that it could not be reached (status 0). */
export class ApiError extends Error {
  constructor(status, { code, message, hint }) {
    super(message);
    Object.assign(this, { status, code, hint });
  }
}

export class Api {
  constructor() {
    this.token = null;
    this.drawings = new Map();
  }

  async models() {
    const response = await this.#ask("/v1/models");
    return (await response.json()).models;
  }

  /** The one row of an answer of /v1/judge or /v1/repair. */
  async review(route, request, signal) {
    const response = await this.#ask(`/v1/${route}`, { body: request, signal });
    const [row] = (await response.json()).rows;
    return row;
  }

  /** Hear `onEvent(name, data)` for start, step … and end of one refinement. */
  async trace(request, onEvent, signal) {
    const response = await this.#ask("/v1/trace", { body: request, signal });
    for await (const { name, data } of events(response.body)) {
      if (name === "error") throw new ApiError(200, data.error);
      onEvent(name, data);
      if (name === "end") return;
    }
    throw new ApiError(0, {
      code: "cut", message: "the connection ended before the run did.", hint: "Run it again.",
    });
  }

  /** The SVG of a molecule, or null where there is none; asked for once. */
  draw(smiles) {
    if (!this.drawings.has(smiles)) {
      const drawn = this.#ask("/v1/draw", { body: { smiles } })
        .then((response) => response.text())
        .catch((error) => {
          // What failed for another reason than the molecule may be asked for again.
          if ([0, 401].includes(error.status)) this.drawings.delete(smiles);
          return null;
        });
      this.drawings.set(smiles, drawn);
    }
    return this.drawings.get(smiles);
  }

  async #ask(path, { body, signal } = {}) {
    const headers = {};
    if (body) headers["Content-Type"] = "application/json";
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    // No header can carry other signs, and no server takes such a token.
    if (/[^\x21-\x7e]/.test(this.token ?? "")) {
      throw new ApiError(401, { code: "unauthorized", message: "the token is wrong.", hint: "" });
    }
    let response;
    try {
      response = await fetch(path, {
        method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body),
      });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ApiError(0, {
        code: "unreachable",
        message: "the server cannot be reached.",
        hint: "Start it again with: imadarem serve",
      });
    }
    if (response.ok) return response;
    const told = await response.json().catch(() => null);
    throw new ApiError(response.status, told?.error ?? {
      code: "error", message: `the server answered ${response.status}.`, hint: "",
    });
  }
}

/** Server-sent events of a stream; a POST has no EventSource. */
async function* events(stream) {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    text += decoder.decode(value, { stream: true });
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) {
      const field = (name) => part.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      if (field("data") !== undefined) yield { name: field("event"), data: JSON.parse(field("data")) };
    }
  }
}
