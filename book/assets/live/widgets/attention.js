// Six words as arrows in a plane. Drag the query: scores, weights and the mixed value follow, as numbers.
import { attention, matrix } from "../tensor.js";
import { bars, button, element, link, slider } from "../ui.js";

const WORDS = [["the", -0.4, 0.3], ["dog", 1.6, 1.1], ["chased", -1.2, 1.3], ["a", -0.3, -0.5], ["cat", 1.7, 0.4], ["home", 0.2, -1.6]];
const SIZE = 320, UNIT = 70;

export default function mount(box) {
  const state = { q: [1.2, 0.8], scale: 1, ...link.read("attention") };
  const canvas = element("canvas", { width: SIZE, height: SIZE, className: "tf-plane", tabIndex: 0, role: "img" });
  const list = element("ol", { className: "tf-bars", "aria-label": "weights of the six words" });
  const said = element("p", { className: "tf-said", "aria-live": "polite" });
  const keys = matrix(6, 2, Float32Array.from(WORDS.flatMap(([, x, y]) => [x, y])));

  function show() {
    const q = matrix(1, 2, Float32Array.from(state.q.map((v) => v * state.scale)));
    const { out, weights } = attention(q, keys, keys, { heads: 1 }), p = weights[0].data;
    const score = WORDS.map(([, x, y]) => (state.scale * (state.q[0] * x + state.q[1] * y)) / Math.SQRT2);
    const best = p.indexOf(Math.max(...p));
    bars(list, WORDS.map(([word], i) => ({ name: `${word}  ${score[i].toFixed(2)}`, share: p[i], index: i })), best);
    said.textContent = `q = (${state.q.map((v) => v.toFixed(1)).join(", ")}): most on “${WORDS[best][0]}” (${Math.round(100 * p[best])} %); the mixed value is (${[...out.data].map((v) => v.toFixed(2)).join(", ")}).`;
    canvas.setAttribute("aria-label", said.textContent);
    draw(p, out.data);
  }

  function draw(p, mixed) {
    const c = canvas.getContext("2d"), css = (name) => getComputedStyle(document.body).getPropertyValue(name) || "#555";
    const to = ([x, y]) => [SIZE / 2 + UNIT * x, SIZE / 2 - UNIT * y];
    c.clearRect(0, 0, SIZE, SIZE);
    const arrow = (end, color, width, label) => {
      const [x, y] = to(end), angle = Math.atan2(y - SIZE / 2, x - SIZE / 2);
      Object.assign(c, { strokeStyle: color, fillStyle: color, lineWidth: width, font: "15px sans-serif" });
      c.beginPath(); c.moveTo(SIZE / 2, SIZE / 2); c.lineTo(x, y); c.stroke();
      c.beginPath(); c.moveTo(x, y);
      for (const turn of [2.6, -2.6]) c.lineTo(x + 9 * Math.cos(angle + turn), y + 9 * Math.sin(angle + turn));
      c.fill();
      c.fillText(label, Math.min(SIZE - 48, Math.max(2, x + 6)), Math.min(SIZE - 6, Math.max(14, y - 6)));
    };
    WORDS.forEach(([word, x, y], i) => arrow([x, y], css("--tf-muted"), 1.5 + 9 * p[i], word));
    arrow(mixed, css("--tf-good"), 3, "mixed");
    arrow(state.q, css("--tf-accent"), 3, "q");
  }

  const set = (x, y) => { state.q = [x, y].map((v) => Math.max(-2.2, Math.min(2.2, v))); show(); };
  const drag = (event) => {
    if (!event.buttons) return;
    event.preventDefault();
    const unit = UNIT * (canvas.clientWidth / SIZE);
    set((event.offsetX - canvas.clientWidth / 2) / unit, (canvas.clientHeight / 2 - event.offsetY) / unit);
  };
  canvas.addEventListener("pointerdown", drag);
  canvas.addEventListener("pointermove", drag);
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [0, 0.1], ArrowDown: [0, -0.1], ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    set(state.q[0] + step[0], state.q[1] + step[1]);
  });
  new MutationObserver(show).observe(document.documentElement, { attributeFilter: ["data-theme"] });

  box.append(element("p", { className: "tf-hint" }, "Drag the blue arrow (or use the arrow keys). Turn it toward a word: its score, the dot product over √2, grows, and its weight. Make the scores larger: one word takes all."),
    element("div", { className: "tf-row tf-side" }, canvas, list), said,
    slider((s) => `scores times ${s.toFixed(1)}`, { min: 0, max: 6, step: 0.1, value: state.scale }, (s) => { state.scale = s; show(); }),
    element("div", { className: "tf-row" }, button("Start again", () => { state.scale = 1; set(1.2, 0.8); }), link.button("attention", () => state)));
  show();
}
