// Arithmetic on matrices, as PyTorch does it: enough for every model that lives in these pages.
//
// A matrix is { rows, cols, data }: `data` holds the rows one after another, in a Float32Array (or a Float64Array where
// training asks for it). Weights lie as in PyTorch, (out, in): a product with them is a dot product of two rows.

/** @typedef {{rows: number, cols: number, data: Float32Array | Float64Array}} Matrix */

/** @returns {Matrix} zeros, or the given numbers as a matrix. */
export const matrix = (rows, cols, data = new Float32Array(rows * cols)) => ({ rows, cols, data });

/** One row, as a view: writing to it writes to the matrix. */
export const row = (x, i) => x.data.subarray(i * x.cols, (i + 1) * x.cols);

/** x W^T + b: (n, in) with a weight (out, in) to (n, out). `bias` may be left out. */
export function linear(x, weight, bias) {
  const y = matrix(x.rows, weight.rows);
  for (let i = 0; i < x.rows; i++) {
    for (let o = 0, w = 0; o < weight.rows; o++) {
      let sum = bias ? bias.data[o] : 0;
      for (let c = 0, at = i * x.cols; c < x.cols; c++) sum += x.data[at++] * weight.data[w++];
      y.data[i * y.cols + o] = sum;
    }
  }
  return y;
}

/** x + y, element by element; a y of one row is added to every row. */
export function add(x, y) {
  const one = y.rows === 1 && x.rows > 1;
  return matrix(x.rows, x.cols, x.data.map((value, i) => value + y.data[one ? i % x.cols : i]));
}

export const map = (x, f) => matrix(x.rows, x.cols, x.data.map(f));

/** Each row to mean 0 and variance 1, then times weight plus bias. */
export function layerNorm(x, weight, bias, eps = 1e-5) {
  const y = matrix(x.rows, x.cols);
  for (let i = 0; i < x.rows; i++) {
    const from = row(x, i), to = row(y, i);
    const mean = from.reduce((sum, v) => sum + v, 0) / x.cols;
    const variance = from.reduce((sum, v) => sum + (v - mean) ** 2, 0) / x.cols;
    const scale = 1 / Math.sqrt(variance + eps);
    for (let c = 0; c < x.cols; c++) to[c] = (from[c] - mean) * scale * weight.data[c] + bias.data[c];
  }
  return y;
}

/** A map (places, channels): each of `groups` of channels to mean 0 and variance 1 over all places, times weight plus bias. */
export function groupNorm(x, weight, bias, groups, eps = 1e-5) {
  const y = matrix(x.rows, x.cols), size = x.cols / groups;
  for (let g = 0; g < groups; g++) {
    let sum = 0, squares = 0;
    const each = (f) => { for (let i = 0; i < x.rows; i++) for (let c = g * size; c < (g + 1) * size; c++) f(i * x.cols + c, c); };
    each((at) => { sum += x.data[at]; });
    const mean = sum / (x.rows * size);
    each((at) => { squares += (x.data[at] - mean) ** 2; });
    const scale = 1 / Math.sqrt(squares / (x.rows * size) + eps);
    each((at, c) => { y.data[at] = (x.data[at] - mean) * scale * weight.data[c] + bias.data[c]; });
  }
  return y;
}

/** exp(score) over their sum, of a list of numbers; -Infinity gets nothing. In place. */
export function softmax(scores) {
  const most = scores.reduce((a, b) => Math.max(a, b), -Infinity);
  let sum = 0;
  for (let i = 0; i < scores.length; i++) sum += scores[i] = Math.exp(scores[i] - most);
  for (let i = 0; i < scores.length; i++) scores[i] /= sum;
  return scores;
}

/** The error function to some 1e-9, by its series for small x and a continued fraction for large ones. */
export function erf(x) {
  const z = Math.abs(x);
  if (z > 6) return Math.sign(x);
  if (z < 2.5) {
    let term = z, sum = z;
    for (let n = 1; n < 40; n++) sum += (term *= (-z * z) / n) / (2 * n + 1);
    return Math.sign(x) * sum * 1.1283791670955126;
  }
  let tail = 0;
  for (let n = 60; n > 0; n--) tail = n / 2 / (z + tail);
  return Math.sign(x) * (1 - Math.exp(-z * z) / (z + tail) / 1.7724538509055159);
}

