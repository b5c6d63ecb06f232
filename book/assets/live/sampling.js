// From logits to a next token: temperature, the k most likely, the fewest that hold a share p of the probability.
import { softmax } from "./tensor.js";

/**
 * Probabilities of the next token after the choices of a reader.
 * @param {Float32Array} logits  @param {{temperature?: number, topK?: number, topP?: number}} choice
 */
export function probabilities(logits, { temperature = 1, topK = 0, topP = 1 } = {}) {
  if (temperature === 0) {
    const best = logits.indexOf(logits.reduce((a, b) => Math.max(a, b), -Infinity));
    return Float64Array.from(logits, (_, i) => (i === best ? 1 : 0));
  }
  const scaled = Float64Array.from(logits, (v) => v / temperature);
  if (topK && topK < scaled.length) {
    const least = Float64Array.from(scaled).sort().at(-topK);
    scaled.forEach((v, i) => { if (v < least) scaled[i] = -Infinity; });
  }
  const p = softmax(scaled), kept = new Float64Array(p.length);
  let before = 0;
  for (const id of Array.from(p.keys()).sort((a, b) => p[b] - p[a] || a - b)) {
    if (before >= topP) break;
    before += kept[id] = p[id];
  }
  return kept.map((v) => v / before);
}

/** The token at which the running sum of probabilities passes a uniform draw in 0 .. 1. */
export function draw(p, uniform) {
  let sum = 0;
  for (let i = 0; i < p.length; i++) if (uniform < (sum += p[i])) return i;
  return p.findLastIndex((v) => v > 0);
}
