/** What a record of the schema imadarem.trajectory/1 says, one question per function. */

/** What a cell's colour may mean. Colour is always uncertainty: the ramp of confidence runs backwards. */
export const MEASURES = {
  gate: {
    label: "Gate",
    says: "probability that the token found here should be predicted again",
    uncertainty: (value) => value,
  },
  entropy: {
    label: "Entropy",
    says: "how undecided the model is here, 0 to 1",
    uncertainty: (value) => value,
  },
  confidence: {
    label: "Confidence",
    says: "probability of the token drawn here",
    uncertainty: (value) => 1 - value,
  },
};

const REASONS = {
  filled: "no blank is left",
  settled: "no blank is left, and nothing is re-masked",
  unchanged: "hardly anything changed any more",
  max_steps: "the limit of steps was reached",
  verified: "checked, and right",
  confidence: "the halting head is sure",
  quality: "the tokens are probable enough",
  patience: "nothing had changed for a while",
  verdict: "the judge accepts it",
  interrupted: "before its end",
};

/** A stopping reason in words. */
export function reasonInWords(reason) {
  return REASONS[reason] ?? reason;
}

/** The canvas before the first step and after each one; `step` is 0, 1, … */
export function framesOf(row) {
  const width = row.start.length;
  const start = {
    step: 0,
    tokens: row.start,
    states: row.start.map((token, i) =>
      row.given[i] ? "GIVEN" : token === "[MASK]" ? "OPEN" : token === "" ? "PAD" : "WRITTEN"),
    forward_passes: 0,
    changed_fraction: null,
    text: null,
  };
  return [start, ...row.steps.map((step) => widened(step, width))];
}

/** A canvas is cropped behind its end, so a later step may have fewer positions. */
function widened(step, width) {
  const missing = width - step.tokens.length;
  if (missing <= 0) return step;
  return {
    ...step,
    tokens: [...step.tokens, ...Array(missing).fill("")],
    states: [...step.states, ...Array(missing).fill("FROZEN")],
  };
}

/** A measure at one position, or null where nothing was judged. */
export function valueAt(frame, position, measure) {
  const state = frame.states[position];
  if (state !== "WRITTEN" && state !== "OPEN") return null;
  return frame[measure]?.[position] ?? null;
}

/** 0 … 10: the colour of a value. */
export function heatOf(value, measure) {
  const uncertainty = MEASURES[measure].uncertainty(value);
  return Math.round(Math.min(Math.max(uncertainty, 0), 1) * 10);
}

/** The mean of a measure over what the model wrote, or null. The gate's is over what it judged. */
export function meanOf(frame, measure) {
  const values = frame.tokens
    .map((_, i) => (measure === "gate" ? frame.gate?.[i] ?? null : valueAt(frame, i, measure)))
    .filter((value) => value !== null);
  return values.length ? values.reduce((sum, value) => sum + value, 0) / values.length : null;
}

/** The signs of one position: blank, end, given, frozen, changed, remasked. */
export function marksAt(frame, position) {
  const token = frame.tokens[position];
  const state = frame.states[position];
  const blank = token === "[MASK]";
  const end = token === "[EOS]";
  const marks = {
    blank,
    end,
    given: state === "GIVEN",
    frozen: (state === "FROZEN" || state === "PAD") && !end,
    changed: !blank && frame.changed?.[position] === true,
    remasked: frame.remasked?.[position] === true,
  };
  return Object.keys(marks).filter((name) => marks[name]);
}

/** A token as it is read in a cell: brackets say nothing where every token has them. */
export function shortToken(token) {
  if (token === "[MASK]") return "·";
  if (token === "[EOS]") return "end";
  return token.replace(/^\[([^\]]+)\]$/, "$1").replaceAll("\n", "⏎").replaceAll(" ", "␣");
}

/** What is asked when a run goes on from a step: tokens with null for blanks, and who is given.
 *  Behind an end nothing is asked; where the end itself is masked, blanks follow it. */
export function canvasFrom(frame, edits) {
  const tokens = [];
  const given = [];
  for (let i = 0; i < frame.tokens.length; i += 1) {
    if (frame.states[i] === "PAD") continue;
    const edit = edits.get(i);
    const blank = edit?.kind === "mask" || (!edit && frame.states[i] === "OPEN");
    const behind = frame.states[i] === "FROZEN" && frame.tokens[i] !== "[EOS]";
    tokens.push(blank || behind ? null : edit?.token ?? frame.tokens[i]);
    given.push(!blank && !behind && (edit?.kind === "fix" || frame.states[i] === "GIVEN"));
  }
  const end = tokens.indexOf("[EOS]");
  const length = end < 0 ? tokens.length : end + 1;
  return { tokens: tokens.slice(0, length), given: given.slice(0, length) };
}

/** Rows of a sudoku's board (4, 6, 9), or 0 where the canvas is none. */
export function boardSize(frame) {
  const size = Math.sqrt(frame.tokens.length);
  return [4, 6, 9].includes(size) ? size : 0;
}
