// What the widgets share: elements, controls that have names, bars, and links that bring a state back.

let count = 0;

/** element("p", { className: "hint" }, "text", child, ...) */
export function element(tag, properties = {}, ...children) {
  const { dataset, style, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  Object.assign(made.dataset, dataset);
  Object.assign(made.style, style);
  for (const name of Object.keys(rest).filter((key) => key.startsWith("aria-") || key === "role")) made.setAttribute(name, rest[name]);
  made.append(...children);
  return made;
}

/** A control with its label on a line of its own, so that a longer label moves nothing. */
function labelled(text, control) {
  control.id = `tf-live-${count++}`;
  const label = element("label", { htmlFor: control.id }, text);
  return { box: element("div", { className: "tf-control" }, label, control), label, control };
}

/** A slider; `say` makes its label from the value. */
export function slider(say, { min, max, step = 1, value }, move) {
  const { box, label, control } = labelled("", element("input", { type: "range", min, max, step, value }));
  const show = () => { label.textContent = say(Number(control.value)); };
  control.addEventListener("input", () => { show(); move(Number(control.value)); });
  show();
  return Object.assign(box, { set: (v) => { control.value = v; show(); } });
}

/** A list to choose one name from. */
export function select(text, names, move, chosen = 0) {
  const control = element("select", {}, ...names.map((name, i) => element("option", { value: i, selected: i === chosen }, name)));
  const { box } = labelled(text, control);
  control.addEventListener("change", () => move(Number(control.value)));
  return Object.assign(box, { set: (v) => { control.value = v; } });
}

/** A text box; `move` hears every change. */
export function textBox(text, value, move, rows = 2) {
  const control = element("textarea", { rows, value, spellcheck: false, autocapitalize: "off" });
  const { box } = labelled(text, control);
  control.addEventListener("input", () => move(control.value));
  return Object.assign(box, { set: (v) => { control.value = v; }, get: () => control.value });
}

export const button = (text, press) => {
  const made = element("button", { type: "button" }, text);
  made.addEventListener("click", press);
  return made;
};

/** Names with shares as bars, the largest first; `press(index)` where one can be chosen. */
export function bars(list, shown, chosen, press) {
  list.replaceChildren(...shown.map(({ name, share, index }) => {
    const line = [
      element("span", { className: "tf-bar", style: { width: `${100 * share}%` } }),
      element("code", {}, name),
      element("span", { className: "tf-share" }, `${(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`),
    ];
    const inside = press ? element("button", { type: "button" }, ...line) : element("div", {}, ...line);
    if (press) inside.addEventListener("click", () => press(index));
    return element("li", index === chosen ? { className: "tf-chosen" } : {}, inside);
  }));
}

/** A square of a map, darker by its share; never so dark that a number in it can't be read. */
export const shade = (share) => `color-mix(in srgb, var(--tf-accent) ${Math.round(42 * Math.min(1, share))}%, transparent)`;

/** The part of the page's address that belongs to a widget: `#live:name:{...}`. */
export const link = {
  read(name) {
    const [, of, state] = /^#live:([^:]+):(.*)$/.exec(globalThis.location?.hash ?? "") ?? [];
    try {
      return of === name ? JSON.parse(decodeURIComponent(state)) : null;
    } catch {
      return null; // somebody else's link, or a torn one: begin as always
    }
  },
  button: (name, state) => button("Copy link to this", async ({ target }) => {
    const address = new URL(`#live:${name}:${encodeURIComponent(JSON.stringify(state()))}`, location.href).href;
    history.replaceState(null, "", address);
    await navigator.clipboard?.writeText(address).catch(() => {});
    target.textContent = "Link is in the address bar";
    setTimeout(() => { target.textContent = "Copy link to this"; }, 2000);
  }),
};

/** A white space that one can see. */
export const visible = (text) => text.replaceAll(" ", "·").replaceAll("\n", "↵").replaceAll("\t", "⇥") || "∅";
