// What a reader has read and answered stays in this browser: ticks for sections and questions, counted in the sidebar,
// exported and erased by the reader. No account, no request. Without this script questions are folded answers.
(() => {
  const KEY = "tf-progress", read = () => JSON.parse(localStorage.getItem(KEY) ?? "{}");
  const page = document.querySelector("main h1")?.closest("section")?.id;
  let progress;
  try { progress = read(); } catch { return; } // storage is off, or another site's: then nothing is kept

  const keep = () => { localStorage.setItem(KEY, JSON.stringify(progress)); show(); };
  const mark = (name, value) => {
    progress[page] = { ...progress[page], [name]: value };
    if (value === null) delete progress[page][name];
    keep();
  };

  const sections = [...document.querySelectorAll("main section > h2")].filter((h) => h.parentElement.id);
  const quizzes = [...document.querySelectorAll(".tf-quiz")];
  const isChapter = Boolean(document.querySelector(".tf-stamp"));

  // A tick beside each section's heading, which is also a button for keyboards and screen readers.
  if (isChapter) for (const heading of sections) {
    const name = heading.parentElement.id, box = document.createElement("button");
    box.type = "button";
    box.className = "tf-tick";
    const title = heading.textContent.replace(/#$/, "").trim();
    const draw = () => {
      const done = Boolean(progress[page]?.[name]);
      box.setAttribute("aria-pressed", String(done));
      box.setAttribute("aria-label", `read: ${title}`);
      box.title = done ? "read; press to take the tick away" : "mark as read";
      box.textContent = done ? "✓" : "○";
    };
    box.addEventListener("click", () => { mark(name, progress[page]?.[name] ? null : true); draw(); });
    draw();
    heading.append(box);
  }

  // An option that is opened has been chosen; the question remembers whether it was ever answered rightly.
  for (const quiz of quizzes) {
    const name = `quiz-${quiz.dataset.quiz}`;
    const state = document.createElement("p");
    state.className = "tf-quiz-state";
    state.setAttribute("role", "status");
    const draw = () => {
      const value = progress[page]?.[name];
      quiz.dataset.state = value ?? "";
      state.textContent = value === "right" ? "Answered." : value === "tried" ? "Not yet: try another." : "";
    };
    quiz.append(state);
    for (const option of quiz.querySelectorAll("li")) {
      option.firstElementChild.addEventListener("toggle", ({ target }) => {
        if (!target.open) return;
        option.dataset.chosen = "";
        const right = option.dataset.right === "true";
        if (right || progress[page]?.[name] !== "right") mark(name, right ? "right" : "tried");
        draw();
      });
    }
    draw();
  }

  if (isChapter) {
    progress[page] = { ...progress[page], total: sections.length + quizzes.length };
    try { localStorage.setItem(KEY, JSON.stringify(progress)); } catch { return; }
  }

  // The sidebar: how much of each chapter is done, and the reader's two rights.
  const done = (marks) => Object.entries(marks).filter(([name, value]) => name !== "total" && (value === true || value === "right")).length;
  const bar = document.querySelector(".bd-sidebar-primary .sidebar-primary-items__start") ?? document.querySelector(".bd-sidebar-primary");
  const foot = document.createElement("div");
  foot.className = "tf-progress";
  bar?.append(foot);

  function show() {
    const all = Object.values(progress), count = all.reduce((n, marks) => n + done(marks), 0);
    for (const link of document.querySelectorAll(".bd-sidebar-primary a.reference.internal")) {
      const name = link.getAttribute("href").replace(/^#$/, location.pathname).split("/").pop().replace(/(\.html)?(#.*)?$/, "").replaceAll("_", "-");
      const marks = progress[name];
      link.querySelector(".tf-done")?.remove();
      if (!marks?.total || !done(marks)) continue;
      const label = document.createElement("span");
      label.className = "tf-done";
      label.textContent = ` ${done(marks)}/${marks.total}`;
      label.title = "sections and questions done";
      link.append(label);
    }
    foot.replaceChildren();
    if (!count) return;
    const text = document.createElement("p");
    text.textContent = `${count} done, kept in this browser alone.`;
    const button = (name, press) => {
      const made = Object.assign(document.createElement("button"), { type: "button", textContent: name });
      made.addEventListener("click", press);
      return made;
    };
    foot.append(text,
      button("Export", () => {
        const file = new Blob([JSON.stringify(progress, null, 1)], { type: "application/json" });
        const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(file), download: "progress.json" });
        link.click();
        URL.revokeObjectURL(link.href);
      }),
      button("Erase", () => {
        if (!confirm("Forget what you have read and answered?")) return;
        progress = {};
        localStorage.removeItem(KEY);
        location.reload();
      }));
  }
  show();
})();
