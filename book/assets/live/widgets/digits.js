// Draw a digit; classifiers read it at every stroke, side by side, and show where they look.
import { swin, vit } from "../models.js";
import { argmax, matrix, row, softmax } from "../tensor.js";
import { bars, button, element, link, select, shade, slider } from "../ui.js";

const MODELS = { vit, swin };

/** `about.page`: side of the image in pixels, examples and their names, gray of paper and ink, mean and deviation of
 *  pixels in 0 .. 1, names of the classes, hint. */
export default function mount(box, { about, weights }) {
  const { page, config, name, kind } = about, { side } = page, classify = MODELS[page.model ?? kind];
  const state = { pixels: [...page.examples[0]], block: 0, head: 0, ...link.read(name) };
  const canvas = element("canvas", { width: side, height: side, className: "tf-paper", tabIndex: 0, role: "img",
    "aria-label": "a field to draw a digit in" });
  const map = element("canvas", { width: side, height: side, className: "tf-paper", role: "img", "aria-label": "where the class token looks" });
  const list = element("ol", { className: "tf-bars", "aria-label": "the model's answer" });
  const said = element("p", { className: "tf-said", "aria-live": "polite" });
  const { paper = 0, ink = 255, mean = 0, std = 1 } = page;
  let patch = null;

  const paint = (target, value) => {
    const context = target.getContext("2d"), image = context.createImageData(side, side);
    for (let i = 0; i < side * side; i++) image.data.set([...value(i), 255], 4 * i);
    context.putImageData(image, 0, 0);
  };

  function read() {
    const x = matrix(side * side, 3);
    state.pixels.forEach((v, i) => x.data.fill((v / 255 - mean) / std, 3 * i, 3 * i + 3));
    const found = classify(weights, config, { x, height: side, width: side });
    const p = softmax(Float64Array.from(found.logits.data)), best = argmax([...p]);
    bars(list, page.classes.map((label, i) => ({ name: label, share: p[i], index: i })), best);
    said.textContent = `I read a ${page.classes[best]} (${Math.round(100 * p[best])} %).`;
    paint(canvas, (i) => [state.pixels[i], state.pixels[i], state.pixels[i]]);
    const looks = lookedAt(found), most = Math.max(...looks, 1e-9);
    paint(map, (i) => { const v = state.pixels[i] / 4, share = looks[i] / most; return [v + 60 * share, v + 130 * share, v + 190 * share]; });
  }

  /** How much each pixel's token is looked at, by the class token or by the chosen patch. */
  function lookedAt(found) {
    const layers = found.weights ?? found.maps.map((m) => m.weights), layer = layers[Math.min(state.block, layers.length - 1)];
    const head = layer[Math.min(state.head, layer.length - 1)];
    const first = found.maps ? 0 : config.prefix ?? 1;
    const [h, w] = found.maps ? [found.maps[Math.min(state.block, layers.length - 1)].height, found.maps[Math.min(state.block, layers.length - 1)].width] : found.grid;
    const asks = patch === null ? (found.maps ? Math.floor(h / 2) * w + Math.floor(w / 2) : 0) : first + tokenAt(patch, h, w);
    const looks = row(head, asks).subarray(first);
    return Float32Array.from({ length: side * side }, (_, i) => looks[tokenAt(i, h, w)]);
  }

  const tokenAt = (pixel, h, w) => Math.floor((Math.floor(pixel / side) * h) / side) * w + Math.floor(((pixel % side) * w) / side);
  const pixelAt = ({ offsetX, offsetY, target }) => Math.min(side - 1, Math.floor((offsetY / target.clientHeight) * side)) * side
    + Math.min(side - 1, Math.floor((offsetX / target.clientWidth) * side));

  function stroke(event) {
    if (!event.buttons) return;
    event.preventDefault();
    const at = pixelAt(event), rub = event.shiftKey;
    const spread = [[0, 1], [-1, 0.5], [1, 0.5], [-side, 0.5], [side, 0.5]];
    for (const [step, share] of spread) {
      const i = at + step, sameRow = Math.abs((i % side) - (at % side)) <= 1;
      if (i >= 0 && i < side * side && sameRow) state.pixels[i] = rub ? paper : Math.max(state.pixels[i], paper + share * (ink - paper));
    }
    read();
  }
  canvas.addEventListener("pointerdown", stroke);
  canvas.addEventListener("pointermove", stroke);
  canvas.addEventListener("keydown", (event) => { // without a pointer: the arrow keys move the drawing
    const step = { ArrowUp: -side, ArrowDown: side, ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!step) return;
    event.preventDefault();
    state.pixels = state.pixels.map((_, i) => state.pixels[i - step] ?? paper);
    read();
  });
  map.addEventListener("pointermove", (event) => { patch = pixelAt(event); read(); });
  map.addEventListener("pointerleave", () => { patch = null; read(); });

  const blocks = config.depth ?? config.depths.reduce((a, b) => a + b);
  box.append(
    element("p", { className: "tf-hint" }, page.hint),
    element("div", { className: "tf-row tf-side" },
      element("figure", {}, canvas, element("figcaption", {}, "Draw; Shift rubs out; arrow keys move it")),
      element("figure", {}, map, element("figcaption", {}, "Where it looks; point at a place to see where that one looks")), list),
    said,
    element("div", { className: "tf-row" },
      slider((b) => `block ${b + 1}`, { min: 0, max: blocks - 1, value: state.block }, (b) => { state.block = b; read(); }),
      slider((h) => `head ${h + 1}`, { min: 0, max: (config.heads.length ? Math.max(...config.heads) : config.heads) - 1, value: state.head }, (h) => { state.head = h; read(); })),
    element("div", { className: "tf-row" },
      select("Begin with", page.names, (i) => { state.pixels = [...page.examples[i]]; read(); }),
      button("Clear", () => { state.pixels = state.pixels.map(() => paper); read(); }), link.button(name, () => state)));
  read();
}
