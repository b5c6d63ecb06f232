// Learning, in full: a GPT forward, its gradients backward, and AdamW, on 64-bit floats.
//
// Every operation computes its result and leaves behind a function that carries gradients back through it. Running
// these functions in reverse order is the whole of backpropagation.

/** A matrix that knows the gradient of the loss with respect to each of its numbers. */
export const value = (rows, cols, data = new Float64Array(rows * cols)) =>
  ({ rows, cols, data: Float64Array.from(data), grad: new Float64Array(rows * cols) });

/** The operations of a step; `backward` undoes them in reverse. */
class Tape {
  constructor() { this.steps = []; }

  backward() { for (const step of this.steps.reverse()) step(); }

  /** x W^T (+ b), with W (out, in) as in PyTorch. */
  linear(x, w, b) {
    const y = value(x.rows, w.rows);
    for (let i = 0; i < x.rows; i++) for (let o = 0; o < w.rows; o++) {
      let sum = b ? b.data[o] : 0;
      for (let c = 0; c < x.cols; c++) sum += x.data[i * x.cols + c] * w.data[o * x.cols + c];
      y.data[i * y.cols + o] = sum;
    }
    this.steps.push(() => {
      for (let i = 0; i < x.rows; i++) for (let o = 0; o < w.rows; o++) {
        const g = y.grad[i * y.cols + o];
        if (b) b.grad[o] += g;
        for (let c = 0; c < x.cols; c++) {
          x.grad[i * x.cols + c] += g * w.data[o * x.cols + c];
          w.grad[o * x.cols + c] += g * x.data[i * x.cols + c];
        }
      }
    });
    return y;
  }

  add(x, y) {
    const z = value(x.rows, x.cols, x.data.map((v, i) => v + y.data[i]));
    this.steps.push(() => z.grad.forEach((g, i) => { x.grad[i] += g; y.grad[i] += g; }));
    return z;
  }

  rows(table, ids) {
    const y = value(ids.length, table.cols);
    ids.forEach((id, i) => y.data.set(table.data.subarray(id * table.cols, (id + 1) * table.cols), i * table.cols));
    this.steps.push(() => ids.forEach((id, i) => {
      for (let c = 0; c < table.cols; c++) table.grad[id * table.cols + c] += y.grad[i * table.cols + c];
    }));
    return y;
  }

  layerNorm(x, w, b, eps = 1e-5) {
    const y = value(x.rows, x.cols), n = x.cols, unit = new Float64Array(x.data.length), scales = [];
    for (let i = 0; i < x.rows; i++) {
      const from = x.data.subarray(i * n, (i + 1) * n);
      const mean = from.reduce((a, v) => a + v, 0) / n;
      const scale = 1 / Math.sqrt(from.reduce((a, v) => a + (v - mean) ** 2, 0) / n + eps);
      scales.push(scale);
      for (let c = 0; c < n; c++) {
        unit[i * n + c] = (from[c] - mean) * scale;
        y.data[i * n + c] = unit[i * n + c] * w.data[c] + b.data[c];
      }
    }
    this.steps.push(() => {
      for (let i = 0; i < x.rows; i++) {
        let sum = 0, along = 0;
        for (let c = 0; c < n; c++) {
          const g = y.grad[i * n + c], u = unit[i * n + c];
          w.grad[c] += g * u;
          b.grad[c] += g;
          sum += g * w.data[c];
          along += g * w.data[c] * u;
        }
        for (let c = 0; c < n; c++) {
          const g = y.grad[i * n + c] * w.data[c];
          x.grad[i * n + c] += scales[i] * (g - (sum + unit[i * n + c] * along) / n);
        }
      }
    });
    return y;
  }

  gelu(x) {
    const inner = (v) => Math.tanh(0.7978845608028654 * (v + 0.044715 * v ** 3));
    const y = value(x.rows, x.cols, x.data.map((v) => (v / 2) * (1 + inner(v))));
    this.steps.push(() => x.data.forEach((v, i) => {
      const t = inner(v), slope = 0.7978845608028654 * (1 + 3 * 0.044715 * v * v);
      x.grad[i] += y.grad[i] * ((1 + t) / 2 + (v / 2) * (1 - t * t) * slope);
    }));
    return y;
  }

