// Drag shapes about a scene; a DETR finds them at every move. Choose a query to see where it looks and what it costs.
import { detr } from "../models.js";
import { matrix, row, softmax } from "../tensor.js";
import { button, element, link, select, slider } from "../ui.js";

const SCALE = 9; // screen pixels for one of the image

/** `about.page`: side, background and figures of the scenes, names of classes, examples (lists of objects), hint. */
export default function mount(box, { about, weights }) {
  const { page, config, name } = about, { side } = page;
  const state = { objects: structuredClone(page.examples[0]), threshold: 0.5, query: null, ...link.read(name) };
  const canvas = element("canvas", { width: side * SCALE, height: side * SCALE, className: "tf-paper tf-scene", role: "img",
    "aria-label": "a scene of shapes that can be dragged", tabIndex: 0 });
  const small = new OffscreenCanvas(side, side), said = element("p", { className: "tf-said", "aria-live": "polite" });
  const table = element("table", { className: "tf-table" });
  let held = null, chosen = 0;

  /** The scene at the size the network sees, as the chapter draws it. */
  function pixels() {
    const context = small.getContext("2d", { willReadFrequently: true });
    context.fillStyle = `rgb(${page.background})`;
    context.fillRect(0, 0, side, side);
    for (const { kind, x, y, w, h, color } of state.objects) {
      context.fillStyle = `rgb(${color})`;
      context.beginPath();
      if (kind === "disc") context.ellipse(x, y, w / 2, h / 2, 0, 0, 7);
      else if (kind === "triangle") { context.moveTo(x, y - h / 2); context.lineTo(x + w / 2, y + h / 2); context.lineTo(x - w / 2, y + h / 2); }
      else context.rect(x - w / 2, y - h / 2, w, h);
      context.fill();
    }
    return context.getImageData(0, 0, side, side).data;
  }

  function show() {
    const seen = pixels(), x = matrix(side * side, 3);
    for (let i = 0; i < side * side; i++) for (let c = 0; c < 3; c++) x.data[3 * i + c] = (seen[4 * i + c] / 255 - page.mean[c]) / page.std[c];
    const found = detr(weights, config, { x, height: side, width: side });
    const p = Array.from({ length: found.logits.rows }, (_, q) => softmax(Float64Array.from(row(found.logits, q))));
    const context = canvas.getContext("2d");
    context.imageSmoothingEnabled = false;
    context.drawImage(small, 0, 0, side * SCALE, side * SCALE);
    if (state.query !== null) look(context, found);
    const kept = p.map((shares, q) => ({ q, label: shares.slice(0, -1).indexOf(Math.max(...shares.slice(0, -1))), sure: Math.max(...shares.slice(0, -1)) }))
      .filter(({ sure }) => sure >= state.threshold);
    for (const { q, label, sure } of kept) outline(context, row(found.boxes, q), `${page.classes[label]} ${sure.toFixed(2)}`, q === state.query);
    said.textContent = kept.length ? `Found: ${kept.map(({ label }) => page.classes[label]).join(", ")}.` : "Nothing above the threshold.";
    costs(found, p);
  }

  function outline(context, [cx, cy, w, h], text, bold) {
    const s = side * SCALE;
    context.lineWidth = bold ? 5 : 2.5;
    for (const color of ["#000", "#ffdd33"]) {
      context.strokeStyle = color;
      context.strokeRect((cx - w / 2) * s, (cy - h / 2) * s, w * s, h * s);
      context.lineWidth -= 1.2;
    }
    context.font = "bold 13px sans-serif";
    context.fillStyle = "#000c";
    const left = Math.max(0, (cx - w / 2) * s), top = Math.max(14, (cy - h / 2) * s);
    context.fillRect(left, top - 14, context.measureText(text).width + 6, 16);
    context.fillStyle = "#fff";
    context.fillText(text, left + 3, top - 1);
  }

  /** Where the chosen query looks in the last layer, the mean over its heads. */
  function look(context, { weights: layers, height, width }) {
    const heads = layers.at(-1), s = side * SCALE;
    for (let i = 0; i < height * width; i++) {
      const share = heads.reduce((sum, m) => sum + row(m, state.query)[i], 0) / heads.length;
      context.fillStyle = `rgba(134, 185, 234, ${Math.min(0.85, share * height * width / 8)})`;
      context.fillRect(((i % width) * s) / width, (Math.floor(i / width) * s) / height, s / width, s / height);
    }
  }

  /** The matching's cost of each query for each object: -p(class) + 5 L1 of the boxes (Carion et al. 2020, sec. 3.1). */
  function costs({ boxes }, p) {
    const cost = (q, { kind, x, y, w, h }) => {
      const box = row(boxes, q), truth = [x, y, w, h].map((v) => v / side);
      return -p[q][page.classes.indexOf(kind)] + 5 * truth.reduce((sum, v, i) => sum + Math.abs(v - box[i]), 0);
    };
    const all = state.objects.map((object) => p.map((_, q) => cost(q, object)));
    table.replaceChildren(
      element("caption", {}, "Cost of matching a query (column) with a shape (row): class and box alone; the cheapest of a row is marked."),
      element("thead", {}, element("tr", {}, element("th", { scope: "col" }, "shape"), ...p.map((_, q) => element("th", { scope: "col" }, String(q + 1))))),
      element("tbody", {}, ...all.map((line, i) => element("tr", {}, element("th", { scope: "row" }, state.objects[i].kind),
        ...line.map((c) => element("td", { className: c === Math.min(...line) ? "tf-chosen" : "" }, c.toFixed(2)))))));
  }

  const at = ({ offsetX, offsetY }) => [(offsetX / canvas.clientWidth) * side, (offsetY / canvas.clientHeight) * side];
  canvas.addEventListener("pointerdown", (event) => {
    const [x, y] = at(event);
    const i = state.objects.findLastIndex((o) => Math.abs(o.x - x) < o.w / 2 + 1 && Math.abs(o.y - y) < o.h / 2 + 1);
    if (i < 0) return;
    held = chosen = i;
    canvas.setPointerCapture(event.pointerId);
  });
  const move = (i, x, y) => {
    const o = state.objects[i];
    o.x = Math.min(side - o.w / 2, Math.max(o.w / 2, x));
    o.y = Math.min(side - o.h / 2, Math.max(o.h / 2, y));
    show();
  };
  canvas.addEventListener("pointermove", (event) => { if (held !== null) { event.preventDefault(); move(held, ...at(event)); } });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] }[event.key];
    if (!step || !state.objects[chosen]) return;
    event.preventDefault();
    move(chosen, state.objects[chosen].x + step[0], state.objects[chosen].y + step[1]);
  });

  box.append(element("p", { className: "tf-hint" }, page.hint), element("div", { className: "tf-row tf-side" }, canvas,
    element("div", {},
      select("Scene", page.examples.map((_, i) => `scene ${i + 1}`), (i) => { state.objects = structuredClone(page.examples[i]); chosen = 0; show(); }),
      slider((t) => `show what is at least ${Math.round(100 * t)} % sure`, { min: 0.05, max: 0.95, step: 0.05, value: state.threshold }, (t) => { state.threshold = t; show(); }),
      select("Where does it look?", ["no query", ...Array.from({ length: weights.queries.rows }, (_, q) => `query ${q + 1}`)],
        (i) => { state.query = i ? i - 1 : null; show(); }, state.query === null ? 0 : state.query + 1),
      ...page.add.map((object) => button(`Add a ${object.kind}`, () => { state.objects.push({ ...object }); chosen = state.objects.length - 1; show(); })),
      button("Remove the chosen one", () => { state.objects.splice(chosen, 1); chosen = 0; show(); }), link.button(name, () => state))),
  said, element("div", { className: "tf-scroll", tabIndex: 0, role: "region", "aria-label": "costs of matching" }, table));
  show();
}
