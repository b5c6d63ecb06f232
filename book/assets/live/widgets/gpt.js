// A GPT one writes with: type, see the likeliest next tokens, choose one or let it draw, and see where a head looks.
import { Bpe } from "../bpe.js";
import { GPT } from "../models.js";
import { draw, probabilities } from "../sampling.js";
import { row } from "../tensor.js";
import { bars, button, element, link, select, shade, slider, textBox, visible } from "../ui.js";

export default function mount(box, { about, weights }) {
  const { page, config, name } = about, bpe = new Bpe(page.bpe), model = new GPT(weights, config);
  const state = { text: page.prompt, temperature: 0.8, topK: 0, layer: 0, head: 0, ...link.read(name) };
  let ids = [], seen = [], chosen = null, last = null;

  const input = textBox("Text", state.text, (text) => { state.text = text; read(); }, 4);
  const list = element("ol", { className: "tf-bars", "aria-label": "likeliest next tokens" });
  const tokens = element("p", { className: "tf-tokens" });
  const said = element("p", { className: "tf-said", "aria-live": "polite" });
  const look = element("p", { className: "tf-hint" });

  /** The model reads the text anew, as far as it fits, and says what may follow. */
  function read() {
    const all = bpe.encode(state.text);
    ids = all.slice(-(page.context - 1));
    model.forget();
    if (!ids.length) ids = [page.end];
    const { logits, weights: layers } = model.read(ids);
    seen = layers;
    last = row(logits, ids.length - 1);
    said.textContent = all.length > ids.length ? `The model remembers the last ${ids.length} of ${all.length} tokens.` : "";
    chosen = ids.length - 1;
    show();
  }

  function show() {
    const p = probabilities(last, { temperature: state.temperature, topK: state.topK });
    const best = Array.from(p.keys()).sort((a, b) => p[b] - p[a]).slice(0, 8);
    bars(list, best.map((id) => ({ name: visible(bpe.decode([id])), share: p[id], index: id })), null, write);
    showTokens();
  }

  function showTokens() {
    const looks = row(seen[state.layer][state.head], chosen);
    const most = looks.reduce((a, b) => Math.max(a, b), 0);
    tokens.replaceChildren(...ids.map((id, i) => {
      const token = element("button", { type: "button", title: `${(100 * (looks[i] ?? 0)).toFixed(1)} %` }, visible(bpe.decode([id])));
      token.style.background = i <= chosen ? shade(looks[i] / most * 0.7) : "";
      if (i === chosen) token.setAttribute("aria-current", "true");
      token.addEventListener("click", () => { chosen = i; showTokens(); });
      token.addEventListener("pointerenter", () => { if (chosen !== i) { chosen = i; showTokens(); } });
      return token;
    }));
    look.textContent = `Head ${state.head + 1} of layer ${state.layer + 1}: where “${visible(bpe.decode([ids[chosen]]))}” looks.`;
  }

  const write = (id) => {
    state.text += bpe.decode([id]);
    input.set(state.text);
    read();
  };
  const sample = () => write(draw(probabilities(last, { temperature: state.temperature, topK: state.topK }), Math.random()));
  let running = null;
  const several = button("Write 40 tokens", () => {
    let left = running ? 0 : 40;
    if (running) { clearTimeout(running); running = null; return; }
    const next = () => {
      if (!left--) { running = null; return; }
      sample();
      running = setTimeout(next, 30);
    };
    next();
  });
  const names = Array.from({ length: config.depth * config.heads }, (_, i) =>
    `layer ${1 + Math.floor(i / config.heads)}, head ${1 + (i % config.heads)}`);

  box.append(
    element("p", { className: "tf-hint" }, page.hint), input,
    element("div", { className: "tf-row" },
      slider((t) => `temperature ${t.toFixed(1)}`, { min: 0, max: 2, step: 0.1, value: state.temperature }, (t) => { state.temperature = t; show(); }),
      slider((k) => (k ? `of the ${k} likeliest` : "of all tokens"), { min: 0, max: 20, value: state.topK }, (k) => { state.topK = k; show(); })),
    list,
    element("div", { className: "tf-row" }, button("Draw one", sample), several,
      button("Start again", () => { state.text = page.prompt; input.set(state.text); read(); }), link.button(name, () => state)),
    said,
    select("Look through", names, (i) => { state.layer = Math.floor(i / config.heads); state.head = i % config.heads; showTokens(); },
      state.layer * config.heads + state.head),
    tokens, look);
  read();
}