  /** Causal attention of a text with itself; `weights` are left on the result for whoever wants to look. */
  attention(q, k, v, heads) {
    const n = q.rows, d = q.cols / heads, y = value(n, q.cols), scale = 1 / Math.sqrt(d);
    y.weights = Array.from({ length: heads }, () => new Float64Array(n * n));
    const at = (i, h, c) => i * q.cols + h * d + c;
    for (let h = 0; h < heads; h++) for (let i = 0; i < n; i++) {
      const p = y.weights[h].subarray(i * n, i * n + i + 1);
      for (let j = 0; j <= i; j++) for (let c = 0; c < d; c++) p[j] += scale * q.data[at(i, h, c)] * k.data[at(j, h, c)];
      const most = Math.max(...p), sum = p.reduce((a, s) => a + Math.exp(s - most), 0);
      for (let j = 0; j <= i; j++) p[j] = Math.exp(p[j] - most) / sum;
      for (let j = 0; j <= i; j++) for (let c = 0; c < d; c++) y.data[at(i, h, c)] += p[j] * v.data[at(j, h, c)];
    }
    this.steps.push(() => {
      for (let h = 0; h < heads; h++) for (let i = 0; i < n; i++) {
        const p = y.weights[h].subarray(i * n, i * n + i + 1), g = new Float64Array(i + 1);
        for (let j = 0; j <= i; j++) for (let c = 0; c < d; c++) {
          g[j] += y.grad[at(i, h, c)] * v.data[at(j, h, c)];
          v.grad[at(j, h, c)] += p[j] * y.grad[at(i, h, c)];
        }
        const mean = p.reduce((a, w, j) => a + w * g[j], 0);
        for (let j = 0; j <= i; j++) for (let c = 0; c < d; c++) {
          const s = scale * p[j] * (g[j] - mean);
          q.grad[at(i, h, c)] += s * k.data[at(j, h, c)];
          k.grad[at(j, h, c)] += s * q.data[at(i, h, c)];
        }
      }
    });
    return y;
  }

  /** The mean surprise at the targets, in nats; `share` is this text's weight in a batch. */
  crossEntropy(logits, targets, share) {
    const n = logits.cols, gradient = new Float64Array(logits.data.length);
    let loss = 0;
    targets.forEach((target, i) => {
      const z = logits.data.subarray(i * n, (i + 1) * n), most = z.reduce((a, b) => Math.max(a, b), -Infinity);
      const sum = z.reduce((a, s) => a + Math.exp(s - most), 0);
      loss += (Math.log(sum) + most - z[target]) / targets.length;
      for (let c = 0; c < n; c++) {
        gradient[i * n + c] = (share * (Math.exp(z[c] - most) / sum - (c === target ? 1 : 0))) / targets.length;
      }
    });
    this.steps.push(() => gradient.forEach((g, i) => { logits.grad[i] += g; }));
    return loss;
  }
}

/** A GPT that learns. `weights` are named as in tformerlib's GPT-2; its output shares the token embedding. */
export class LearningGPT {
  constructor(weights, { depth, heads, lr = 1e-3, betas = [0.9, 0.95], eps = 1e-8, decay = 0 }) {
    this.w = Object.fromEntries(Object.entries(weights).map(([name, m]) => [name, value(m.rows, m.cols, m.data)]));
    Object.assign(this, { depth, heads, lr, betas, eps, decay, steps: 0 });
    this.moments = new Map(Object.values(this.w).map((p) => [p, [p.data.map(() => 0), p.data.map(() => 0)]]));
  }

  /** Logits of every next id of a text, on a tape. */
  forward(tape, ids) {
    const { w } = this, dense = (name, x) => tape.linear(x, w[`${name}.weight`], w[`${name}.bias`]);
    const norm = (name, x) => tape.layerNorm(x, w[`${name}.weight`], w[`${name}.bias`]);
    this.weights = [];
    let x = tape.add(tape.rows(w["tokens.weight"], ids), tape.rows(w["positions.weight"], ids.map((_, i) => i)));
    for (let b = 0; b < this.depth; b++) {
      const y = norm(`blocks.${b}.mixer.norm`, x);
      const [q, k, v] = ["q", "k", "v"].map((name) => dense(`blocks.${b}.mixer.fn.${name}`, y));
      const mixed = tape.attention(q, k, v, this.heads);
      this.weights.push(mixed.weights);
      x = tape.add(x, dense(`blocks.${b}.mixer.fn.out`, mixed));
      const hidden = tape.gelu(dense(`blocks.${b}.mlp.fn.0`, norm(`blocks.${b}.mlp.norm`, x)));
      x = tape.add(x, dense(`blocks.${b}.mlp.fn.3`, hidden));
    }
    return tape.linear(norm("norm", x), w["tokens.weight"]);
  }

  /** Logits of the id after a text. */
  next(ids) {
    const logits = this.forward(new Tape(), ids);
    return logits.data.slice(-logits.cols);
  }

  /** One step of AdamW on a batch of texts: each predicts its own ids from those before. Returns the loss before it. */
  step(batch) {
    for (const p of Object.values(this.w)) p.grad.fill(0);
    let loss = 0;
    for (const ids of batch) {
      const tape = new Tape();
      loss += tape.crossEntropy(this.forward(tape, ids.slice(0, -1)), ids.slice(1), 1 / batch.length) / batch.length;
      tape.backward();
    }
    this.steps++;
    const [b1, b2] = this.betas, c1 = 1 - b1 ** this.steps, c2 = 1 - b2 ** this.steps;
    for (const [p, [mean, square]] of this.moments) {
      for (let i = 0; i < p.data.length; i++) {
        const g = p.grad[i];
        mean[i] = b1 * mean[i] + (1 - b1) * g;
        square[i] = b2 * square[i] + (1 - b2) * g * g;
        p.data[i] -= this.lr * (this.decay * p.data[i] + mean[i] / c1 / (Math.sqrt(square[i] / c2) + this.eps));
      }
    }
    return loss;
  }
}
