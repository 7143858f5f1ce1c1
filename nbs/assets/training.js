// "Training, frame by frame", without the page: what a frame holds, how well a pair fits, curves, and a state in one line.
const detrTraining = (() => {
  /** A query at one step, all in thousandths. @typedef {{box: number[], claims: number}} Query  claims: the probability of any class */
  /** @typedef {{frame: number, picture: number}} State */

  /** The queries of a picture: cx, cy, w, h and the probability of any class, query after query. @param {number[]} flat @returns {Query[]} */
  const queries = (flat) => Array.from({ length: flat.length / 5 }, (_, q) => ({ box: flat.slice(5 * q, 5 * q + 4), claims: flat[5 * q + 4] }));

  /** Intersection over union of two boxes cx, cy, w, h. @param {number[]} a @param {number[]} b */
  function iou(a, b) {
    const along = (i) => Math.max(0, Math.min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - Math.max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2));
    const both = along(0) * along(1);
    return both / (a[2] * a[3] + b[2] * b[3] - both);
  }

  /** @param {number[]} values */
  const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

  /** A polyline from the left end to the right: 0 is the ground, `top` the height. @param {number[]} values @param {number} top @param {number} width @param {number} height */
  const line = (values, top, width, height) =>
    values.map((v, i) => `${((width * i) / (values.length - 1)).toFixed(1)},${(height * (1 - v / top)).toFixed(1)}`).join(" ");

  /** The address names the step and the picture, from 1. @param {State} s @param {number[]} steps */
  const encode = (s, steps) => `${steps[s.frame]}_${s.picture + 1}`;

  /** The last frame up to the step; null for what is no state. @param {string} text @param {number[]} steps @param {number} pictures
   * @returns {State | null} */
  function decode(text, steps, pictures) {
    const [step, picture] = (/^(\d+)_(\d+)$/.exec(text) ?? []).slice(1).map(Number);
    if (!(step <= steps.at(-1) && picture >= 1 && picture <= pictures)) return null;
    return { frame: steps.filter((s) => s <= step).length - 1, picture: picture - 1 };
  }

  return { queries, iou, mean, line, encode, decode };
})();
