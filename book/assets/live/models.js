// The models, forward only. Each reads weights by the names that they have in tformerlib and returns what its page
// draws: logits, and for every layer and head the attention weights.
import { activations, add, attention, convolve, groupNorm, layerNorm, linear, map, matrix, row, rows, softmax } from "./tensor.js";

/** Reads `prefix.weight` and `prefix.bias` and applies them. */
const dense = (w, prefix, x) => linear(x, w[`${prefix}.weight`], w[`${prefix}.bias`]);
const norm = (w, prefix, x, eps) => layerNorm(x, w[`${prefix}.weight`], w[`${prefix}.bias`], eps);

/** Two layers with an activation between them. */
const mlp = (w, prefix, x, act) => dense(w, `${prefix}.3`, map(dense(w, `${prefix}.0`, x), activations[act]));

/** Queries, keys and values of an attention layer, then the heads, then what mixes them. */
function attend(w, prefix, x, keys, values, options) {
  const [q, k, v] = [["q", x], ["k", keys], ["v", values]].map(([name, from]) => dense(w, `${prefix}.${name}`, from));
  const { out, weights } = attention(q, k, v, options);
  return { y: dense(w, `${prefix}.out`, out), weights };
}

/** The whole of GPT-2. Feed it ids; it remembers the keys and values of what it has read. */
export class GPT {
  constructor(weights, { depth, heads, act = "tanhGelu" }) {
    Object.assign(this, { w: weights, depth, heads, act });
    this.forget();
  }

  forget() {
    this.length = 0;
    this.cache = Array.from({ length: this.depth }, () => ({ k: [], v: [] }));
  }

  /**
   * Reads further ids.
   * @returns {{logits: Matrix, weights: Matrix[][]}} logits of the next id after each of them, and for each layer and
   *   head the weights (new ids, all ids so far).
   */
  read(ids) {
    const { w } = this, start = this.length, seen = [];
    const places = ids.map((_, i) => start + i);
    let x = add(rows(w["tokens.weight"], ids), rows(w["positions.weight"], places));
    for (let b = 0; b < this.depth; b++) {
      const at = `blocks.${b}`, y = norm(w, `${at}.mixer.norm`, x);
      const [q, k, v] = ["q", "k", "v"].map((name) => dense(w, `${at}.mixer.fn.${name}`, y));
      const past = this.cache[b];
      const keys = append(past, "k", k), values = append(past, "v", v);
      const { out, weights } = attention(q, keys, values, { heads: this.heads, sees: (i, j) => j <= start + i });
      x = add(x, dense(w, `${at}.mixer.fn.out`, out));
      x = add(x, mlp(w, `${at}.mlp.fn`, norm(w, `${at}.mlp.norm`, x), this.act));
      seen.push(weights);
    }
    this.length += ids.length;
    return { logits: linear(norm(w, "norm", x), w["tokens.weight"]), weights: seen };
  }
}

/** Adds rows to a cache's keys or values; gives all of them as one matrix. */
function append(cache, name, x) {
  cache[name].push(x.data);
  const all = new Float32Array(cache[name].reduce((n, part) => n + part.length, 0));
  let at = 0;
  for (const part of cache[name]) { all.set(part, at); at += part.length; }
  cache[name] = [all];
  return matrix(all.length / x.cols, x.cols, all);
}

/**
 * BERT: logits at every place, from both sides. `sees(i, j)` hides places: j <= i leaves the left side alone.
 * @returns {{logits: Matrix, weights: Matrix[][], states: Matrix}}
 */
export function bert(w, { depth, heads, act = "tanhGelu" }, ids, sees) {
  const first = row(w["embed.segments.weight"], 0), seen = [], eps = 1e-12;
  let x = add(rows(w["embed.tokens.weight"], ids), rows(w["embed.positions.weight"], ids.map((_, i) => i)));
  x = norm(w, "embed.norm", add(x, matrix(1, first.length, first)), eps);
  for (let b = 0; b < depth; b++) {
    const at = `blocks.${b}`, { y, weights } = attend(w, `${at}.mixer.fn`, x, x, x, { heads, sees });
    x = norm(w, `${at}.mixer.norm`, add(x, y), eps);
    x = norm(w, `${at}.mlp.norm`, add(x, mlp(w, `${at}.mlp.fn`, x, act)), eps);
    seen.push(weights);
  }
  const asked = norm(w, "masked.norm", map(dense(w, "masked.dense", x), activations[act]), eps);
  return { logits: linear(asked, w["embed.tokens.weight"], w["masked.output.bias"]), weights: seen, states: x };
}

/** An image (height * width, channels) in patches, each a vector. */
const patches = (w, prefix, image, size) =>
  convolve(image, w[`${prefix}.conv.weight`], w[`${prefix}.conv.bias`], { size, stride: size });

/**
 * ViT: an image as a sentence of patches.
 * @param image {{x: Matrix (height * width, channels), height, width}}
 * @returns {{logits: Matrix, weights: Matrix[][], tokens: Matrix, grid: number[]}}
 */
