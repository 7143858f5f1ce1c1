// The tree model, without the page: a window's pixels as detr_lit.inference.shrink makes them, its boxes, and a state in one line.
const detrTrees = (() => {
  const { clamp } = detrLive;
  /** Corners in pixels of the photograph. @typedef {number[]} Box */
  /** A square of the photograph, all in whole pixels; the score in hundredths, a half or more: with one class, a query that is less sure says "no object". @typedef {{x: number, y: number, side: number, score: number}} State */
  const SIZE = 160, LOW = 104, HIGH = 416, STEP = 8, MOST = 2000;         // what the model sees; a window's sides; a photograph's

  /** What each of SIZE pixels is made of, of `side` of them: the first one, and the weights of a triangle as wide as the step. @param {number} side */
  function triangle(side) {
    const scale = side / SIZE, wide = Math.max(scale, 1);
    return Array.from({ length: SIZE }, (_, i) => {
      const middle = (i + 0.5) * scale, from = Math.max(0, Math.floor(middle - wide + 0.5)), to = Math.min(side, Math.floor(middle + wide + 0.5));
      const weights = Array.from({ length: to - from }, (_, j) => Math.max(0, 1 - Math.abs(from + j + 0.5 - middle) / wide)), sum = weights.reduce((a, b) => a + b);
      return { from, weights: weights.map((w) => w / sum) };
    });
  }

  /** A square's RGBA -> pixels [3, SIZE, SIZE] in [0, 1]: first along the rows, then along the columns. @param {ArrayLike<number>} rgba @param {number} side */
  function shrink(rgba, side) {
    const taps = triangle(side), plane = SIZE * SIZE, rows = new Float32Array(3 * side * SIZE), pixels = new Float32Array(3 * plane);
    for (let c = 0; c < 3; c++) {
      for (let y = 0; y < side; y++) taps.forEach(({ from, weights }, i) => {
        let sum = 0;
        weights.forEach((w, j) => { sum += w * rgba[4 * (y * side + from + j) + c]; });
        rows[(c * side + y) * SIZE + i] = sum / 255;
      });
      taps.forEach(({ from, weights }, i) => {
        for (let x = 0; x < SIZE; x++) {
          let sum = 0;
          weights.forEach((w, j) => { sum += w * rows[(c * side + from + j) * SIZE + x]; });
          pixels[c * plane + i * SIZE + x] = sum;
        }
      });
    }
    return pixels;
  }

  /** Answers of a window, with boxes in the photograph. @param {ReturnType<typeof detrDetect.answers>} all @param {State} state */
  const placed = (all, { x, y, side }) => all.map((a) => ({ ...a, box: a.box.map((v, i) => (i % 2 ? y : x) + v * side) }));

  /** What a window shows of boxes: those with half of their area in it, clipped, as `boxes_in`. @param {Box[]} boxes @param {State} state */
  function shown(boxes, { x, y, side }) {
    const area = (/** @type {Box} */ b) => (b[2] - b[0]) * (b[3] - b[1]), clipped = boxes.map((box) => box.map((v, i) => (i % 2 ? clamp(v, y, y + side) : clamp(v, x, x + side))));
    return clipped.filter((b, i) => area(b) >= 0.5 * area(boxes[i]));
  }

  /** The nearest window that a photograph has room for. @param {State} s @param {number} width @param {number} height @returns {State} */
  function fit(s, width, height) {
    const short = Math.min(width, height), side = clamp(Math.round(s.side), Math.min(LOW, short), Math.min(HIGH, short));
    return { ...s, side, x: clamp(Math.round(s.x), 0, width - side), y: clamp(Math.round(s.y), 0, height - side) };
  }

  /** @param {State} s */
  const encode = (s) => [s.x, s.y, s.side, s.score].join("_");

  /** null for what is no state. @param {string} text @param {number} width @param {number} height @returns {State | null} */
  function decode(text, width, height) {
    const parts = text.split("_"), [x, y, side, score] = parts.map(Number);
    if (parts.length !== 4 || !parts.every((t) => /^(0|[1-9]\d{0,3})$/.test(t))) return null;
    const fits = side >= LOW && side <= HIGH && side % STEP === 0 && x + side <= width && y + side <= height;
    return fits && score >= 50 && score <= 95 && score % 5 === 0 ? { x, y, side, score } : null;
  }

  return { SIZE, LOW, HIGH, STEP, MOST, shrink, placed, shown, fit, encode, decode };
})();
