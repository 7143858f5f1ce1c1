// The tree model in nbs/16_real_images: a window over a photograph, the book's or the reader's own, and what it finds there.
(() => {
  const here = /** @type {HTMLScriptElement} */ (document.currentScript).src;
  const { fixed, svg, set, calm, recall, keeper, find, press } = detrLive;
  const { SIZE, LOW, HIGH, STEP, MOST, shrink, placed, shown, fit, encode, decode } = detrTrees;
  const { load, answers, claims, finders, engine } = detrDetect;
  const part = find("trees");
  if (!part) return;
  const { root, data } = part, START = data.start;
  const $ = (s) => root.querySelector(s), on = (e, event, f) => e.addEventListener(event, f);
  const [photo, small, scene, hint, status, sample, file, sides, scores] = [".live-photo canvas", ".live-look canvas", ".live-photo svg", ".live-hint", "[role=status]", "[data-preset]", "[type=file]", "[name=side]", "[name=score]"].map($);
  const [boxes, frame] = scene.children, [grab, edge] = frame.children, close = $(".live-look g");
  const ink = photo.getContext("2d", { willReadFrequently: true }), keep = keeper("trees"), say = calm((text) => { status.textContent = text; }, 200);
  const plural = (n, word) => `${n} ${word}${n === 1 ? "" : "s"}`;

  /** @type {ReturnType<typeof decode>} */ let state = START;
  /** @type {ReturnType<typeof answers>} */ let all = [];
  let looked = state, own = false, turn = 0;                    // looked: where `all` was seen

  /** @param {number[]} b @param {string} kind */
  function box([x, y, right, bottom], kind) {
    const at = { x, y, width: right - x, height: bottom - y };
    return svg("g", { class: "live-box", "data-kind": kind }, svg("rect", { class: "live-halo", ...at }), svg("rect", { class: "live-frame", ...at }));
  }

  function drawAnswers() {
    const kept = claims(placed(all, looked), state.score / 100), people = own ? [] : shown(data.boxes, looked), found = finders(kept, people.map((b) => ({ label: 1, box: b })));
    const n = model.loaded() ? kept.length : 0, hits = found.filter((q) => q >= 0).length, kinds = (a) => (own || found.includes(a.query) ? "hit" : "again");
    const missed = people.filter((_, i) => n && found[i] < 0), draw = () => [...kept.map((a) => box(a.box, kinds(a))), ...missed.map((b) => box(b, "missed"))];
    for (const layer of [boxes, close]) layer.replaceChildren(...(model.loaded() ? draw() : []));
    set(close.parentNode, { viewBox: `${looked.x} ${looked.y} ${looked.side} ${looked.side}` });
    const what = own ? `It finds ${plural(n, "tree")} in this window.` : `${n === 1 ? "1 box" : `${n} boxes`}. People drew ${plural(people.length, "tree")} in this window; ${hits} of them ${hits === 1 ? "is" : "are"} found.`;
    set(small, { "aria-label": `What the model sees, and ${n} boxes` });
    say(model.loaded() ? what : "The model is not loaded yet.");
  }

  /** The window, its controls and the address. */
  function drawWindow() {
    const { x, y, side, score } = state;
    for (const e of [grab, edge]) set(e, { x, y, width: side, height: side });
    grab.style.touchAction = side < photo.height ? "none" : "pan-y";         // no way to go: the page moves instead
    set(frame, { "aria-label": `The window: ${side} pixels wide, left edge at ${x}, upper edge at ${y}` });
    [sides.value, scores.value] = [side, score / 100];
    [sides.nextElementSibling.textContent, scores.nextElementSibling.textContent] = [side, fixed(score / 100)];
    const now = encode(state);
    keep(own || now === encode(START) ? "" : now);
  }

  function render() {
    drawWindow();
    if (!model.loaded()) show({ ...state }, pixels(state), []);
    model.ask();
  }

  /** What the model sees of a window. @param {typeof state} at */
  const pixels = (at) => shrink(ink.getImageData(at.x, at.y, at.side, at.side).data, at.side);

  /** A window with its answers. @param {typeof state} at @param {Float32Array} seen @param {typeof all} said */
  function show(at, seen, said) {
    const n = SIZE * SIZE, image = new ImageData(SIZE, SIZE);
    image.data.fill(255);
    for (let c = 0; c < 3; c++) for (let i = 0; i < n; i++) image.data[4 * i + c] = 255 * seen[c * n + i];
    small.getContext("2d").putImageData(image, 0, 0);
    [looked, all] = [at, said];
    drawAnswers();
  }

  const model = engine(root, (got) => load(new URL("ort/", here).href, "trees.onnx", SIZE, got), async (look) => {
    const at = { ...state }, seen = pixels(at), out = await look(seen);
    show(at, seen, answers(out.pred_logits, out.pred_boxes));
  }, () => frame.focus({ preventScroll: true }));

  /** A window with this corner. @param {number} x @param {number} y @param {number} [side] */
  function go(x, y, side = state.side) {
    state = fit({ ...state, x, y, side }, photo.width, photo.height);
    render();
  }

  /** A photograph by its address, large ones made smaller, what is transparent on white. @param {string} address @param {typeof state} to @param {string} [name] of a reader's file */
  async function open(address, to, name = "") {
    const mine = ++turn, image = new Image();
    image.src = address;
    try { await image.decode(); } catch {
      if (mine === turn) hint.textContent = `${name} is no picture that this browser can read.`;
      return;
    }
    if (mine !== turn) return;
    const [w, h] = [image.naturalWidth, image.naturalHeight], by = Math.min(1, MOST / Math.max(w, h));
    [own, all] = [Boolean(name), []];
    [photo.width, photo.height] = [w, h].map((n) => Math.max(1, Math.round(n * by)));
    Object.assign(ink, { imageSmoothingQuality: "high", fillStyle: "#fff" }).fillRect(0, 0, photo.width, photo.height);
    ink.drawImage(image, 0, 0, photo.width, photo.height);
    set(scene, { viewBox: `0 0 ${photo.width} ${photo.height}` });
    photo.parentNode.style.setProperty("--ratio", photo.width / photo.height);
    const short = Math.min(photo.width, photo.height);
    [sides.min, sides.max] = [Math.min(LOW, short), Math.min(HIGH, short)];
    hint.textContent = own ? `${name}, ${photo.width} × ${photo.height} pixels${by < 1 ? ` (of ${w} × ${h})` : ""}. It stays in your browser.` : data.hint;
    press([sample], own ? "" : "sample");
    root.classList.toggle("live-own", own);
    state = fit(to, photo.width, photo.height);
    if (own) go((photo.width - state.side) / 2, (photo.height - state.side) / 2); else render();
  }

  on(file, "change", async () => {
    const [chosen] = file.files;
    if (!chosen) return;
    const address = URL.createObjectURL(chosen);
    file.value = "";                                              // the same file may be chosen again
    await open(address, START, chosen.name);
    URL.revokeObjectURL(address);
  });
  on(sample, "click", () => open(data.image, START));
  on(sides, "input", () => {
    const side = Number(sides.value), by = (state.side - side) / 2;
    go(state.x + by, state.y + by, side);
  });
  on(scores, "input", () => { state.score = Math.round(100 * scores.value); drawWindow(); drawAnswers(); });

  const at = (e) => { const r = scene.getBoundingClientRect(); return [(e.clientX - r.left) / r.width * photo.width, (e.clientY - r.top) / r.height * photo.height]; };
  let held = null;                                                // where in the window the pointer holds it
  on(grab, "pointerdown", (e) => {
    if (e.button) return;
    grab.setPointerCapture(e.pointerId);
    const [x, y] = at(e);
    held = [x - state.x, y - state.y];
  });
  grab.addEventListener("touchstart", (e) => { if (state.side < photo.height) e.preventDefault(); }, { passive: false });   // Chromium forgets touch-action within an SVG
  on(grab, "pointermove", (e) => { if (held) { const [x, y] = at(e); go(x - held[0], y - held[1]); } });
  on(grab, "lostpointercapture", () => { held = null; });
  on(scene, "click", (e) => { if (e.target !== grab) { const [x, y] = at(e); go(x - state.side / 2, y - state.side / 2); } });
  on(frame, "keydown", (e) => {
    const by = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[e.key];
    if (!by || e.altKey || e.ctrlKey || e.metaKey) return;
    e.preventDefault();
    const step = e.shiftKey ? 1 : STEP;
    go(state.x + step * by[0], state.y + step * by[1]);
  });
  const fromAddress = () => decode(recall("trees"), data.width, data.height) ?? START;
  addEventListener("popstate", () => { if (!own) { state = { ...fromAddress() }; render(); } });
  open(data.image, fromAddress());
})();
