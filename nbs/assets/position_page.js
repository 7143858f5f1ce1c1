// "Where am I?" in nbs/02_position: point at a cell, and see which others its code resembles.
(() => {
  const { fixed, clamp, calm, recall, keeper, find, press } = detrLive;
  const { sine, start, similarity, highest, samePlace, encode, decode, START, WIDTHS, SMALLEST, LARGEST } = detrPosition;
  const part = find("position");
  if (!part) return;
  const { root, data } = part, TRAINED = data.size;       // the table was trained on so many rows and columns
  const PRESETS = {
    paper: START,
    sharp: { ...START, T: 20 },
    larger: { ...START, rows: 16, cols: 16, at: [11, 11], T: 20, d: 32, ask: "trained" },
  };
  // matplotlib's viridis, the colours of the chapter's figures, at nine places
  const VIRIDIS = ["440154", "472d7b", "3b528b", "2c728e", "21918c", "28ae80", "5ec962", "addc30", "fde725"]
    .map((h) => [0, 2, 4].map((i) => parseInt(h.slice(i, i + 2), 16)));

  const $ = (selector) => root.querySelector(selector), $$ = (selector) => [...root.querySelectorAll(selector)];
  const maps = $$(".live-map"), presets = $$("[data-preset]"), said = $("[role=status]");
  const [T, d, rows, cols, row, col] = ["T", "d", "rows", "cols", "row", "col"].map((n) => $(`[name=${n}]`));
  const words = ["measure", "ask", "table"], keep = keeper("position"), say = calm((text) => { said.textContent = text; }, 250);
  /** @type {ReturnType<typeof detrPosition.decode>} */ let state;
  let made = "", codes = [];                              // [sine, learned], and what they were made for

  /** 1, 1.1 ... 9900, 10000: two digits. @param {number} x the slider's place, the logarithm */
  const temperature = (x) => Number((10 ** x).toPrecision(2));

  /** @param {number} v from 0 to 1 */
  function colour(v) {
    const at = clamp(v, 0, 1) * (VIRIDIS.length - 1), i = Math.min(Math.floor(at), VIRIDIS.length - 2);
    return VIRIDIS[i].map((a, k) => a + (at - i) * (VIRIDIS[i + 1][k] - a));
  }

  function make() {
    const key = [state.rows, state.cols, state.d, state.T, state.table].join();
    if (key === made) return;
    made = key;
    const table = state.table === "trained" ? data : start(LARGEST, state.d);
    const cut = (n, m) => ({ row: table.row.slice(0, n), col: table.col.slice(0, m) });
    codes = [[sine(state.rows, state.cols, state.d, state.T), sine(TRAINED, TRAINED, state.d, state.T)],
      [cut(state.rows, state.cols), cut(TRAINED, TRAINED)]];
  }

  /** @param {HTMLElement} map @param {number[][]} found @param {[number, number]} best */
  function paint(map, found, best) {
    const canvas = map.querySelector("canvas"), pen = canvas.getContext("2d", { willReadFrequently: true }), [h, w] = [state.rows, state.cols];
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    const top = state.measure === "dot" ? found[best[0]][best[1]] : 1, image = pen.createImageData(w, h);
    found.flat().forEach((v, i) => image.data.set([...colour(v / top), 255], 4 * i));
    pen.putImageData(image, 0, 0);
    const part = (selector) => /** @type {HTMLElement} */ (map.querySelector(selector)), side = Math.max(h, w);
    Object.assign(part(".live-cells").style, { width: `${(100 * w) / side}%`, height: `${(100 * h) / side}%` });
    const put = (selector, [y, x]) =>
      Object.assign(part(selector).style, { left: `${(100 * (x + 0.5)) / w}%`, top: `${(100 * (y + 0.5)) / h}%` });
    put(".live-here", state.at);
    put(".live-best", best);
    const known = part(".live-known");
    if (known) known.hidden = Math.max(h, w) <= TRAINED;
    if (known) Object.assign(known.style, { width: `${Math.min(100, (100 * TRAINED) / w)}%`, height: `${Math.min(100, (100 * TRAINED) / h)}%` });
    map.querySelector(".live-top").textContent = state.measure === "dot" ? fixed(top, 1) : "1";
  }

  /** What stands below a map. @param {number[][]} found @param {number[]} best */
  function readout(found, best) {
    const [y, x] = state.at, all = found.flat(), own = found[y][x];
    const off = Math.hypot((best[0] - y) / state.rows, (best[1] - x) / state.cols), itself = best[0] === y && best[1] === x;
    const near = all.filter((v) => v > 0.9 * (state.measure === "dot" ? own : 1)).length;
    return [`row ${best[0] + 1}, column ${best[1] + 1}${itself ? ": the place itself" : `, ${fixed(off)} of the side away`}`, `${near} of ${all.length}`, itself];
  }

  function render() {
    make();
    const trained = state.ask === "trained", place = [samePlace(state.at[0], state.rows, TRAINED), samePlace(state.at[1], state.cols, TRAINED)];
    const lines = maps.map((map, n) => {
      const [here, there] = codes[n], [asks, [y, x]] = trained ? [there, place] : [here, state.at];
      const found = similarity(here, asks.row[y], asks.col[x], state.measure), best = highest(found), [most, near] = readout(found, best);
      paint(map, found, best);
      map.dataset.own = found[state.at[0]][state.at[1]].toFixed(4);
      map.querySelector(".live-most").textContent = most;
      map.querySelector(".live-near").textContent = near;
      return `${n ? "Learned" : "Sine"}: most alike ${most}; ${near} nearly as much.`;
    });
    const [y, x] = state.at;
    $$(".live-near-word").forEach((e) => { e.textContent = state.measure === "dot" ? "above 9/10 of its own" : "above 0.9"; });
    maps[0].setAttribute("aria-label", `Sine codes, row ${y + 1}, column ${x + 1} of ${state.rows} by ${state.cols}`);
    $$(".live-width").forEach((e, n) => { e.textContent = `d = ${n && state.table === "trained" ? data.width : state.d}`; });
    T.value = String(Math.log10(state.T));
    T.setAttribute("aria-valuetext", String(state.T));
    d.value = String(WIDTHS.indexOf(state.d));
    d.setAttribute("aria-valuetext", String(state.d));
    for (const [input, value] of [[rows, state.rows], [cols, state.cols]]) input.value = String(value);
    for (const [input, value, n] of [[row, y, state.rows], [col, x, state.cols]]) {
      input.max = String(n);
      if (document.activeElement !== input) input.value = String(value + 1);
    }
    for (const [input, value] of [[T, state.T], [d, state.d], [rows, state.rows], [cols, state.cols]]) input.nextElementSibling.textContent = String(value);
    for (const w of words) $(`[name=${w}][value=${state[w]}]`).checked = true;
    say(`Row ${y + 1}, column ${x + 1}. ${lines.join(" ")}`);
    const now = encode(state), at = Object.keys(PRESETS).find((k) => encode({ ...PRESETS[k], at: state.at }) === now);
    press(presets, at ?? "");
    keep(now === encode(START) ? "" : now);
  }

  /** @param {number} y @param {number} x */
  function go(y, x) {
    state.at = [clamp(y, 0, state.rows - 1), clamp(x, 0, state.cols - 1)];
    render();
  }

  maps.forEach((map) => {
    const cells = map.querySelector(".live-cells");
    const to = (e) => {
      const r = cells.getBoundingClientRect(), y = Math.floor(((e.clientY - r.top) / r.height) * state.rows), x = Math.floor(((e.clientX - r.left) / r.width) * state.cols);
      if (y !== state.at[0] || x !== state.at[1]) go(y, x);
    };
    cells.addEventListener("pointerdown", (e) => { if (!e.button) { cells.setPointerCapture(e.pointerId); to(e); } });
    cells.addEventListener("pointermove", (e) => { if (e.pointerType === "mouse" || e.buttons) to(e); });
  });
  maps[0].addEventListener("keydown", (e) => {
    const [y, x] = state.at, to = /** @type {Record<string, [number, number]>} */ ({ ArrowLeft: [y, x - 1], ArrowRight: [y, x + 1], ArrowUp: [y - 1, x], ArrowDown: [y + 1, x], Home: [y, 0], End: [y, state.cols - 1] })[e.key];
    if (!to || e.altKey || e.ctrlKey || e.metaKey) return;
    e.preventDefault();
    go(...to);
  });
  for (const [input, i] of [[row, 0], [col, 1]]) {
    input.addEventListener("input", () => {
      if (input.value === "" || !input.checkValidity()) return;
      /** @type {[number, number]} */ const at = [...state.at];
      at[i] = Number(input.value) - 1;
      go(...at);
    });
    input.addEventListener("blur", render);
  }
  for (const [input, name, i] of [[rows, "rows", 0], [cols, "cols", 1]]) {
    input.addEventListener("input", () => {          // the place stays, as a share of the map
      const n = Number(input.value);
      state.at[i] = samePlace(state.at[i], state[name], n);
      state[name] = n;
      render();
    });
  }
  T.addEventListener("input", () => { state.T = temperature(Number(T.value)); render(); });
  d.addEventListener("input", () => { state.d = WIDTHS[Number(d.value)]; render(); });
  for (const w of words) for (const input of $$(`[name=${w}]`)) input.addEventListener("change", () => { state[w] = input.value; render(); });
  for (const b of presets) b.addEventListener("click", () => { state = structuredClone(PRESETS[b.dataset.preset]); render(); });
  for (const [input, n] of [[rows, [SMALLEST, LARGEST]], [cols, [SMALLEST, LARGEST]], [d, [0, WIDTHS.length - 1]]]) [input.min, input.max] = n.map(String);
  const open = () => { state = decode(recall("position")) ?? structuredClone(START); render(); };
  addEventListener("popstate", open);
  open();
})();
