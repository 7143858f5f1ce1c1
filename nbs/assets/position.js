// "Where am I?", without the page: the codes of detr_lit.position, and how much one cell's code resembles all others.
const detrPosition = (() => {
  const { clamp } = detrLive;
  /** A code for each row and each column; a cell's code is its row's, then its column's. @typedef {{row: number[][], col: number[][]}} Codes */
  /** @typedef {{rows: number, cols: number, at: [number, number], T: number, d: number, measure: string, ask: string, table: string}} State
   * at: row and column of the cell that asks; ask: "cell" or "trained", the same place of the map of the training */

  /** The sine codes of a map without padding. @param {number} rows @param {number} cols @param {number} d @param {number} T @returns {Codes} */
  function sine(rows, cols, d, T) {
    const axis = (n) => Array.from({ length: n }, (_, k) => {
      const p = ((k + 1) / (n + 1e-6)) * 2 * Math.PI, half = d / 2;
      return Array.from({ length: half }, (_, c) => (c % 2 ? Math.cos : Math.sin)(p / T ** ((2 * (c >> 1)) / half)));
    });
    return { row: axis(rows), col: axis(cols) };
  }

  /** What a learned table holds before any training: uniform numbers from 0 to 1, here always the same. @param {number} n @param {number} d @returns {Codes} */
  function start(n, d) {
    let seed = 6;                            // mulberry32
    const random = () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let t = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
    };
    const axis = () => Array.from({ length: n }, () => Array.from({ length: d / 2 }, random));
    return { row: axis(), col: axis() };
  }

  const dot = (a, b) => a.reduce((sum, x, i) => sum + x * b[i], 0);

  /** similarity[row][column] of one code to every cell's. @param {Codes} codes @param {number[]} row @param {number[]} col @param {string} measure "cosine" or "dot" */
  function similarity(codes, row, col, measure) {
    const r = codes.row.map((x) => dot(x, row)), c = codes.col.map((x) => dot(x, col));
    if (measure === "dot") return r.map((a) => c.map((b) => a + b));
    const long = dot(row, row) + dot(col, col), rs = codes.row.map((x) => dot(x, x)), cs = codes.col.map((x) => dot(x, x));
    return r.map((a, i) => c.map((b, j) => (a + b) / Math.sqrt(long * (rs[i] + cs[j]))));
  }

  /** Row and column of the highest value. @param {number[][]} map @returns {[number, number]} */
  function highest(map) {
    let [y, x] = [0, 0];
    map.forEach((row, i) => row.forEach((v, j) => { if (v > map[y][x]) [y, x] = [i, j]; }));
    return [y, x];
  }

  /** The cell of a map with n cells a side that lies where cell k of m does, as a share. @param {number} k @param {number} m @param {number} n */
  const samePlace = (k, m, n) => clamp(Math.floor(((k + 0.5) / m) * n), 0, n - 1);

  // ------------------------------------------------------------ the state in one line
  const WORDS = { measure: ["cosine", "dot"], ask: ["cell", "trained"], table: ["trained", "start"] };
  const WIDTHS = [8, 16, 32, 64, 128, 256], SMALLEST = 4, LARGEST = 34;
  /** @type {State} */ const START = { rows: 25, cols: 34, at: [12, 17], T: 10000, d: 256, measure: "cosine", ask: "cell", table: "trained" };

  /** @param {State} s */
  const encode = (s) => [s.rows, s.cols, ...s.at, s.T, s.d, s.measure, s.ask, s.table].join("_");

  /** null for what is no state. @param {string} text @returns {State | null} */
  function decode(text) {
    const words = text.split("_"), [rows, cols, y, x, T, d] = words.slice(0, 6).map(Number), [measure, ask, table] = words.slice(6);
    const size = (n) => Number.isInteger(n) && n >= SMALLEST && n <= LARGEST, inside = (k, n) => Number.isInteger(k) && k >= 0 && k < n;
    if (words.length !== 9 || !size(rows) || !size(cols) || !inside(y, rows) || !inside(x, cols)) return null;
    if (!(T >= 1 && T <= 10000) || !WIDTHS.includes(d)) return null;
    if (![["measure", measure], ["ask", ask], ["table", table]].every(([k, v]) => WORDS[k].includes(v))) return null;
    return { rows, cols, at: [y, x], T, d, measure, ask, table };
  }

  return { sine, start, similarity, highest, samePlace, encode, decode, START, WIDTHS, SMALLEST, LARGEST };
})();
