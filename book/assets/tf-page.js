// Tables that sort and filter, and scrollable boxes that the keyboard reaches. Everything reads without this script.
(() => {
  // Code that is wider than its box, also where a solution has just been opened.
  const boxes = new ResizeObserver((entries) => {
    for (const { target } of entries) target.tabIndex = target.scrollWidth > target.clientWidth ? 0 : -1;
  });
  document.querySelectorAll("main pre").forEach((box) => boxes.observe(box));

  const value = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.sort ?? cell.textContent.trim();
  };
  const compare = (a, b) => (isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b);

  for (const table of document.querySelectorAll("table.tf-sortable")) {
    const body = table.tBodies[0];
    [...table.tHead.rows[0].cells].forEach((head, column) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const rows = [...body.rows].sort((a, b) => compare(value(a, column), value(b, column)));
        body.append(...(down ? rows.reverse() : rows));
      });
    });
  }

  // The scoreboard: rows by kind, part, verdict (each exactly) and words.
  const filters = document.querySelector(".tf-filters");
  if (filters) {
    filters.hidden = false;
    const controls = [...filters.querySelectorAll("[data-filter]")];
    const rows = document.querySelectorAll("table.tf-filtered tbody tr");
    const choose = () => {
      let shown = 0;
      for (const row of rows) {
        row.hidden = !controls.every(({ dataset: { filter }, value }) => !value || (filter === "words"
          ? value.toLowerCase().split(/\s+/).every((word) => row.textContent.toLowerCase().includes(word))
          : row.dataset[filter] === value));
        shown += !row.hidden;
      }
      filters.querySelector("output").textContent = `${shown} of ${rows.length}`;
    };
    controls.forEach((control) => control.addEventListener("input", choose));
    choose();
  }

  for (const input of document.querySelectorAll("input.tf-filter")) {
    input.closest(".tf-filter-box").hidden = false;
    const rows = document.querySelectorAll(`#${input.dataset.filters} tbody tr`);
    const count = document.querySelector(`output[for="${input.id}"]`);
    const apply = () => {
      const words = input.value.toLowerCase().split(/\s+/);
      let shown = 0;
      for (const row of rows) {
        row.hidden = !words.every((word) => row.textContent.toLowerCase().includes(word));
        shown += !row.hidden;
      }
      count.textContent = `${shown} of ${rows.length}`;
    };
    input.addEventListener("input", apply);
    apply();
  }
})();