export function vit(w, { depth, heads, patch, prefix = 1 }, image) {
  const cut = patches(w, "patches", image, patch), dim = cut.x.cols, seen = [], eps = 1e-6;
  let x = matrix(prefix + cut.x.rows, dim);
  x.data.set(w.prefix.data);
  x.data.set(cut.x.data, prefix * dim);
  x = add(x, matrix(x.rows, dim, w.positions.data));
  for (let b = 0; b < depth; b++) {
    const y = norm(w, `blocks.${b}.mixer.norm`, x, eps);
    const { y: mixed, weights } = attend(w, `blocks.${b}.mixer.fn`, y, y, y, { heads });
    x = add(x, mixed);
    x = add(x, mlp(w, `blocks.${b}.mlp.fn`, norm(w, `blocks.${b}.mlp.norm`, x, eps), "gelu"));
    seen.push(weights);
  }
  const tokens = norm(w, "norm", x, eps);
  const logits = dense(w, "head", matrix(1, dim, row(tokens, 0)));
  return { logits, weights: seen, tokens, grid: [cut.height, cut.width] };
}

/**
 * Swin: attention in windows that shift in every other block, on maps that get smaller.
 * @returns {{logits: Matrix, maps: {height, width, weights: Matrix[], window, shift}[]}} one entry a block: the weights
 *   of a head are (height * width, height * width), zero outside the window.
 */
export function swin(w, { depths, heads, window, patch }, image) {
  let { x, height, width } = patches(w, "embed.0", image, patch);
  x = norm(w, "embed.0.norm", x);
  const maps = [];
  depths.forEach((depth, s) => {
    if (s) ({ x, height, width } = merge(w, `embed.${s}`, x, height, width));
    const side = Math.min(window, height), moves = height > side ? Math.floor(side / 2) : 0;
    for (let b = 0; b < depth; b++) {
      const at = `stages.${s}.${b}`, shift = (b % 2) * moves;
      const { y, weights } = inWindows(w, `${at}.mixer.fn`, norm(w, `${at}.mixer.norm`, x), height, width, heads[s], side, shift);
      x = add(x, y);
      x = add(x, mlp(w, `${at}.mlp.fn`, norm(w, `${at}.mlp.norm`, x), "gelu"));
      maps.push({ height, width, weights, window: side, shift });
    }
  });
  const last = norm(w, "norm", x), mean = matrix(1, last.cols);
  last.data.forEach((v, i) => { mean.data[i % last.cols] += v / last.rows; });
  return { logits: dense(w, "head", mean), maps };
}

/** Attention inside windows of `side` tokens whose grid begins `shift` tokens down and right; no wrapping is needed. */
function inWindows(w, prefix, x, height, width, heads, side, shift) {
  const qkv = dense(w, `${prefix}.qkv`, x), dim = x.cols, table = w[`${prefix}.bias.table`];
  const [q, k, v] = [0, 1, 2].map((part) => {
    const y = matrix(x.rows, dim);
    for (let i = 0; i < x.rows; i++) y.data.set(row(qkv, i).subarray(part * dim, (part + 1) * dim), i * dim);
    return y;
  });
  const place = (i) => [Math.floor(i / width), i % width];
  const cell = (r) => Math.floor((r - shift + side) / side); // which window along an axis
  const sees = (i, j) => {
    const [a, b] = place(i), [c, d] = place(j);
    return cell(a) === cell(c) && cell(b) === cell(d);
  };
  const bias = (h, i, j) => {
    const [a, b] = place(i), [c, d] = place(j);
    return table.data[((a - c + side - 1) * (2 * side - 1) + b - d + side - 1) * table.cols + h];
  };
  const { out, weights } = attention(q, k, v, { heads, sees, bias });
  return { y: dense(w, `${prefix}.out`, out), weights };
}

/** 2 x 2 neighbors become one token: upper left, lower left, upper right, lower right. */
function merge(w, prefix, x, height, width) {
  const h = height / 2, v = width / 2, y = matrix(h * v, 4 * x.cols);
  for (let r = 0; r < h; r++) for (let c = 0; c < v; c++) {
    [[0, 0], [1, 0], [0, 1], [1, 1]].forEach(([down, right], n) =>
      y.data.set(row(x, (2 * r + down) * width + 2 * c + right), ((r * v + c) * 4 + n) * x.cols));
  }
  return { x: linear(norm(w, `${prefix}.norm`, y), w[`${prefix}.reduce.weight`]), height: h, width: v };
}

/** Convolutions of 3 x 3 with norms over groups of channels and ReLU, one for each stride: the eyes of our DETR. */
function eyes(w, prefix, { strides, groups }, map_) {
  strides.forEach((stride, i) => {
    const at = `${prefix}.${i}`, y = convolve(map_, w[`${at}.0.weight`], null, { size: 3, stride, padding: 1 });
    map_ = { ...y, x: map(groupNorm(y.x, w[`${at}.1.weight`], w[`${at}.1.bias`], groups), activations.relu) };
  });
  return map_;
}

/**
 * DETR: an image to the logits and boxes (center x, center y, width, height, as shares) of its queries.
 * @returns {{logits: Matrix, boxes: Matrix, weights: Matrix[][], height, width}} `weights`: for each layer and head
 *   where each query looks.
 */
