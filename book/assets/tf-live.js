// Wakes the models of a page: each <div class="tf-live" data-model data-kind> loads its weights and its widget when it
// comes near the screen. What stood there before stays until the model has answered, and for good without JavaScript.
const base = new URL("live/", import.meta.url);

const wake = async (box) => {
  const { model, kind } = box.dataset;
  const widget = await import(new URL(`widgets/${kind}.js`, base));
  const { load } = await import(new URL("weights.js", base));
  const loaded = model ? await load(new URL(`models/${model}.json`, base).href) : {};
  const place = document.createElement("div");
  place.className = "tf-live-widget";
  await widget.default(place, loaded);
  box.querySelector(".tf-live-still").hidden = true;
  box.append(place);
  box.dataset.awake = "";
};

const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    wake(target).catch((error) => {
      target.dataset.asleep = error.message; // the still picture stays, which says the same
      console.warn(`${target.dataset.model ?? target.dataset.kind}: ${error.message}`);
    });
  }
}, { rootMargin: "300px" });
document.querySelectorAll(".tf-live").forEach((box) => near.observe(box));
