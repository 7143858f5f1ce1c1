// The game on nbs/broken.md: one card at a time, lines to choose, a score that stays in this browser.
(() => {
  const KEY = "detr-lit broken lines";
  const root = document.querySelector(".broken");
  /** @param {string} selector @param {Element} inside @returns {any[]} */
  const find = (selector, inside = root) => [...inside.querySelectorAll(selector)];
  const cards = find(".broken-card"), rows = find(".broken-map tbody tr");
  const filter = root.querySelector("select"), [next, reset] = find(".next, .reset");
  let current = null;

  // ------------------------------------------------------------ what is known of each card
  let known = {};       // {key of the card: {wrong: [lines], done: "found" or "shown"}}
  try { known = JSON.parse(localStorage.getItem(KEY)) ?? {}; } catch { /* no storage: the score ends with the page */ }

  const about = (card) => known[card.dataset.key] ?? { wrong: [] };
  const first = (card) => about(card).done === "found" && !about(card).wrong.length;
  const answers = (card) => card.dataset.answers.split(" ");
  const lines = (card) => find("[data-line]", card);
  const pool = () => cards.filter((c) => !filter.value || c.dataset.chapter === filter.value);

  function learn(card, what) {
    known[card.dataset.key] = { ...about(card), ...what };
    try { localStorage.setItem(KEY, JSON.stringify(known)); } catch { /* as above */ }
    paint(card);
    score();
  }

  // ------------------------------------------------------------ what is seen
  function paint(card) {
    const { wrong, done } = about(card);
    for (const line of lines(card)) {
      const n = line.dataset.line, bad = wrong.includes(n), right = Boolean(done) && answers(card).includes(n);
      const open = !bad && !done;
      line.classList.toggle("wrong", bad);
      line.classList.toggle("right", right);
      line.setAttribute("aria-label", `line ${n}: ${line.textContent.trim()}` +
        (bad ? " (this line is right)" : right ? " (this line was broken)" : ""));
      line.setAttribute("aria-disabled", !open);
    }
    const answer = card.querySelector("details");
    answer.open = Boolean(done);
    answer.querySelector("summary").hidden = Boolean(done);
    if (!done) card.querySelector(".broken-said").textContent = "";
    const [square] = find(`.broken-map a[href="#${CSS.escape(card.id)}"]`);
    const state = first(card) ? "first" : done ?? (wrong.length ? "tried" : "new");
    const words = { first: "found at the first click", found: "found", shown: "answer shown", tried: "tried", new: "not tried" };
    square.className = state;
    square.title = words[state];
    square.setAttribute("aria-label", `${square.textContent}: ${words[state]}`);
  }

  function score() {
    const count = (of) => [of.filter(first).length, of.filter((c) => about(c).done === "found").length, of.length];
    const [once, found, all] = count(pool());
    root.querySelector(".score").innerHTML =
      `<span><b>${once}</b> at the first click</span> <span><b>${found}</b> found</span> <span>of <b>${all}</b></span>`;
    for (const row of rows) {
      const [, some, of] = count(cards.filter((c) => c.dataset.chapter === row.dataset.chapter));
      row.lastElementChild.textContent = `${some} of ${of}`;
    }
    const left = pool().some((c) => c !== current && !about(c).done);
    next.disabled = !left;
    next.textContent = left ? "Next one" : "No other is left here";
  }

  function show(card) {
    current = card;
    for (const c of cards) c.hidden = c !== card;
    for (const a of find(".broken-map a")) {
      if (a.hash === `#${card.id}`) a.setAttribute("aria-current", "true"); else a.removeAttribute("aria-current");
    }
    if (filter.value && filter.value !== card.dataset.chapter) filter.value = "";
    score();
  }

  function goOn() {
    const left = pool().filter((c) => c !== current && !about(c).done);
    if (left.length) location.hash = left[Math.floor(Math.random() * left.length)].id;
  }

  // ------------------------------------------------------------ what can be done
  function choose(card, line) {
    const { wrong, done } = about(card), n = line.dataset.line;
    if (done || wrong.includes(n)) return;
    const said = card.querySelector(".broken-said");
    if (!answers(card).includes(n)) {
      learn(card, { wrong: [...wrong, n] });
      said.textContent = `No, line ${n} is as it should be.`;
      return;
    }
    learn(card, { done: "found" });
    said.textContent = wrong.length ? `Line ${n} it is.` : `Line ${n} it is, at the first click.`;
    next.focus({ preventScroll: true });
    card.querySelector("details").scrollIntoView({ block: "nearest" });
  }

  function walk(card, line, key) {
    const all = lines(card), i = all.indexOf(line);
    const to = { ArrowDown: all[i + 1], ArrowUp: all[i - 1], Home: all[0], End: all.at(-1) }[key];
    if (!to) return;
    line.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  }

  for (const card of cards) {
    const code = card.querySelector(".broken-code");
    code.setAttribute("role", "group");
    code.setAttribute("aria-label", "Code: choose the broken line");
    lines(card).forEach((line, i) => { line.setAttribute("role", "button"); line.tabIndex = i ? -1 : 0; });
    code.addEventListener("click", (e) => {
      const line = e.target.closest("[data-line]");
      if (line) choose(card, line);
    });
    code.addEventListener("keydown", (e) => {
      const line = e.target.closest("[data-line]");
      if (!line || !["Enter", " ", "ArrowDown", "ArrowUp", "Home", "End"].includes(e.key)) return;
      e.preventDefault();
      if (e.key === "Enter" || e.key === " ") choose(card, line); else walk(card, line, e.key);
    });
    const answer = card.querySelector("details");
    answer.addEventListener("toggle", () => { if (answer.open && !about(card).done) learn(card, { done: "shown" }); });
    paint(card);
  }

  const wanted = () => cards.find((c) => `#${c.id}` === location.hash);
  addEventListener("hashchange", () => {
    if (!wanted()) return;
    show(wanted());
    current.focus({ preventScroll: true });
    root.scrollIntoView();
  });
  next.addEventListener("click", goOn);
  filter.addEventListener("change", () => { score(); if (!pool().includes(current)) goOn(); });
  reset.addEventListener("click", () => {
    if (!confirm("Forget all your answers on this page?")) return;
    known = {};
    try { localStorage.removeItem(KEY); } catch { /* as above */ }
    cards.forEach(paint);
    score();
  });

  for (const part of find(".broken-tools, .broken-buttons")) part.hidden = false;
  show(wanted() ?? cards.find((c) => !about(c).done) ?? cards[0]);
})();
