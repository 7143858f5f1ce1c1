// The live detector in nbs/10_inference: draw shapes, see what the trained model says, and where it looked.
(() => {
  const here = /** @type {HTMLScriptElement} */ (document.currentScript).src;
  const { fixed, clamp, list, svg, set, calm, recall, keeper, find, press } = detrLive;
  const { CLASSES, SIZE, CELLS, LAYERS, SMALLEST, MOST, inside, paint, change, load, answers, claims, iou, finders, shares, encode, decode } = detrDetector;
  const part = find("detector");
  if (!part) return;
  const { root, data } = part, PRESETS = data.presets, COLOURS = data.colours.map((c) => c[1]);
  const STEP = 2, STRIDE = SIZE / CELLS, CLICK = 5;             // pixels; moving less than CLICK draws nothing
  const glow = (v) => { const j = Math.min(Math.floor(8 * v), 7), [a, b] = data.glow.slice(j); return a.map((c, n) => c + (8 * v - j) * (b[n] - c)); };

  const $ = (s) => root.querySelector(s), $$ = (s) => [...root.querySelectorAll(s)];
  const [scene, status, add, remove, kind, threshold, picture, big] = [".live-picture svg", "[role=status]", ".live-add", ".live-remove",
    "[name=kind]", "[name=threshold]", ".live-picture canvas", ".live-look canvas"].map($);
  const presets = $$("[data-preset]"), colours = $$("[name=colour]"), shows = $$("[name=show]"), heads = $$("[data-head]"), queries = $$("[data-query]");
  const keep = keeper("detector"), say = calm((text) => { status.textContent = text; }, 200);
  const [grey, heat] = [SIZE, CELLS].map((n) => Object.assign(document.createElement("canvas"), { width: n, height: n }));
  const [shapesLayer, boxesLayer, asks] = scene.children, [framed, mark] = $(".live-look svg").children;

  let state, chosen = -1, following = false, groups = [], painted, seen, all = [], kept = [];
  const start = (p) => ({ threshold: 70, show: "query", query: p.query, cell: p.cell, layer: LAYERS - 1, head: 0, shapes: p.shapes.map((s) => [...s]) });
  const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;
  const name = (a) => CLASSES[a.label - 1], said = (a) => (kept.includes(a) ? `${name(a)} ${a.score.toFixed(2)}` : "no object");
  const which = (b) => ({ layer: +b.dataset.layer, head: +b.dataset.head });
  const put = (canvas, image) => canvas.getContext("2d").putImageData(image, 0, 0), on = (e, event, f) => e.addEventListener(event, f), still = { preventScroll: true };
  const place = () => [state.cell % CELLS, Math.floor(state.cell / CELLS)];

  /** As many groups as shapes: those that stay keep the focus. */
  function build() {
    while (groups.length > state.shapes.length) groups.pop().remove();
    while (groups.length < state.shapes.length) {
      const i = groups.length, g = svg("g", { tabindex: 0, role: "button", "aria-describedby": "live-keys" }, svg("rect", { class: "live-hit" }), svg("path", { class: "live-handle" }));
      on(g, "focus", () => { if (chosen !== i) { chosen = i; render(); } });
      shapesLayer.append(g);
      groups.push(g);
    }
  }

  function drawPicture() {
    painted = paint(state.shapes, COLOURS);
    const n = SIZE * SIZE, p = painted.pixels, [rgb, half] = [picture, grey].map(() => new ImageData(SIZE, SIZE));
    for (let i = 0; i < n; i++) {
      for (let c = 0; c < 3; c++) { rgb.data[4 * i + c] = 255 * p[c * n + i]; half.data[4 * i + c] = 42.5 * (p[i] + p[n + i] + p[2 * n + i]); }
      rgb.data[4 * i + 3] = half.data[4 * i + 3] = 255;
    }
    put(picture, rgb);
    put(grey, half);
    groups.forEach((g, i) => {
      const [k, x, y, w, h, c] = state.shapes[i];
      set(g, { class: i === chosen ? "chosen" : "", "aria-label": `Shape ${i + 1}: ${data.colours[c][0]} ${CLASSES[k]}, centre ${x + w / 2}, ${y + h / 2}, size ${w} by ${h}` });
      set(g.firstChild, { x, y, width: w, height: h });
      set(g.lastChild, { d: `M${x + w + 2} ${y + h - 5}v7h-7` });
    });
  }

  /** Shares over the greyed picture; cell i is centred on pixel 16 i. @param {HTMLCanvasElement} canvas @param {Float32Array | null} [map] */
  function drawHeat(canvas, map) {
    const g = canvas.getContext("2d"), size = canvas.width, shift = (1 - STRIDE) / 2 / SIZE * size;
    g.drawImage(grey, 0, 0, size, size);
    if (!map) return;
    const most = Math.max(...map), image = new ImageData(CELLS, CELLS);
    map.forEach((v, i) => image.data.set([...glow(v / most), 217 * Math.sqrt(v / most)], 4 * i));
    put(heat, image);
    g.drawImage(heat, shift, shift, size, size);
  }

  /** @param {ReturnType<typeof detrDetector.answers>[number]} a @param {boolean} [tag] @param {boolean} [short] */
  function box(a, tag, short) {
    const [x0, y0, x1, y1] = a.box.map((v) => v * SIZE), r = { x: x0, y: y0, width: x1 - x0, height: y1 - y0 };
    const g = svg("g", { class: `live-box live-class-${a.says && a.label}` }, svg("rect", { class: "live-halo", ...r }), svg("rect", { class: "live-frame", ...r }));
    if (!tag) return g;
    const text = `${a.query}${short ? "" : ` ${said(a)}`}`, width = 2.8 * text.length + 2.6, x = clamp(x0, 0, SIZE - width), y = y0 < 7 ? Math.max(y0, 0) : y0 - 7;
    g.append(svg("g", { class: "live-tag", "data-tag": a.query }, svg("rect", { x, y, width, height: 7 }), svg("text", { class: "live-name", x: x + width / 2, y: y + 5.3 })));
    g.lastChild.lastChild.textContent = text;
    g.classList.toggle("picked", state.show === "query" && a.query === state.query);
    return g;
  }

  function drawAnswers() {
    kept = claims(all, state.threshold / 100);
    const query = state.show === "query", own = following && query && painted.boxes[chosen]?.map((v) => v / SIZE);
    if (own) state.query = kept.filter((a) => iou(a.box, own) > 0.5).sort((a, b) => iou(b.box, own) - iou(a.box, own))[0]?.query ?? state.query;      // who has the shape in hand?
    const picked = all[state.query], map = seen && shares(seen, state), [x, y] = place();
    boxesLayer.replaceChildren(...kept.map((a) => box(a, true, kept.length > 6)));
    drawHeat(big, map);
    framed.replaceChildren(...(query && picked ? [box(picked)] : []));
    for (const e of [asks, mark]) set(e, { transform: `translate(${x * STRIDE + 0.5} ${y * STRIDE + 0.5})`, class: `live-asks ${query ? "" : "on"}` });
    set(asks, { "aria-label": `The cell that asks: row ${y + 1}, column ${x + 1}` });
    $(".live-heads").classList.toggle("encoder", !query);
    for (const b of heads) {
      const { layer, head } = which(b);
      b.disabled = !seen || (!query && layer > 0);
      drawHeat(b.firstChild, seen && shares(seen, { ...state, layer, head }));
      set(b, { "aria-pressed": (layer === state.layer || !query) && head === state.head });
    }
    queries.forEach((b, q) => {
      const a = all[q], says = kept.includes(a);
      b.disabled = !seen;
      drawHeat(b.firstChild, seen && shares(seen, { show: "query", query: q, cell: 0, layer: LAYERS - 1, head: 0 }));
      if (a) b.querySelector("svg").replaceChildren(box(says ? a : { ...a, says: 0 }));
      b.lastChild.lastChild.textContent = says ? name(a) : "–";
      b.className = `live-tile live-class-${says ? a.label : 0}`;
      set(b, { "aria-label": `Query ${q}: ${said(a)}`, "aria-pressed": query && q === state.query });
    });
    $(".live-asked").textContent = query ? `Query ${state.query}${seen ? `: ${said(picked)}` : ""}` : `Row ${y + 1}, column ${x + 1}`;
    $(".live-most").textContent = map ? `${query ? `layer ${state.layer + 1}` : "encoder"}, ${state.head ? `head ${state.head}` : "mean of the heads"}. Brightest cell: ${fixed(Math.max(...map))}` : "";
  }

  function verdict() {
    const n = state.shapes.length, right = finders(kept, state.shapes, painted.boxes).filter((q) => q >= 0).length, wrong = kept.length - right;
    if (!n && !wrong) return "An empty picture, and no query says an object.";
    const kinds = CLASSES.map((c) => [kept.filter((a) => name(a) === c).length, c]).filter(([m]) => m).map((k) => plural(...k));
    return `${plural(n, "shape")}, ${plural(kept.length, "answer")}${kinds.length ? ": " : ""}${list(kinds)}.${n > right ? ` Not found: ${n - right}.` : ""}${wrong ? ` Wrong or said twice: ${wrong}.` : ""}`;
  }

  const show = () => { drawAnswers(); tell(); };

  /** Controls, words, address. */
  function tell() {
    const it = state.shapes[chosen], now = encode(state), at = PRESETS.find((p) => p.shapes.join() === state.shapes.join());
    $(".live-who").textContent = it ? `Shape ${chosen + 1}` : "New shape";
    if (it) { kind.value = it[0]; colours[it[5]].checked = true; }
    [remove.disabled, add.disabled] = [!it, state.shapes.length >= MOST];
    threshold.value = state.threshold / 100;
    threshold.nextElementSibling.textContent = (state.threshold / 100).toFixed(2);
    for (const s of shows) s.checked = s.value === state.show;
    say(model.loaded() ? verdict() : "The model is not loaded yet.");
    press(presets, at?.key ?? "");
    if (at) $(".live-hint").textContent = at.hint;
    keep(now === encode(start(PRESETS[0])) ? "" : now);
  }

  /** After a change of shapes. */
  function render() {
    chosen = Math.min(chosen, state.shapes.length - 1);
    drawPicture();
    if (!model.loaded()) show();
    model.ask();
  }

  /** @param {number} x @param {number} y @param {number} side */
  function create(x, y, side) {
    const free = COLOURS.findIndex((_, c) => !state.shapes.some((s) => s[5] === c));
    chosen = state.shapes.push([+kind.value, x, y, side, side, Math.max(free, 0)]) - 1;
    [following, state.show] = [true, "query"];
    build();
    move(1, x);
  }

  /** Set one of the chosen shape's numbers. @param {number} i @param {number} v */
  function move(i, v) {
    if (!state.shapes[chosen]) return;
    change(state.shapes[chosen], i, v);
    following = true;
    render();
  }

  function erase() {
    if (!state.shapes[chosen]) return;
    state.shapes.splice(chosen, 1);
    build();
    render();
    (groups[chosen] ?? add).focus(still);
  }

  function pick(what, n) { [state.show, state[what], following] = [what, n, false]; show(); }

  on(scene, "keydown", (e) => {
    const by = { ArrowLeft: [1, -1], ArrowRight: [1, 1], ArrowUp: [2, -1], ArrowDown: [2, 1] }[e.key], cell = e.target === asks;
    if (e.altKey || e.ctrlKey || e.metaKey || !(by || (!cell && ["Delete", "Backspace"].includes(e.key)))) return;
    e.preventDefault();
    if (!by) erase();
    else if (cell) {
      const to = place();
      to[by[0] - 1] = clamp(to[by[0] - 1] + by[1], 0, CELLS - 1);
      pick("cell", to[1] * CELLS + to[0]);
    } else { const i = by[0] + (e.shiftKey ? 2 : 0); move(i, state.shapes[chosen][i] + STEP * by[1]); }
  });

  let held = null, ground = false;                                // held: what the pointer does, until it is up
  const at = (e) => { const r = scene.getBoundingClientRect(); return [(e.clientX - r.left) / r.width * SIZE, (e.clientY - r.top) / r.height * SIZE]; };
  const stretch = (a, b) => (x, y) => {                           // from a corner to the pointer
    [x, y] = [clamp(x, 0, SIZE), clamp(y, 0, SIZE)];
    state.shapes[chosen].splice(2, 3, Math.min(b, y), Math.abs(x - a), Math.abs(y - b));
    move(1, Math.min(a, x));
  };
  on(scene, "pointerdown", (e) => {
    if (e.button) return;
    e.preventDefault();
    scene.setPointerCapture(e.pointerId);
    const [x, y] = at(e), tag = e.target.closest("[data-tag]"), c = state.shapes[chosen], reach = 12 * SIZE / scene.getBoundingClientRect().width;
    const i = state.shapes.findLastIndex(([k, left, top, w, h]) => clamp(x, left, left + w) === x && clamp(y, top, top + h) === y && inside(k, y - top - 0.5, x - left - 0.5, h, w));
    if (c && Math.hypot(x - c[1] - c[3], y - c[2] - c[4]) < reach) held = stretch(c[1], c[2]);
    else if (tag) pick("query", +tag.dataset.tag);
    else if (i < 0) {
      ground = true;
      held = (a, b) => {
        if (Math.hypot(x - a, y - b) < CLICK || state.shapes.length >= MOST) return;
        [ground, held] = [false, stretch(x, y)];
        create(x, y, SMALLEST);
        held(a, b);
      };
    } else {
      const [, left, top] = state.shapes[i];
      [chosen, following, state.show] = [i, true, "query"];
      held = (a, b) => { state.shapes[i][2] = top + b - y; move(1, left + a - x); };
      groups[i].focus(still);
      render();
    }
  });
  on(scene, "pointermove", (e) => held?.(...at(e)));
  on(scene, "pointerup", (e) => {
    const [x, y] = at(e).map((v) => clamp(Math.round(v / STRIDE), 0, CELLS - 1));
    if (ground) pick("cell", y * CELLS + x);
  });
  on(scene, "lostpointercapture", () => { [ground, held] = [false, null]; });

  on(add, "click", () => {                                        // where it covers nothing, if it can
    const n = 24, free = Array.from({ length: 36 }, (_, i) => /** @type {[number, number]} */ ([4 + i % 6 * 19, 4 + Math.floor(i / 6) * 19])).find(([x, y]) => !state.shapes.some(([, a, b, w, h]) => x < a + w && a < x + n && y < b + h && b < y + n));
    create(...(free ?? [52, 52]), n);
  });
  on(remove, "click", erase);
  on(kind, "change", () => move(0, +kind.value));
  colours.forEach((c, i) => on(c, "change", () => move(5, i)));
  on(threshold, "input", () => { state.threshold = Math.round(100 * threshold.value); show(); });
  for (const s of shows) on(s, "change", () => pick(s.value, state[s.value]));
  for (const b of heads) on(b, "click", () => { Object.assign(state, state.show === "query" ? which(b) : { head: which(b).head }); show(); });
  for (const b of queries) on(b, "click", () => pick("query", +b.dataset.query));
  for (const b of presets) on(b, "click", () => open(start(PRESETS.find((p) => p.key === b.dataset.preset))));

  const model = detrDetect.engine(root, (got) => load(new URL("ort/", here).href, got), async (look) => {
    seen = await look(painted.pixels);
    all = answers(seen);
    show();
  }, () => (groups[0] ?? add).focus(still));

  function open(s) { [state, chosen, following] = [s, s.shapes.length - 1, false]; build(); render(); }
  const fromAddress = () => open(decode(recall("detector"), COLOURS.length) ?? start(PRESETS[0]));
  addEventListener("popstate", fromAddress);
  fromAddress();
})();
