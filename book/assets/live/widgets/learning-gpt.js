// A GPT that learns in this page: loss, names it makes up, and its attention move while it does.
import { softmax } from "../tensor.js";
import { draw } from "../sampling.js";
import { LearningGPT } from "../train.js";
import { button, element, select, shade, slider } from "../ui.js";

/** `about.page`: names to learn from, the alphabet (its first letter ends a name), context, hint. */
export default function mount(box, { about, weights }) {
  const { page, config } = about, { alphabet, names } = page, ids = (text) => [...text].map((c) => alphabet.indexOf(c));
  const texts = names.map((name) => [0, ...ids(name), 0]);
  let model, losses, lr = page.lr, timer = null, layerHead = [0, 0];
  const still = matchMedia?.("(prefers-reduced-motion: reduce)").matches;
  const said = element("p", { className: "tf-said", "aria-live": "off" });
  const chart = element("canvas", { width: 560, height: 150, role: "img", className: "tf-chart" });
  const made = element("p", { className: "tf-names" }), map = element("table", { className: "tf-alignment" });

  function restart() {
    stop();
    model = new LearningGPT(weights, { ...config, lr });
    losses = [];
    show();
  }

  function step() {
    const batch = Array.from({ length: page.batch }, () => texts[Math.floor(Math.random() * texts.length)]);
    model.lr = lr;
    losses.push(model.step(batch));
  }

  function write() {
    const text = [0];
    while (text.length < page.context) {
      const id = draw(softmax(Float64Array.from(model.next(text))), Math.random());
      if (id === 0) break;
      text.push(id);
    }
    return text.slice(1).map((id) => alphabet[id]).join("");
  }

  function show() {
    const n = losses.length, recent = losses.slice(-20), mean = recent.reduce((a, b) => a + b, 0) / recent.length;
    said.textContent = n ? `step ${n}: loss ${mean.toFixed(3)} nats a letter (guessing: ${Math.log(alphabet.length).toFixed(3)})` : "not trained yet";
    chart.setAttribute("aria-label", said.textContent);
    const context = chart.getContext("2d"), most = Math.log(alphabet.length) * 1.1;
    context.clearRect(0, 0, chart.width, chart.height);
    context.strokeStyle = getComputedStyle(document.body).getPropertyValue("--tf-accent") || "#1d5f9e";
    context.lineWidth = 2;
    context.beginPath();
    const every = Math.max(1, Math.ceil(n / 280));
    for (let i = 0; i < n; i += every) context.lineTo((i / Math.max(n, 100)) * chart.width, chart.height * (1 - losses[i] / most));
    context.stroke();
    made.textContent = Array.from({ length: 6 }, write).map((name) => name || "∅").join("  ");
    const example = texts[0], seen = (model.next(example.slice(0, -1)), model.weights[layerHead[0]][layerHead[1]]), size = example.length - 1;
    const letters = ["▸", ...names[0]];
    map.replaceChildren(element("caption", {}, "where each letter (row) looks"), element("tbody", {}, ...letters.map((letter, i) =>
      element("tr", {}, element("th", { scope: "row" }, letter),
        ...letters.map((_, j) => element("td", { style: { background: j <= i ? shade(seen[i * size + j]) : "" } }))))));
  }

  const run = button("Train", () => (timer ? stop() : go()));
  function go() {
    run.textContent = "Pause";
    const turn = () => {
      const end = performance.now() + (still ? 400 : 60);
      do step(); while (performance.now() < end);
      show();
      timer = setTimeout(turn, 0);
    };
    turn();
  }
  function stop() {
    clearTimeout(timer);
    timer = null;
    run.textContent = "Train";
  }

  const heads = Array.from({ length: config.depth * config.heads }, (_, i) => `layer ${1 + Math.floor(i / config.heads)}, head ${1 + (i % config.heads)}`);
  box.append(element("p", { className: "tf-hint" }, page.hint),
    element("div", { className: "tf-row" }, run, button("One step", () => { stop(); step(); show(); }), button("Start anew", restart)),
    slider((v) => `learning rate ${(10 ** v).toPrecision(2)}`, { min: -4, max: -1, step: 0.25, value: Math.log10(lr) }, (v) => { lr = 10 ** v; }),
    said, chart, element("p", { className: "tf-hint" }, "Names it makes up now:"), made,
    select("Look through", heads, (i) => { layerHead = [Math.floor(i / config.heads), i % config.heads]; show(); }), map);
  restart();
}
