// A sentence with gaps to click. Three readers fill them in side by side: both sides, the left alone, the right alone.
import { bert } from "../models.js";
import { row, softmax } from "../tensor.js";
import { bars, button, element, link, select } from "../ui.js";

const READERS = [["both sides", null], ["left side only", (i, j) => j <= i], ["right side only", (i, j) => j >= i]];

/** `about.page`: names of the tokens, id of the mask, sentences as lists of ids, hint. */
export default function mount(box, { about, weights }) {
  const { page, config, name } = about;
  const state = { sentence: 0, gaps: page.gaps?.[0] ?? [1], ...link.read(name) };
  const line = element("p", { className: "tf-tokens" });
  const columns = element("div", { className: "tf-row tf-columns" });
  const said = element("p", { className: "tf-said", "aria-live": "polite" });

  function show() {
    const ids = page.sentences[state.sentence];
    line.replaceChildren(...ids.map((id, i) => {
      const gap = state.gaps.includes(i);
      const token = element("button", { type: "button", title: gap ? "put the word back" : "make this a gap" }, gap ? "____" : page.names[id]);
      token.setAttribute("aria-pressed", String(gap));
      token.addEventListener("click", () => {
        state.gaps = gap ? state.gaps.filter((g) => g !== i) : [...state.gaps, i].sort((a, b) => a - b);
        show();
      });
      return token;
    }));
    const masked = ids.map((id, i) => (state.gaps.includes(i) ? page.mask : id)), right = [0, 0, 0];
    columns.replaceChildren(...READERS.map(([title, sees], reader) => {
      const { logits } = bert(weights, config, masked, sees);
      const column = element("div", {}, element("h4", {}, title));
      for (const gap of state.gaps) {
        const p = softmax(Float64Array.from(row(logits, gap)));
        const best = Array.from(p.keys()).sort((a, b) => p[b] - p[a]).slice(0, 4);
        const list = element("ol", { className: "tf-bars", "aria-label": `${title}: word ${gap + 1}` });
        bars(list, best.map((id) => ({ name: page.names[id], share: p[id], index: id })), ids[gap]);
        right[reader] += best[0] === ids[gap];
        column.append(element("p", {}, `word ${gap + 1}`), list);
      }
      return column;
    }));
    said.textContent = state.gaps.length
      ? READERS.map(([title], i) => `${title}: ${right[i]} of ${state.gaps.length} right`).join("; ") : "Click a word to hide it.";
  }

  box.append(element("p", { className: "tf-hint" }, page.hint),
    select("Sentence", page.sentences.map((ids) => ids.map((id) => page.names[id]).join(" ").slice(0, 48)),
      (i) => { state.sentence = i; state.gaps = page.gaps?.[i] ?? [1]; show(); }, state.sentence),
    line, said, columns,
    element("div", { className: "tf-row" }, button("No gaps", () => { state.gaps = []; show(); }), link.button(name, () => state)));
  show();
}
