// The matching playground, without the page: costs as in detr_lit.matcher, three ways to match, and a state in one line.
const detrMatching = (() => {
  const { clamp } = detrLive;
  /** @typedef {{box: number[], cls: number, probs: number[]}} Prediction  box: cx, cy, w, h; cls: the class that the slider sets */
  /** @typedef {{box: number[], label: number}} Thing */
  /** @typedef {{predictions: Prediction[], objects: Thing[], weights: number[], rule: string}} State */

  // ------------------------------------------------------------ the mathematics of detr_lit.matcher
  /** Generalised IoU of two boxes cx, cy, w, h. @param {number[]} a @param {number[]} b */
  function giou(a, b) {
    const ends = (box, i) => [box[i] - box[i + 2] / 2, box[i] + box[i + 2] / 2];
    let overlap = 1, hull = 1;
    for (const i of [0, 1]) {
      const [a0, a1] = ends(a, i), [b0, b1] = ends(b, i);
      overlap *= Math.max(0, Math.min(a1, b1) - Math.max(a0, b0));
      hull *= Math.max(a1, b1) - Math.min(a0, b0);
    }
    const union = a[2] * a[3] + b[2] * b[3] - overlap, tiny = 1.2e-38;
    return overlap / Math.max(union, tiny) + union / Math.max(hull, tiny) - 1;
  }

  /** The three terms of one pair, not yet weighted: -p, L1, 1 - GIoU. @param {Prediction} p @param {Thing} o */
  const terms = (p, o) =>
    [-p.probs[o.label], p.box.reduce((sum, x, i) => sum + Math.abs(x - o.box[i]), 0), 1 - giou(p.box, o.box)];

  /** cost[prediction][object]. @param {Prediction[]} ps @param {Thing[]} os @param {number[]} weights */
  const costs = (ps, os, weights) =>
    ps.map((p) => os.map((o) => terms(p, o).reduce((sum, t, i) => sum + weights[i] * t, 0)));

  /** The cheapest one-to-one assignment: for each row of a table that is at least as wide as high, its column.
   * Rows are taken in one at a time, each along the shortest augmenting path (Jonker and Volgenant 1987).
   * @param {number[][]} table @returns {number[]} */
  function shortestPaths(table) {
    const n = table.length, m = table[0]?.length ?? 0;
    const u = Array(n).fill(0), v = Array(m).fill(0), owner = Array(m).fill(-1);
    for (let start = 0; start < n; start++) {
      const best = Array(m).fill(Infinity), from = Array(m).fill(-1), done = Array(m).fill(false);
      let row = start, column = -1, length = 0;
      do {                                   // settle the nearest column, until one is free
        let next = -1;
        for (let j = 0; j < m; j++) {
          if (done[j]) continue;
          const d = length + table[row][j] - u[row] - v[j];
          if (d < best[j]) { best[j] = d; from[j] = column; }
          if (next < 0 || best[j] < best[next]) next = j;
        }
        length = best[next];
        done[next] = true;
        column = next;
        row = owner[next];
      } while (row >= 0);
      u[start] += length;                    // the prices keep every rest at 0 or above
      for (let j = 0; j < m; j++) {
        if (!done[j] || owner[j] < 0) continue;
        u[owner[j]] += length - best[j];
        v[j] -= length - best[j];
      }
      for (let j = column; j >= 0; j = from[j]) owner[j] = from[j] < 0 ? start : owner[from[j]];
    }
    const found = Array(n).fill(-1);
    owner.forEach((row, j) => { if (row >= 0) found[row] = j; });
    return found;
  }

  const columns = (table) => (table[0] ?? []).map((_, j) => table.map((row) => row[j]));

  /** For each object (column) its prediction in the cheapest assignment; -1 if there are too few. @param {number[][]} cost */
  function assign(cost) {
    if (!cost.length || cost[0].length <= cost.length) return shortestPaths(columns(cost));
    const found = Array(cost[0].length).fill(-1);
    shortestPaths(cost).forEach((object, q) => { found[object] = q; });
    return found;
  }

  /** The cheapest pair first; what it used is gone. @param {number[][]} cost */
  function cheapestFirst(cost) {
    const pairs = cost.flatMap((row, q) => row.map((c, o) => ({ c, q, o }))).sort((a, b) => a.c - b.c);
    const found = Array(cost[0]?.length ?? 0).fill(-1);
    for (const { q, o } of pairs) if (found[o] < 0 && !found.includes(q)) found[o] = q;
    return found;
  }

  /** Each object takes the prediction that is cheapest for it, taken or not. @param {number[][]} cost */
  const favourites = (cost) => columns(cost).map((c) => c.indexOf(Math.min(...c)));

  /** @param {number[][]} cost @param {number[]} found */
  const total = (cost, found) => found.reduce((sum, q, o) => sum + (q < 0 ? 0 : cost[q][o]), 0);

  // ------------------------------------------------------------ the state, and how it is written in the address
  const CLASSES = ["nothing", "rectangle", "ellipse", "triangle"], BOTTOM = 0.85, SMALLEST = 0.04;
  const RULES = { pairs: cheapestFirst, favourites };
  const round = (x, n = 1000) => Math.round(x * n) / n;

  /** @param {{rule: string, weights: number[], predictions: number[][], objects: number[][]}} p @returns {State} */
  const unpack = (p) => ({
    rule: p.rule,
    weights: [...p.weights],
    predictions: p.predictions.map((r) => ({ box: r.slice(0, 4), cls: r[4], probs: r.slice(5) })),
    objects: p.objects.map((r) => ({ box: r.slice(0, 4), label: r[4] })),
  });

  /** @param {State} s */
  function encode(s) {
    const box = (b) => b.map((x) => Math.round(1000 * x));
    const rows = s.predictions.map((p) => ["q", ...box(p.box), p.cls, ...p.probs.map((x) => Math.round(1e4 * x))]);
    rows.push(...s.objects.map((o) => ["o", ...box(o.box), o.label]));
    return [s.rule, s.weights.map((w) => Math.round(10 * w)).join("."), ...rows.map((r) => r.join("."))].join("_");
  }

  /** null for what is no state. @param {string} text @returns {State | null} */
  function decode(text) {
    const [rule, weights, ...rows] = text.split("_");
    const numbers = (t) => t.split(".").map(Number);
    const within = (ns, n) => ns.length === n && ns.every((x) => Number.isInteger(x) && x >= 0 && x <= 1e4);
    const read = (kind, n) => rows.filter((r) => r.startsWith(kind)).map((r) => numbers(r.slice(2))).filter((r) => within(r, n));
    const w = numbers(weights ?? ""), k = CLASSES.length, of = (r) => r.slice(0, 4).map((x) => x / 1000);
    const ps = read("q.", 5 + k), os = read("o.", 5);
    if (!Object.hasOwn(RULES, rule) || !within(w, 3) || ps.length + os.length !== rows.length) return null;
    if (!os.length || os.length > ps.length || ps.length > 6 || w.some((x) => x > 100)) return null;
    if (ps.some((r) => r[4] >= k) || os.some((r) => r[4] < 1 || r[4] >= k)) return null;
    const s = { rule, weights: w.map((x) => x / 10),
      predictions: ps.map((r) => ({ box: of(r), cls: r[4], probs: r.slice(5).map((x) => x / 1e4) })),
      objects: os.map((r) => ({ box: of(r), label: r[4] })) };
    for (const { box } of [...s.predictions, ...s.objects]) { for (const i of [2, 3]) change(box, i, box[i]); }
    return s;
  }

  /** Set one of cx, cy, w, h, and keep the box in the picture. @param {number[]} box @param {number} i @param {number} x */
  function change(box, i, x) {
    box[i] = x;
    for (const a of [0, 1]) {
      const side = a ? BOTTOM : 1;
      box[a + 2] = round(clamp(box[a + 2], SMALLEST, side));
      box[a] = round(clamp(box[a], box[a + 2] / 2, side - box[a + 2] / 2));
    }
  }

  /** Give one class a probability; the others share the rest as they did. @param {Prediction} p @param {number} x */
  function believe(p, x) {
    const rest = 1 - p.probs[p.cls];
    p.probs = p.probs.map((y, i) => round(i === p.cls ? x : rest > 1e-6 ? (y * (1 - x)) / rest : (1 - x) / (CLASSES.length - 1), 1e4));
  }

  return { CLASSES, BOTTOM, SMALLEST, RULES, giou, terms, costs, assign, cheapestFirst, favourites, total, unpack, encode, decode, change, believe };
})();
