// Type number words; a network translates them and shows, for each word it writes, where in the source it looked.
import { Translator } from "../models.js";
import { argmax, softmax } from "../tensor.js";
import { element, link, shade, textBox } from "../ui.js";

/** `about.page`: words of source and target in the order of their ids, ids of the beginning and the end, example, hint. */
export default function mount(box, { about, weights }) {
  const { page, config, name } = about, model = new Translator(weights, config);
  const numbers = new Map(page.source.map((word, id) => [word, id]));
  const state = { text: page.example, ...link.read(name) };
  const table = element("table", { className: "tf-alignment" });
  const said = element("p", { className: "tf-said", "aria-live": "polite" });

  function translate() {
    const words = state.text.toLowerCase().split(page.split === "character" ? "" : /[\s-]+/).filter(Boolean);
    const strange = words.filter((word) => !numbers.has(word));
    if (!words.length || strange.length) {
      said.textContent = words.length ? `I do not know “${strange[0]}”. Known words: ${page.source.slice(page.special).join(", ")}.` : "Type a number.";
      return;
    }
    const ids = [...words.map((word) => numbers.get(word)), ...(page.closed ? [page.end] : [])];
    model.read(ids);
    const rows = [];
    for (let id = page.begin; rows.length < 24;) {
      const { logits, weights: looks } = model.write(id);
      id = argmax([...logits.data]);
      rows.push({ id, looks, sure: softmax(Float64Array.from(logits.data))[id] });
      if (id === page.end) break;
    }
    said.textContent = rows.filter(({ id }) => id !== page.end).map(({ id }) => page.target[id]).join(page.join ?? " ");
    const names = ids.map((id) => page.source[id]);
    table.replaceChildren(
      element("caption", {}, "rows: words as they are written; darker: looked at more"),
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "writes"), ...names.map((n) => element("th", { scope: "col" }, n)))),
      element("tbody", {}, ...rows.map(({ id, looks, sure }) => element("tr", {},
        element("th", { scope: "row", title: `${Math.round(100 * sure)} % sure` }, page.target[id]),
        ...Array.from(looks, (share) => element("td", { style: { background: shade(share) }, title: `${(100 * share).toFixed(1)} %` }, share > 0.3 ? share.toFixed(2) : ""))))));
  }

  box.append(element("p", { className: "tf-hint" }, page.hint),
    textBox("Number in words", state.text, (text) => { state.text = text; translate(); }, 1), said,
    element("div", { className: "tf-scroll", tabIndex: 0, role: "region", "aria-label": "where it looked" }, table), element("div", { className: "tf-row" }, link.button(name, () => state)));
  translate();
}