export const activations = {
  relu: (v) => Math.max(0, v),
  gelu: (v) => (v / 2) * (1 + erf(v * Math.SQRT1_2)),
  tanhGelu: (v) => (v / 2) * (1 + Math.tanh(0.7978845608028654 * (v + 0.044715 * v ** 3))),
};

/**
 * softmax(scale q k^T + bias) v, head by head (Vaswani et al. 2017, eq. 1).
 *
 * @param {Matrix} q (n, heads * d)  @param {Matrix} k (m, heads * d)  @param {Matrix} v (m, heads * e)
 * @param {{heads: number, sees?: (i: number, j: number) => boolean, bias?: (h: number, i: number, j: number) => number}}
 *   options `sees` says whether query i may look at key j.
 * @returns {{out: Matrix, weights: Matrix[]}} (n, heads * e), and for each head the weights (n, m).
 */
export function attention(q, k, v, { heads, sees, bias }) {
  const d = q.cols / heads, e = v.cols / heads, scale = 1 / Math.sqrt(d);
  const out = matrix(q.rows, v.cols), weights = [];
  for (let h = 0; h < heads; h++) {
    const seen = matrix(q.rows, k.rows);
    for (let i = 0; i < q.rows; i++) {
      const scores = row(seen, i);
      for (let j = 0; j < k.rows; j++) {
        let score = -Infinity;
        if (!sees || sees(i, j)) {
          score = 0;
          for (let c = 0, a = i * q.cols + h * d, b = j * k.cols + h * d; c < d; c++) score += q.data[a++] * k.data[b++];
          score = score * scale + (bias ? bias(h, i, j) : 0);
        }
        scores[j] = score;
      }
      softmax(scores);
      for (let j = 0; j < k.rows; j++) {
        if (scores[j] === 0) continue;
        for (let c = 0, to = i * v.cols + h * e, from = j * v.cols + h * e; c < e; c++) {
          out.data[to++] += scores[j] * v.data[from++];
        }
      }
    }
    weights.push(seen);
  }
  return { out, weights };
}

/**
 * A convolution of a map (height * width, channels), whose kernel lies as in PyTorch, (out, in / groups, k, k).
 * @returns {{x: Matrix, height: number, width: number}}
 */
export function convolve({ x, height, width }, kernel, bias, { size, stride = 1, padding = 0, groups = 1 }) {
  const h = Math.floor((height + 2 * padding - size) / stride) + 1;
  const w = Math.floor((width + 2 * padding - size) / stride) + 1;
  const into = x.cols / groups, each = kernel.rows / groups, y = matrix(h * w, kernel.rows);
  for (let r = 0, at = 0; r < h; r++) for (let s = 0; s < w; s++) for (let o = 0; o < kernel.rows; o++) {
    const first = Math.floor(o / each) * into;
    let sum = bias ? bias.data[o] : 0;
    for (let p = 0; p < size; p++) {
      const up = r * stride + p - padding;
      if (up < 0 || up >= height) continue;
      for (let t = 0; t < size; t++) {
        const left = s * stride + t - padding;
        if (left < 0 || left >= width) continue;
        const pixel = (up * width + left) * x.cols + first, cell = o * kernel.cols + p * size + t;
        for (let c = 0; c < into; c++) sum += x.data[pixel + c] * kernel.data[cell + c * size * size];
      }
    }
    y.data[at++] = sum;
  }
  return { x: y, height: h, width: w };
}

/** Rows chosen by number: what an embedding does. */
export function rows(table, ids) {
  const y = matrix(ids.length, table.cols);
  ids.forEach((id, i) => y.data.set(row(table, id), i * table.cols));
  return y;
}

/** The number of the largest entry. */
export const argmax = (list) => list.reduce((best, v, i) => (v > list[best] ? i : best), 0);
