// The matching playground in nbs/06_matcher: drag predictions and objects, and see who gets whom.
(() => {
  const { fixed, clamp, list, svg, set, calm, recall, keeper, find, press } = detrLive;
  const { CLASSES, BOTTOM, SMALLEST, RULES, terms, costs, assign, total, unpack, encode, decode, change, believe } = detrMatching;
  const part = find("matching");
  if (!part) return;
  const { root, data } = part, PRESETS = data.presets;
  const letter = (o) => "ABCDEFGH"[o];

  const $ = (selector) => root.querySelector(selector), $$ = (selector) => [...root.querySelectorAll(selector)];
  const scenes = $$(".live-scene svg"), presets = $$("[data-preset]"), sliders = $$("[data-weight]"), numbers = $$("[data-side]");
  const [rule, cls, prob, body, said] = ["[name=rule]", "[name=class]", "[name=prob]", "tbody", "[role=status]"].map($);
  const keep = keeper("matching"), say = calm((text) => { said.textContent = text; }, 200);
  /** @type {ReturnType<typeof detrMatching.decode>} */ let state;
  let chosen = { kind: "q", i: 0 }, parts = [];       // parts: for each scene, the elements of each box

  const boxes = () => [...state.predictions.map((p, i) => ({ kind: "q", i, box: p.box })), ...state.objects.map((o, i) => ({ kind: "o", i, box: o.box }))];
  const same = (a, b) => a.kind === b.kind && a.i === b.i;
  /** What is chosen, a prediction or an object. @returns {any} */
  const thing = () => (chosen.kind === "q" ? state.predictions : state.objects)[chosen.i];
  const name = ({ kind, i }) => (kind === "q" ? `Query ${i}` : `Object ${letter(i)}`);

  function build() {
    parts = scenes.map((scene, n) => {
      const layers = ["o", "arrows", "q"].map((c) => svg("g", { class: `live-layer-${c}` }));
      scene.replaceChildren(...layers);
      const made = boxes().map(({ kind, i }) => {
        const shape = kind === "q" ? svg("rect", { class: "live-frame" }) : svg("path", { class: "live-object" });
        const tag = svg("rect", { class: "live-tag", rx: 6 }), text = svg("text", { class: "live-name" }), hit = svg("rect", { class: "live-hit" }), handle = svg("path", { class: "live-handle" });
        const g = svg("g", { class: kind === "q" ? `live-q live-${i}` : "live-o", "data-box": kind + i }, hit, shape, tag, text, handle);
        text.textContent = kind === "q" ? String(i) : letter(i);
        if (!n) {
          set(g, { tabindex: 0, role: "button", "aria-describedby": "live-keys" });
          g.addEventListener("focus", () => { if (!same(chosen, { kind, i })) { chosen = { kind, i }; render(); } });
          g.addEventListener("keydown", (e) => keyed(e));
        }
        layers[kind === "q" ? 2 : 0].append(g);
        return { kind, i, g, shape, tag, text, hit, handle };
      });
      return { made, arrows: layers[1] };
    });
    $("thead tr").replaceChildren(Object.assign(document.createElement("td")), ...state.objects.map((_, o) => {
      const th = document.createElement("th");
      th.scope = "col";
      return th;
    }));
    body.replaceChildren(...state.predictions.map((_, q) => {
      const tr = document.createElement("tr"), th = document.createElement("th");
      th.scope = "row";
      th.innerHTML = `<span class="live-chip live-${q}">${q}</span>`;
      th.prepend(Object.assign(document.createElement("span"), { className: "live-long", textContent: "query " }));
      tr.append(th, ...state.objects.map(() => {
        const td = document.createElement("td");
        td.innerHTML = '<b class="live-cost"></b><span class="live-sr"></span><span class="live-terms"></span>';
        return td;
      }));
      return tr;
    }));
  }

  /** The outline of an object, in thousandths. @param {number} label @param {number[]} b */
  function outline(label, [cx, cy, w, h]) {
    const [x, y, rx, ry] = [cx - w / 2, cy - h / 2, w / 2, h / 2].map((v) => 1000 * v), [W, H] = [1000 * w, 1000 * h];
    if (CLASSES[label] === "ellipse") return `M${x} ${y + ry}a${rx} ${ry} 0 1 0 ${W} 0a${rx} ${ry} 0 1 0 ${-W} 0z`;
    return CLASSES[label] === "triangle" ? `M${x + rx} ${y}l${rx} ${H}h${-W}z` : `M${x} ${y}h${W}v${H}h${-W}z`;
  }

  /** @param {{made: any[], arrows: Element}} scene @param {number[]} found */
  function paint({ made, arrows }, found) {
    for (const m of made) {
      const box = (m.kind === "q" ? state.predictions : state.objects)[m.i].box, on = same(m, chosen);
      const [x, y, w, h] = [box[0] - box[2] / 2, box[1] - box[3] / 2, box[2], box[3]].map((v) => 1000 * v);
      set(m.hit, { x, y, width: w, height: h });
      if (m.kind === "q") set(m.shape, { x, y, width: w, height: h }); else set(m.shape, { d: outline(state.objects[m.i].label, box) });
      const left = m.kind === "q" ? x + w - 44 : x + w / 2 - 22, top = m.kind === "q" ? y + h - 44 : y + h / 2 - 22;
      set(m.tag, { x: left, y: top, width: 44, height: 44 });
      set(m.text, { x: left + 22, y: top + 34 });
      set(m.handle, { d: `M${x + w + 16} ${y + h - 26}v42h-42` });
      const times = found.filter((q) => q === m.i).length;
      m.g.classList.toggle("chosen", on);
      m.g.classList.toggle("spare", m.kind === "q" && !times);
      m.g.classList.toggle("twice", m.kind === "q" && times > 1);
      if (m.g.hasAttribute("tabindex")) m.g.setAttribute("aria-label", described(m));
    }
    arrows.replaceChildren(...found.flatMap((q, o) => {
      if (q < 0) return [];
      const [a, b] = [state.predictions[q].box, state.objects[o].box].map((v) => [1000 * v[0], 1000 * v[1]]);
      const length = Math.hypot(b[0] - a[0], b[1] - a[1]), [dx, dy] = length > 1 ? [(b[0] - a[0]) / length, (b[1] - a[1]) / length] : [0, 0];
      const end = length > 60 ? [b[0] - 26 * dx, b[1] - 26 * dy] : b, side = [12 * -dy, 12 * dx], back = [end[0] - 30 * dx, end[1] - 30 * dy];
      const head = length > 60 ? `M${end}L${[back[0] + side[0], back[1] + side[1]]}L${[back[0] - side[0], back[1] - side[1]]}z` : "";
      return [svg("path", { class: `live-arrow live-${q}`, d: `M${a}L${head ? back : b}${head}` }), svg("circle", { class: `live-dot live-${q}`, cx: a[0], cy: a[1], r: 11 })];
    }));
  }

  function described({ kind, i }) {
    /** @type {any} */ const { box, cls: c, probs, label } = kind === "q" ? state.predictions[i] : state.objects[i];
    const what = kind === "q" ? `${CLASSES[c]}, probability ${probs[c].toFixed(2)}` : CLASSES[label];
    return `${name({ kind, i })}: ${what}, centre ${box[0].toFixed(2)}, ${box[1].toFixed(2)}, size ${box[2].toFixed(2)} by ${box[3].toFixed(2)}`;
  }

  function table(cost, left, right) {
    $$("thead th").forEach((th, o) => { th.innerHTML = `${letter(o)}<span class="live-long"> ${CLASSES[state.objects[o].label]}</span>`; });
    const deepest = Math.max(...cost.flat(), 1);
    [...body.rows].forEach((tr, q) => [...tr.cells].slice(1).forEach((td, o) => {
      const t = terms(state.predictions[q], state.objects[o]).map((x, i) => x * state.weights[i]);
      const [number, hidden, small] = td.children, marks = [left[o] === q ? "greedy" : "", right[o] === q ? "best" : ""].filter(Boolean);
      number.textContent = fixed(cost[q][o]);
      number.className = ["live-cost", ...marks.map((m) => `live-${m}`)].join(" ");
      hidden.textContent = marks.length ? `, in the ${list(marks)} matching` : "";
      small.textContent = t.map((x, i) => (i ? (x < 0 ? "" : "+") : "") + fixed(x)).join(" ");
      td.style.setProperty("--depth", `${Math.round(24 * clamp(cost[q][o] / deepest, 0, 1))}%`);
    }));
  }

  function rest(found) {
    const count = state.predictions.map((_, q) => found.filter((x) => x === q).length), which = (test) => count.flatMap((n, q) => (test(n) ? [q] : []));
    const twice = which((n) => n > 1), spare = which((n) => !n);
    return (twice.length ? `Claimed twice: query ${list(twice)}. ` : "") + (spare.length ? `Left over: ${spare.length > 1 ? "queries" : "query"} ${list(spare)}.` : "None is left over.");
  }

  function verdict(cost, left, right) {
    const more = total(cost, left) - total(cost, right), twice = left.find((q, o) => left.indexOf(q) !== o);
    if (state.weights.every((w) => !w)) return "With all weights at 0, every assignment costs nothing.";
    if (twice !== undefined) return `Query ${twice} is claimed by ${list(left.flatMap((q, o) => (q === twice ? [letter(o)] : [])))}: a duplicate. One to one, each object has a query of its own, for ${fixed(-more)} more.`;
    if (state.rule === "favourites") return "Each favourite is free, so the favourites are the best assignment.";
    return more < 0.005 ? "Both find the same total." : `The cheapest pair first pays ${fixed(more)} more.`;
  }

  function render() {
    const cost = costs(state.predictions, state.objects, state.weights), found = [RULES[state.rule](cost), assign(cost)];
    found.forEach((f, n) => {
      paint(parts[n], f);
      $$(".live-sum")[n].textContent = fixed(total(cost, f));
      $$(".live-rest")[n].textContent = rest(f);
    });
    scenes[1].setAttribute("aria-label", `Best total: ${found[1].map((q, o) => `query ${q} to object ${letter(o)}`).join(", ")}`);
    table(cost, ...found);
    rule.value = state.rule;
    sliders.forEach((s, i) => { s.value = String(state.weights[i]); s.nextElementSibling.textContent = state.weights[i].toFixed(1); });
    const it = thing(), query = chosen.kind === "q", who = $(".live-who");
    who.textContent = name(chosen);
    who.className = `live-who ${query ? `live-${chosen.i}` : "live-thing"}`;
    cls.options[0].disabled = !query;
    cls.value = String(query ? it.cls : it.label);
    prob.closest("label").classList.toggle("live-off", !query);
    prob.disabled = !query;
    if (query) { prob.value = String(it.probs[it.cls]); prob.nextElementSibling.textContent = it.probs[it.cls].toFixed(2); }
    numbers.forEach((n, i) => { if (document.activeElement !== n) n.value = it.box[i].toFixed(2); });
    say(verdict(cost, ...found));
    const now = encode(state), at = PRESETS.find((p) => encode(unpack(p)) === now);
    press(presets, at?.key ?? "");
    if (at) $(".live-hint").textContent = at.hint;
    keep(at === PRESETS[0] ? "" : now);
  }

  /** @param {typeof state} s */
  function show(s) { state = s; chosen = { kind: "q", i: Math.min(1, s.predictions.length - 1) }; build(); render(); }

  // ------------------------------------------------------------ what can be done
  function keyed(e) {
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, -1], ArrowDown: [1, 1] }[e.key];
    if (!by || e.altKey || e.ctrlKey || e.metaKey) return;
    e.preventDefault();
    const i = by[0] + (e.shiftKey ? 2 : 0), box = thing().box;
    change(box, i, box[i] + 0.01 * by[1]);
    render();
  }

  /** The box that a pointer means: the chosen one's corner, a frame's edge, an object, the smallest frame.
   * @param {number} x @param {number} y @param {number} reach @returns {any} */
  function under(x, y, reach) {
    const all = boxes().map((b) => ({ ...b, x: Math.abs(x - b.box[0]) - b.box[2] / 2, y: Math.abs(y - b.box[1]) - b.box[3] / 2 }));
    const c = all.find((b) => same(b, chosen)), inside = all.filter((b) => b.x <= reach && b.y <= reach).sort((a, b) => a.box[2] * a.box[3] - b.box[2] * b.box[3]);
    if (Math.hypot(x - c.box[0] - c.box[2] / 2, y - c.box[1] - c.box[3] / 2) < 1.6 * reach) return { ...c, corner: true };
    return inside.find((b) => b.kind === "q" && Math.max(b.x, b.y) > -reach) ?? inside.find((b) => b.kind === "o") ?? inside[0];
  }

  scenes.forEach((scene) => {
    let held = null;
    const at = (e) => { const r = scene.getBoundingClientRect(); return [(e.clientX - r.left) / r.width, ((e.clientY - r.top) / r.height) * BOTTOM]; };
    scene.addEventListener("pointerdown", (e) => {
      const [x, y] = at(e), hit = e.button ? undefined : under(x, y, 10 / scene.getBoundingClientRect().width);
      if (!hit) return;
      e.preventDefault();
      chosen = { kind: hit.kind, i: hit.i };
      held = { corner: hit.corner, dx: hit.box[0] - x, dy: hit.box[1] - y, left: hit.box[0] - hit.box[2] / 2, top: hit.box[1] - hit.box[3] / 2 };
      scene.setPointerCapture(e.pointerId);
      parts[0].made.find((m) => same(m, chosen)).g.focus({ preventScroll: true });
      render();
    });
    scene.addEventListener("touchstart", (e) => {             // Chromium forgets touch-action within an SVG: the page would move
      const [x, y] = at(e.touches[0]);
      if (under(x, y, 10 / scene.getBoundingClientRect().width)) e.preventDefault();
    }, { passive: false });
    scene.addEventListener("pointermove", (e) => {
      if (!held) return;
      const [x, y] = at(e), box = thing().box;
      if (held.corner) {
        const w = clamp(x - held.left, SMALLEST, 1 - held.left), h = clamp(y - held.top, SMALLEST, BOTTOM - held.top);
        box.splice(0, 4, held.left + w / 2, held.top + h / 2, w, h);
      } else box.splice(0, 2, x + held.dx, y + held.dy);
      change(box, 0, box[0]);
      render();
    });
    for (const end of ["pointerup", "pointercancel"]) scene.addEventListener(end, () => { held = null; });
  });

  rule.addEventListener("change", () => { state.rule = rule.value; render(); });
  sliders.forEach((s, i) => s.addEventListener("input", () => { state.weights[i] = Number(s.value); render(); }));
  cls.addEventListener("change", () => {
    const it = thing(), c = Number(cls.value);
    if (chosen.kind === "o") it.label = c;
    else { [it.probs[it.cls], it.probs[c]] = [it.probs[c], it.probs[it.cls]]; it.cls = c; }
    render();
  });
  prob.addEventListener("input", () => { believe(thing(), Number(prob.value)); render(); });
  numbers.forEach((n, i) => {
    n.addEventListener("input", () => { if (n.value !== "" && n.checkValidity()) { change(thing().box, i, Number(n.value)); render(); } });
    n.addEventListener("blur", render);
  });
  for (const b of presets) b.addEventListener("click", () => show(unpack(PRESETS.find((p) => p.key === b.dataset.preset))));
  function open() {                                    // a place on the page is no other state
    const s = decode(recall("matching")) ?? unpack(PRESETS[0]);
    if (!state || encode(s) !== encode(state)) show(s);
  }
  addEventListener("popstate", open);
  open();
})();
