// Runs an exported model in Node on inputs from torch: `node live.mjs FOLDER` reads cases.json and prints answers.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const [folder, assets] = process.argv.slice(2);
const at = (name) => import(pathToFileURL(`${assets}/${name}`).href);
const [{ matrix }, { unpack }, models, sampling, train] = await Promise.all(
  ["tensor.js", "weights.js", "models.js", "sampling.js", "train.js"].map(at));
const cases = JSON.parse(readFileSync(`${folder}/cases.json`, "utf8"));
const about = cases.about;
const bytes = readFileSync(`${folder}/weights.bin`);
const weights = unpack(about, bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.length));
const image = (x) => ({ x: matrix(x.data.length / x.channels, x.channels, Float32Array.from(x.data)), height: x.height, width: x.width });
const heads = (layers) => layers.map((layer) => layer.map((m) => [...m.data]));

const run = {
  gpt: (input) => {
    const model = new models.GPT(weights, about.config);
    const parts = input.parts.map((ids) => model.read(ids));
    return { logits: parts.flatMap(({ logits }) => [...logits.data]), weights: heads(parts.at(-1).weights) };
  },
  bert: (input) => {
    const found = models.bert(weights, about.config, input.ids);
    return { logits: [...found.logits.data], weights: heads(found.weights) };
  },
  vit: (input) => {
    const found = models.vit(weights, about.config, image(input));
    return { logits: [...found.logits.data], weights: heads(found.weights) };
  },
  swin: (input) => {
    const found = models.swin(weights, about.config, image(input));
    return { logits: [...found.logits.data], weights: heads(found.maps.map((m) => m.weights)) };
  },
  detr: (input) => {
    const found = models.detr(weights, about.config, image(input));
    return { logits: [...found.logits.data, ...found.boxes.data], weights: heads(found.weights) };
  },
  translator: (input) => {
    const model = new models.Translator(weights, about.config);
    model.read(input.source);
    const steps = input.target.map((id) => model.write(id));
    return { logits: steps.flatMap(({ logits }) => [...logits.data]), weights: [[steps.flatMap((s) => [...s.weights])]] };
  },
  "learning-gpt": (input) => {
    const doubles = Object.fromEntries(Object.entries(input.weights).map(([name, m]) => [name, m]));
    const model = new train.LearningGPT(doubles, { ...about.config, ...input.options });
    return { losses: input.batches.map((batch) => model.step(batch)) };
  },
  sampling: (input) => {
    const p = sampling.probabilities(Float64Array.from(input.logits), input.choice);
    return { p: [...p], drawn: input.uniform.map((u) => sampling.draw(p, u)) };
  },
};
console.log(JSON.stringify(cases.inputs.map((input) => run[cases.kind](input))));
