// The toy detector, without the page: pixels as detr_lit.data paints them, what the model says, a state in one line.
const detrDetector = (() => {
  const { clamp } = detrLive, { claims, iou } = detrDetect;
  /** @typedef {number[]} Shape  kind, x, y, w, h in pixels, colour */
  /** @typedef {{threshold: number, show: string, query: number, cell: number, layer: number, head: number, shapes: Shape[]}} State  threshold in percent; head 0: the mean of all */
  /** @typedef {{[name: string]: Float32Array}} Seen  logits, boxes, decoder, encoder */
  const CLASSES = ["rectangle", "ellipse", "triangle"], SIZE = 128, CELLS = 8, QUERIES = 16, LAYERS = 3, HEADS = 4;
  const SMALLEST = 8, MOST = 24, SHOWS = ["query", "cell"];

  /** `shape_mask`: whether pixel (i, j) of h x w belongs to the shape. @param {number} kind @param {number} i @param {number} j @param {number} h @param {number} w */
  function inside(kind, i, j, h, w) {
    const y = (i + 0.5) / h * 2 - 1, x = (j + 0.5) / w * 2 - 1;
    return kind === 0 || (kind === 1 ? x * x + y * y <= 1 : Math.abs(x) <= (y + 1) / 2 + 1 / w);
  }

  /** Shapes on black, the later over the earlier -> pixels [3, H, W], and the corners of what is visible of each, or null.
   * @param {Shape[]} shapes @param {number[][]} colours */
  function paint(shapes, colours) {
    const plane = SIZE * SIZE, pixels = new Float32Array(3 * plane), owner = new Int8Array(plane).fill(-1);
    shapes.forEach(([kind, x, y, w, h, colour], n) => {
      for (let i = 0; i < h; i++) for (let j = 0; j < w; j++) {
        if (!inside(kind, i, j, h, w)) continue;
        const at = (y + i) * SIZE + x + j;
        owner[at] = n;
        for (let c = 0; c < 3; c++) pixels[c * plane + at] = colours[colour][c];
      }
    });
    const boxes = shapes.map(() => null);
    owner.forEach((n, at) => {
      if (n < 0) return;
      const x = at % SIZE, y = (at - x) / SIZE, b = boxes[n] ??= [x, y, x + 1, y + 1];
      b[0] = Math.min(b[0], x); b[2] = Math.max(b[2], x + 1); b[3] = y + 1;
    });
    return { pixels, boxes };
  }

  /** Set one number of a shape, in whole pixels and in the picture. @param {Shape} shape @param {number} i @param {number} v */
  function change(shape, i, v) {
    shape[i] = v;
    for (const a of [1, 2]) {
      shape[a + 2] = clamp(Math.round(shape[a + 2]), SMALLEST, SIZE);
      shape[a] = clamp(Math.round(shape[a]), 0, SIZE - shape[a + 2]);
    }
  }

  /** Runtime and model, from a folder -> pixels to what the model says. @param {string} folder @param {(n: number) => void} got */
  async function load(folder, got) {
    const look = await detrDetect.load(folder, "toy.onnx", SIZE, got);
    return async (/** @type {Float32Array} */ pixels) => {
      const out = await look(pixels);
      return { logits: out.pred_logits, boxes: out.pred_boxes, decoder: out.decoder_attention, encoder: out.encoder_attention };
    };
  }

  /** One answer for each query. @param {Seen} seen */
  const answers = (seen) => detrDetect.answers(seen.logits, seen.boxes);

  /** For each shape the query that found it, or -1. @param {ReturnType<typeof answers>} kept @param {Shape[]} shapes @param {(number[] | null)[]} visible */
  const finders = (kept, shapes, visible) => detrDetect.finders(kept, shapes.map(([kind], n) => visible[n] && { label: kind + 1, box: visible[n].map((v) => v / SIZE) }));

  /** What a query, or a cell in the encoder, reads of each cell. @param {Seen} seen @param {Pick<State, "show" | "query" | "cell" | "layer" | "head">} state */
  function shares(seen, { show, query, cell, layer, head }) {
    const n = CELLS * CELLS, [from, rows, row, depth] = show === "query" ? [seen.decoder, QUERIES, query, layer] : [seen.encoder, n, cell, 0];
    const heads = head ? [head - 1] : [...Array(HEADS).keys()], sum = new Float32Array(n);
    for (const h of heads) for (let i = 0; i < n; i++) sum[i] += from[((depth * HEADS + h) * rows + row) * n + i] / heads.length;
    return sum;
  }

  /** @param {State} s */
  const encode = (s) => [[s.threshold, SHOWS.indexOf(s.show), s.query, s.cell, s.layer, s.head], ...s.shapes].map((r) => r.join(".")).join("_");

  /** null for what is no state. @param {string} text @param {number} colours how many there are @returns {State | null} */
  function decode(text, colours) {
    const rows = text.split("_").map((r) => r.split(".").map((t) => (/^\d{1,3}$/.test(t) ? Number(t) : NaN))), [head, ...shapes] = rows;
    const below = (row, limits) => row.length === limits.length && row.every((x, i) => x < limits[i]);      // NaN is not
    if (!below(head, [100, SHOWS.length, QUERIES, CELLS * CELLS, LAYERS, HEADS + 1]) || shapes.length > MOST) return null;
    if (shapes.some((s) => !below(s, [CLASSES.length, SIZE, SIZE, SIZE + 1, SIZE + 1, colours]))) return null;
    if (shapes.some(([, x, y, w, h]) => Math.min(w, h) < SMALLEST || x + w > SIZE || y + h > SIZE)) return null;
    const [threshold, show, query, cell, layer, which] = head;
    return { threshold, show: SHOWS[show], query, cell, layer, head: which, shapes };
  }

  return { CLASSES, SIZE, CELLS, LAYERS, SMALLEST, MOST, inside, paint, change, load, answers, claims, iou, finders, shares, encode, decode };
})();
