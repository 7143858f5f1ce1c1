// The scrubber in nbs/09_train: two trainings side by side, step by step, their boxes, pairs and losses.
(() => {
  const { fixed, clamp, list, svg, set, calm, recall, keeper, find, press } = detrLive;
  const { queries, iou, mean, line, encode, decode } = detrTraining;
  const part = find("training");
  if (!part) return;
  const { root, data } = part, { steps, pictures, tracks, kinds } = data, LAST = steps.length - 1;
  const PACE = matchMedia("(prefers-reduced-motion: reduce)").matches ? 1000 : 160;      // milliseconds a frame

  const $ = (s) => root.querySelector(s), $$ = (s) => [...root.querySelectorAll(s)];
  const [slider, play, said] = ["[name=step]", ".live-play", "[role=status]"].map($);
  const presets = $$("[data-preset]"), panes = $$(".live-track"), curves = $$(".live-curve");
  const keep = keeper("training"), say = calm((text) => { said.textContent = text; }, 300);
  let state = { frame: 0, picture: 0 }, timer = 0;

  const hue = (q) => `live-${q % 6}`, share = (v) => fixed(v / 1000);

  /** What a training has at this frame: [{query, before, object, name, fit, claims}]. @param {any} track */
  function pairs(track) {
    const { frame, picture } = state, now = queries(track.frames[frame][picture]), before = track.who[Math.max(frame - 1, 0)][picture];
    return track.who[frame][picture].map((query, o) => {
      const [label, ...box] = pictures[picture].objects[o];
      return { query, before: before[o], box, name: kinds[label], fit: iou(now[query].box, box), claims: now[query].claims };
    });
  }

  /** @param {Element} scene @param {any} track @param {ReturnType<typeof pairs>} found */
  function paint(scene, track, found) {
    const all = queries(track.frames[state.frame][state.picture]), owner = new Map(found.map((p) => [p.query, p]));
    const order = [...all.keys()].sort((a, b) => Number(owner.has(a)) - Number(owner.has(b)));
    scene.replaceChildren(...order.map((q) => {
      const { box: [cx, cy, w, h], claims } = all[q], pair = owner.get(q), x = cx - w / 2, y = cy - h / 2;
      const g = svg("g", { class: pair ? hue(q) : "live-idle", "data-query": q });
      g.append(svg("rect", { class: "live-frame", x, y, width: w, height: h, style: `stroke-width: ${fixed(1 + (3 * claims) / 1000)}` }));
      if (!pair) return g;
      const text = svg("text", { class: "live-name", x: clamp(x, 0, 940), y: y < 60 ? clamp(y + h + 48, 40, 990) : y - 12 });
      text.textContent = String(q);
      const [ox, oy] = pair.box;
      g.append(svg("line", { class: "live-tie", x1: cx, y1: cy, x2: ox, y2: oy }), svg("circle", { class: "live-dot", cx: ox, cy: oy, r: 12 }), text);
      return g;
    }));
  }

  /** The pairs in words, a row each. @param {HTMLElement} rows @param {ReturnType<typeof pairs>} found */
  function tell(rows, found) {
    rows.querySelectorAll("tr").forEach((tr, o) => {
      const p = found[o], [who, what, fit, claims] = tr.cells, [before, chip] = who.children;
      tr.classList.toggle("live-off", !p);
      if (!p) return;
      before.textContent = p.before === p.query ? "" : `${p.before}→`;
      chip.textContent = String(p.query);
      chip.className = `live-chip ${hue(p.query)}`;
      [what.textContent, fit.textContent, claims.textContent] = [p.name, fixed(p.fit), share(p.claims)];
    });
  }

  function render() {
    const { frame, picture } = state, step = steps[frame], told = tracks.map((track, n) => {
      const pane = panes[n], found = pairs(track), fit = fixed(mean(found.map((p) => p.fit)));
      const scene = pane.querySelector("svg"), moved = found.filter((p) => p.before !== p.query).length;
      set(scene.querySelector("image"), { href: `data:image/png;base64,${pictures[picture].png}` });
      set(scene, { "aria-label": `${track.name}, step ${step}: ${list(found.map((p) => `query ${p.query} for the ${p.name}, IoU ${fixed(p.fit)}`))}` });
      paint(scene.querySelector("g"), track, found);
      tell(pane.querySelector("tbody"), found);
      pane.querySelector(".live-fit").textContent = fit;
      return `${track.name}: mean IoU ${fit}, ${moved} of ${found.length} with another query than at the frame before.`;
    });
    curves.forEach((curve, c) => {
      const [one, two] = curve.querySelectorAll("b");
      [one.textContent, two.textContent] = tracks.map((t) => fixed(t.curves[c][frame]));
      const x = (100 * frame) / LAST;
      set(curve.querySelector("line"), { x1: x, x2: x });
    });
    slider.value = String(frame);
    slider.nextElementSibling.textContent = String(step);
    slider.setAttribute("aria-valuetext", `step ${step}`);
    press(presets, String(picture));
    say(`Step ${step}. ${told.join(" ")}`);
    const now = encode(state, steps);
    keep(now === encode({ frame: 0, picture: 0 }, steps) ? "" : now);
  }

  function stop() {
    clearInterval(timer);
    timer = 0;
    play.textContent = "Play";
  }

  /** @param {number} frame */
  function go(frame) { state.frame = clamp(frame, 0, LAST); render(); }

  for (const [c, curve] of curves.entries()) {
    const top = Math.max(...tracks.flatMap((t) => t.curves[c])), scene = curve.querySelector("svg");
    scene.querySelectorAll("polyline").forEach((p, n) => set(p, { points: line(tracks[n].curves[c], top, 100, 40) }));
    const to = (e) => { const r = scene.getBoundingClientRect(); stop(); go(Math.round((LAST * (e.clientX - r.left)) / r.width)); };
    scene.addEventListener("pointerdown", (e) => { if (!e.button) { scene.setPointerCapture(e.pointerId); to(e); } });
    scene.addEventListener("pointermove", (e) => { if (e.buttons) to(e); });
  }
  play.addEventListener("click", () => {
    if (timer) return stop();
    if (state.frame === LAST) go(0);
    play.textContent = "Pause";
    timer = setInterval(() => { go(state.frame + 1); if (state.frame === LAST) stop(); }, PACE);
  });
  slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });
  for (const b of presets) b.addEventListener("click", () => { state.picture = Number(b.dataset.preset); render(); });
  const open = () => { stop(); state = decode(recall("training"), steps, pictures.length) ?? { frame: 0, picture: 0 }; render(); };
  addEventListener("popstate", open);
  open();
})();
