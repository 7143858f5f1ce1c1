// What the live detectors share: the model in its runtime, loaded on demand; what its numbers say; which box found what.
const detrDetect = (() => {
  /** @typedef {{query: number, probs: number[], says: number, label: number, score: number, box: number[]}} Answer  box: corners */
  /** @typedef {{[name: string]: Float32Array}} Seen  what the model gives */
  /** @typedef {(pixels: Float32Array) => Promise<Seen>} Look */
  /** @typedef {(n: number) => void} Got  hears of each piece of a download, in bytes */

  /** A file. @param {URL} url @param {Got} got */
  async function bytes(url, got) {
    const answer = await fetch(url), parts = [];
    if (!answer.ok) throw new Error(`${answer.status} for ${url.pathname}`);
    const reader = answer.body.getReader();
    for (let piece = await reader.read(); !piece.done; piece = await reader.read()) { parts.push(piece.value); got(piece.value.length); }
    return new Uint8Array(await new Blob(parts).arrayBuffer());
  }

  /** Runtime and model, from a folder -> pixels [3, size, size] to what the model says. @param {string} folder @param {string} file @param {number} size @param {Got} got @returns {Promise<Look>} */
  async function load(folder, file, size, got) {
    const [ort, wasm, model] = await Promise.all([import(new URL("ort.wasm.bundle.min.mjs", folder).href), ...["ort-wasm-simd-threaded.wasm", file].map((f) => bytes(new URL(f, folder), got))]);
    ort.env.wasm.numThreads = 1;
    ort.env.wasm.wasmBinary = wasm;
    const session = await ort.InferenceSession.create(model);
    const mask = new ort.Tensor("bool", new Uint8Array(size * size), [1, size, size]);      // no padding
    return async (pixels) => {
      const out = await session.run({ images: new ort.Tensor("float32", pixels, [1, 3, size, size]), mask });
      return Object.fromEntries(Object.entries(out).map(([name, t]) => [name, t.data]));
    };
  }

  /** One answer for each query; boxes as shares. @param {Float32Array} logits @param {Float32Array} boxes @returns {Answer[]} */
  function answers(logits, boxes) {
    const n = boxes.length / 4, row = (t, q) => [...t.subarray(q * t.length / n, (q + 1) * t.length / n)];
    return Array.from({ length: n }, (_, query) => {
      const powers = row(logits, query).map(Math.exp), [cx, cy, w, h] = row(boxes, query), sum = powers.reduce((a, b) => a + b);
      const probs = powers.map((p) => p / sum), score = Math.max(...probs.slice(1));
      return { query, probs, score, says: probs.indexOf(Math.max(...probs)), label: probs.indexOf(score, 1), box: [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2] };
    });
  }

  /** As `claims` in Python. @param {Answer[]} all @param {number} threshold */
  const claims = (all, threshold) => all.filter((a) => a.says > 0 && a.score >= threshold);

  /** IoU of two boxes of corners. @param {number[]} a @param {number[]} b */
  function iou(a, b) {
    const area = (c) => Math.max(0, c[2] - c[0]) * Math.max(0, c[3] - c[1]), both = area([Math.max(a[0], b[0]), Math.max(a[1], b[1]), Math.min(a[2], b[2]), Math.min(a[3], b[3])]);
    return both / (area(a) + area(b) - both);
  }

  /** For each object, or null for one that can't be seen, the query that found it (its class, IoU of a half or more, the surest first), or -1. @param {Answer[]} kept @param {({label: number, box: number[]} | null)[]} objects */
  function finders(kept, objects) {
    const found = objects.map(() => -1);
    for (const a of [...kept].sort((p, q) => q.score - p.score)) {
      let best = -1, most = 0.5;
      objects.forEach((o, n) => {
        if (found[n] >= 0 || o?.label !== a.label) return;
        const share = iou(a.box, o.box);
        if (share >= most) { best = n; most = share; }
      });
      if (best >= 0) found[best] = a.query;
    }
    return found;
  }

  /** A part's button loads its model; from then on each call of `ask` brings a frame, and what changes while the model runs is the next frame's.
   * @param {HTMLElement} root @param {(got: Got) => Promise<Look>} fetched @param {(look: Look) => Promise<void>} frame @param {() => void} ready after the first one, where nothing has the focus */
  function engine(root, fetched, frame, ready) {
    const [go, bar, wait, time] = [".live-go", "progress", ".live-wait", ".live-time"].map((s) => /** @type {any} */ (root.querySelector(s)));
    /** @type {Look | null} */ let look = null;
    let running = false, again = false, frames = 0;
    const fail = (e) => {
      wait.firstElementChild.textContent = `The model could not be loaded: ${e.message}`;
      [look, wait.hidden, bar.hidden, go.hidden] = [null, false, true, false];
    };
    async function ask() {
      again = true;
      if (!look || running) return;
      running = true;
      try {
        while (again) {
          const t = performance.now();
          again = false;
          await frame(look);
          root.dataset.frames = String(++frames);
          time.textContent = `${Math.round(performance.now() - t)} ms`;
          await new Promise(requestAnimationFrame);
        }
      } catch (e) { fail(e); }
      running = false;
    }
    go.addEventListener("click", async () => {
      [bar.value, go.hidden, bar.hidden] = [0, true, false];
      try { look = await fetched((n) => { bar.value += n / 1e6; }); } catch (e) { fail(e); return; }
      wait.hidden = true;
      await ask();
      if (document.activeElement === document.body) ready();
    });
    return { ask, loaded: () => look !== null };
  }

  return { load, answers, claims, iou, finders, engine };
})();
