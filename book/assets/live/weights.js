// A model's file: <name>.json says what its tensors are called and where they lie in <name>.bin.
import { matrix } from "./tensor.js";

/** Half precision to a number: 1 bit of sign, 5 of exponent, 10 of fraction. */
function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/**
 * The tensors of a model, each as a matrix: its first axis is the rows, the rest one after another the columns.
 * int8 rows carry their own scale: weight = integer * scale of the row.
 *
 * @param {{tensors: {name: string, shape: number[], dtype: string, offset: number}[]}} about
 * @param {ArrayBuffer} bytes
 * @returns {Record<string, import("./tensor.js").Matrix>}
 */
export function unpack({ tensors }, bytes) {
  const found = {};
  for (const { name, shape, dtype, offset } of tensors) {
    const count = shape.reduce((a, b) => a * b, 1);
    const height = shape.length > 1 ? shape[0] : 1, width = count / height;
    const data = new Float32Array(count);
    if (dtype === "float32") data.set(new Float32Array(bytes.slice(offset, offset + 4 * count)));
    else if (dtype === "float16") new Uint16Array(bytes.slice(offset, offset + 2 * count)).forEach((b, i) => { data[i] = half(b); });
    else if (dtype === "int8") {
      const scales = new Float32Array(bytes.slice(offset, offset + 4 * height));
      const integers = new Int8Array(bytes, offset + 4 * height, count);
      for (let i = 0; i < count; i++) data[i] = integers[i] * scales[Math.floor(i / width)];
    } else throw new Error(`${name}: unknown number format ${dtype}`);
    found[name] = matrix(height, width, data);
  }
  return found;
}

/** Loads a model from its two files. @returns {Promise<{about: any, weights: Record<string, any>}>} */
export async function load(address) {
  const get = async (url) => {
    const answer = await fetch(url);
    if (!answer.ok) throw new Error(`${url}: ${answer.status}`);
    return answer;
  };
  const about = await (await get(address)).json();
  const bytes = await (await get(new URL(about.file, new URL(address, globalThis.location?.href)))).arrayBuffer();
  if (bytes.byteLength !== about.bytes) throw new Error(`${about.file} has ${bytes.byteLength} bytes, not ${about.bytes}`);
  return { about, weights: unpack(about, bytes) };
}