export function detr(w, { encoder, decoder, heads, strides, groups }, image) {
  const { x: seen, height, width } = eyes(w, "encoder.backbone.body.convs", { strides, groups }, image);
  let x = dense(w, "encoder.project", seen);
  const place = waves(height, width, x.cols);
  const branch = (at, x, y) => norm(w, `${at}.norm`, add(x, y));
  for (let b = 0; b < encoder; b++) {
    const at = `encoder.layers.${b}`, here = add(x, place);
    x = branch(`${at}.attn`, x, attend(w, `${at}.attn.fn`, here, here, x, { heads }).y);
    x = branch(`${at}.mlp`, x, mlp(w, `${at}.mlp.fn`, x, "relu"));
  }
  const memory = x, keys = add(x, place), asked = w.queries, weights = [];
  x = matrix(asked.rows, asked.cols);
  for (let b = 0; b < decoder; b++) {
    const at = `decoder.${b}`, own = add(x, asked);
    x = branch(`${at}.attn`, x, attend(w, `${at}.attn.fn`, own, own, x, { heads }).y);
    const looked = attend(w, `${at}.cross.fn`, add(x, asked), keys, memory, { heads });
    x = branch(`${at}.cross`, x, looked.y);
    x = branch(`${at}.mlp`, x, mlp(w, `${at}.mlp.fn`, x, "relu"));
    weights.push(looked.weights);
  }
  x = norm(w, "norm", x);
  let boxes = x;
  for (const layer of [0, 2, 4]) boxes = map(dense(w, `locate.${layer}`, boxes), layer < 4 ? activations.relu : sigmoid);
  return { logits: dense(w, "classify", x), boxes, weights, height, width };
}

const sigmoid = (v) => 1 / (1 + Math.exp(-v));

/** Positions of a map as sines and cosines, half of the channels for y and half for x; a side is 2 pi long. */
function waves(height, width, dim) {
  const y = matrix(height * width, dim);
  for (let i = 0; i < y.rows; i++) for (let c = 0; c < dim; c++) {
    const [n, side] = c < dim / 2 ? [Math.floor(i / width), height] : [i % width, width];
    const pair = c % (dim / 2), angle = ((n + 1) / (side + 1e-6)) * 2 * Math.PI / 10000 ** ((pair - (pair % 2)) / (dim / 2));
    y.data[i * dim + c] = pair % 2 ? Math.cos(angle) : Math.sin(angle);
  }
  return y;
}

/** A GRU's next state (torch's: the reset gate acts after the product). */
function gru(w, prefix, end, x, state) {
  const [a, b] = [linear(x, w[`${prefix}.weight_ih_${end}`], w[`${prefix}.bias_ih_${end}`]),
    linear(state, w[`${prefix}.weight_hh_${end}`], w[`${prefix}.bias_hh_${end}`])], n = state.cols;
  return map(state, (old, i) => {
    const reset = sigmoid(a.data[i] + b.data[i]), keep = sigmoid(a.data[n + i] + b.data[n + i]);
    return keep * old + (1 - keep) * Math.tanh(a.data[2 * n + i] + reset * b.data[2 * n + i]);
  });
}

const join = (...parts) => matrix(1, parts.reduce((n, p) => n + p.cols, 0), Float32Array.from(parts.flatMap((p) => [...p.data])));

/** Bahdanau's translator: reads a source in both directions, then writes, looking back before each word. */
export class Translator {
  constructor(weights, { hidden }) { Object.assign(this, { w: weights, hidden }); }

  read(ids) {
    const { w, hidden } = this, words = ids.map((id) => rows(w["source.weight"], [id]));
    const run = (words, end) => {
      let state = matrix(1, hidden);
      return words.map((word) => (state = gru(w, "encoder", end, word, state)));
    };
    const there = run(words, "l0"), back = run([...words].reverse(), "l0_reverse").reverse();
    this.cells = matrix(ids.length, 2 * hidden, Float32Array.from(ids.flatMap((_, i) => [...there[i].data, ...back[i].data])));
    this.keys = dense(w, "decoder.attention.keys", this.cells);
    this.state = map(dense(w, "decoder.first", back[0]), Math.tanh);
  }

  /** The last word written to the logits of the next, and the weights of the source's words. */
  write(id) {
    const { w, state, keys, cells } = this, word = rows(w["target.weight"], [id]);
    const asked = dense(w, "decoder.attention.query", state);
    const weights = softmax(dense(w, "decoder.attention.v", map(add(keys, asked), Math.tanh)).data);
    const context = matrix(1, cells.cols);
    weights.forEach((p, i) => row(cells, i).forEach((v, c) => { context.data[c] += p * v; }));
    const deep = dense(w, "decoder.deep", join(state, word, context)), features = matrix(1, deep.cols / 2);
    features.data.forEach((_, i) => { features.data[i] = Math.max(deep.data[2 * i], deep.data[2 * i + 1]); });
    this.state = gru(w, "decoder.gru", "l0", join(word, context), state);
    return { logits: dense(w, "output", features), weights };
  }
}
