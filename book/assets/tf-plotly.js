// Draws the figures that tformerlib.show leaves on a page: a <div class="tf-plotly" id="..."> and, beside it, the
// figure as JSON. Plotly is loaded from this site, and only when a figure comes near the screen. A slider over frames
// becomes a native range input, which keyboards and thumbs can use. Text follows the theme.
(() => {
  const PLOTLY = new URL("plotly.min.js", document.currentScript.src).href;
  let library;
  const plotly = () => (library ??= new Promise((resolve, reject) => {
    const script = Object.assign(document.createElement("script"), { src: PLOTLY });
    script.onload = () => resolve(window.Plotly);
    script.onerror = () => reject(new Error(`cannot load ${PLOTLY}`));
    document.head.append(script);
  }));

  const colour = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();

  /** The figure at one position of its slider, with the page's text colour. */
  const state = (figure, position) => {
    const frame = figure.frames?.[position] ?? {};
    const data = figure.data.map((trace, i) => ({ ...trace, ...frame.data?.[i] }));
    const font = { ...figure.layout.font, color: colour("--pst-color-text-base"), size: innerWidth < 600 ? 12 : 13 };
    return [data, { ...figure.layout, ...frame.layout, font, sliders: [] }];
  };

  const slider = (figure, id, move) => {
    const { steps, currentvalue } = figure.layout.sliders[0];
    const box = Object.assign(document.createElement("div"), { className: "tf-control" });
    const label = Object.assign(document.createElement("label"), { htmlFor: `${id}-range` });
    const input = Object.assign(document.createElement("input"), {
      type: "range", id: `${id}-range`, min: 0, max: steps.length - 1, step: 1, value: 0,
    });
    const show = () => {
      const name = steps[input.value].label;
      label.textContent = `${currentvalue?.prefix ?? ""}${name}`;
      input.setAttribute("aria-valuetext", name);
    };
    input.addEventListener("input", () => { show(); move(Number(input.value)); });
    show();
    box.append(label, input);
    return box;
  };

  const draw = async (div) => {
    const source = document.querySelector(`script[data-for="${div.id}"]`);
    const figure = JSON.parse(source.textContent);
    const Plotly = await plotly();
    let position = 0;
    const render = () => Plotly.react(div, ...state(figure, position), { responsive: true, displayModeBar: false });
    div.replaceChildren();
    await render();
    div.dataset.drawn = "";
    if (figure.layout.sliders?.length && figure.frames?.length) {
      div.before(slider(figure, div.id, (to) => { position = to; render(); }));
    }
    new MutationObserver(render).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  };

  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) {
      if (!isIntersecting) continue;
      near.unobserve(target);
      draw(target).catch((error) => console.error(`${target.id}: ${error.message}`));
    }
  }, { rootMargin: "600px" });
  document.querySelectorAll(".tf-plotly").forEach((div) => near.observe(div));
})();
