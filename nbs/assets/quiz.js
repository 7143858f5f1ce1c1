// The quiz on nbs/recap: one question at a time, answers judged at once, a score that stays in this browser.
(() => {
  const KEY = "detr-lit quiz";
  const root = document.querySelector(".quiz");
  /** @param {string} selector @param {Element} inside @returns {any[]} */
  const find = (selector, inside = root) => [...inside.querySelectorAll(selector)];
  const cards = find(".quiz-card"), squares = find(".quiz-map a");
  const [back, next, reset, end] = [".back", ".next", ".reset", ".quiz-end"].map((s) => find(s)[0]);
  let current = null;

  // ------------------------------------------------------------ what is known of each question
  let known = {};       // {key of the question: the letters chosen, in order}
  try { known = JSON.parse(localStorage.getItem(KEY)) ?? {}; } catch { /* no storage: the score ends with the page */ }

  const right = (card) => card.querySelector("li[data-right]").dataset.choice;
  const chosen = (card) => known[card.dataset.key] ?? "";
  const done = (card) => chosen(card).includes(right(card));
  const first = (card) => chosen(card)[0] === right(card);

  function keep() { try { localStorage.setItem(KEY, JSON.stringify(known)); } catch { /* as above */ } }

  // ------------------------------------------------------------ what is seen
  function paint(card) {
    const letters = chosen(card), answer = right(card), over = done(card);
    for (const label of find(".quiz-choice", card)) {
      const letter = label.dataset.choice, input = label.querySelector("input");
      const bad = letters.includes(letter) && letter !== answer, good = over && letter === answer;
      label.classList.toggle("wrong", bad);
      label.classList.toggle("right", good);
      input.disabled = bad || over;
      input.checked = good || (input.checked && !bad && !over);
      if (bad || good) input.setAttribute("aria-describedby", `${card.id}-said`); else input.removeAttribute("aria-describedby");
    }
    const said = card.querySelector(".quiz-said"), last = letters.at(-1);
    said.id = `${card.id}-said`;
    said.innerHTML = last ? card.querySelector(`li[data-choice="${last}"]`).innerHTML : "";
    said.className = `quiz-said${last ? (last === answer ? " right" : " wrong") : ""}`;
    card.querySelector(".quiz-buttons").hidden = over;
    const details = card.querySelector("details");
    details.hidden = !over;
    details.querySelector("summary").textContent = "All the answers";
    if (!over) details.open = false;
    const square = squares[cards.indexOf(card)];
    square.className = first(card) ? "first" : over ? "found" : letters ? "tried" : "new";
    const words = { first: "right at once", found: "right later", tried: "not yet right", new: "not answered" };
    square.setAttribute("aria-label", `Question ${cards.indexOf(card) + 1}: ${words[square.className]}`);
  }

  function score() {
    const answered = cards.filter(done).length, once = cards.filter(first).length;
    root.querySelector(".score").innerHTML =
      `<span><b>${once}</b> right at once</span> <span><b>${answered}</b> solved</span> <span>of <b>${cards.length}</b></span>`;
    end.hidden = answered < cards.length;
    end.replaceChildren();
    if (!end.hidden) end.append(...result(once));
    const i = cards.indexOf(current);
    back.disabled = i <= 0;
    next.disabled = i < 0 || i === cards.length - 1;
  }

  function result(once) {
    const head = document.createElement("p"), again = new Map();
    head.className = "quiz-result";
    head.textContent = `${once} of ${cards.length} right at once.`;
    for (const card of cards.filter((c) => !first(c))) {
      const { page, chapter } = card.dataset;
      again.set(page, { chapter, numbers: [...(again.get(page)?.numbers ?? []), cards.indexOf(card) + 1] });
    }
    if (!again.size) return [head];
    const lead = document.createElement("p"), list = document.createElement("ul");
    lead.textContent = "Worth reading again:";
    for (const [page, { chapter, numbers }] of again) {
      const item = document.createElement("li"), link = document.createElement("a");
      link.href = page;
      link.textContent = chapter;
      item.append(link, ` (question${numbers.length > 1 ? "s" : ""} ${numbers.join(", ")})`);
      list.append(item);
    }
    return [head, lead, list];
  }

  function show(card) {
    current = card;
    for (const c of cards) c.hidden = c !== card;
    for (const a of squares) {
      if (a.hash === `#${card.id}`) a.setAttribute("aria-current", "true"); else a.removeAttribute("aria-current");
    }
    score();
  }

  // ------------------------------------------------------------ what can be done
  const go = (step) => { location.hash = cards[cards.indexOf(current) + step].id; };

  for (const card of cards) {
    card.addEventListener("submit", (e) => {
      e.preventDefault();
      const letter = card.querySelector("input:checked:enabled")?.value;
      if (!letter) { card.querySelector("input:enabled")?.focus(); return; }
      known[card.dataset.key] = chosen(card) + letter;
      keep();
      paint(card);
      score();
      if (done(card)) (next.disabled ? back : next).focus({ preventScroll: true });
      else card.querySelector("input:enabled")?.focus({ preventScroll: true });
      card.querySelector(".quiz-said").scrollIntoView({ block: "nearest" });
    });
    paint(card);
  }

  const wanted = () => cards.find((c) => `#${c.id}` === location.hash);
  addEventListener("hashchange", () => {
    if (!wanted()) return;
    show(wanted());
    current.focus({ preventScroll: true });
    root.scrollIntoView();
  });
  next.addEventListener("click", () => go(1));
  back.addEventListener("click", () => go(-1));
  reset.addEventListener("click", () => {
    if (!confirm("Forget all your answers on this page?")) return;
    known = {};
    try { localStorage.removeItem(KEY); } catch { /* as above */ }
    for (const card of cards) { card.reset(); paint(card); }
    score();
  });

  for (const part of find(".quiz-bar, .quiz-walk")) part.hidden = false;
  show(wanted() ?? cards.find((c) => !done(c)) ?? cards[0]);
  if (wanted()) root.scrollIntoView();
})();
