// NMS against sets, without the page: suppression as torchvision's, hits as detr_lit.evaluate's, and a state in one line.
const detrNms = (() => {
  /** Corners in pixels, score, class. @typedef {number[]} Box */
  /** @typedef {{kept: Box[], kinds: string[], lost: Box[], gone: Box[], hits: number, again: number, wrong: number, missed: number, precision: number, recall: number}} Verdict
   * kinds: "hit", "again" or "wrong" for each kept box; gone: deleted; lost: those of them that were the surest box of an object which nothing hits now */
  const LOW = 10, HIGH = 95, ENOUGH = 0.5;         // thresholds in hundredths; the overlap of a hit

  /** @param {Box} a @param {Box} b */
  function iou(a, b) {
    const side = (i) => Math.max(0, Math.min(a[i + 2], b[i + 2]) - Math.max(a[i], b[i])), both = side(0) * side(1);
    const area = (c) => (c[2] - c[0]) * (c[3] - c[1]);
    return both / (area(a) + area(b) - both);
  }

  /** Class by class; what stays, the surest first. @param {Box[]} boxes @param {number} threshold */
  function nms(boxes, threshold) {
    const kept = [];
    for (const b of [...boxes].sort((a, b) => b[4] - a[4])) if (!kept.some((k) => k[5] === b[5] && iou(k, b) > threshold)) kept.push(b);
    return kept;
  }

  /** The object of its class that a box overlaps most, and enough, of those that are free; or -1. @param {Box} box @param {Box[]} objects @param {number[]} taken */
  function favourite(box, objects, taken = []) {
    let [best, most] = [-1, 0];
    objects.forEach((o, i) => {
      const v = o[5] === box[5] && !taken.includes(i) ? iou(box, o) : 0;
      if (v >= ENOUGH && v > most) [best, most] = [i, v];
    });
    return best;
  }

  /** What stays of boxes with a score, and what it is worth. @param {Box[]} boxes @param {Box[]} objects @param {number} threshold above 1: no NMS @param {number} score @returns {Verdict} */
  function judge(boxes, objects, threshold, score) {
    const sure = boxes.filter((b) => b[4] >= score), kept = nms(sure, threshold), taken = [];
    const kinds = kept.map((b) => {
      const o = favourite(b, objects, taken);
      if (o >= 0) taken.push(o);
      return o >= 0 ? "hit" : favourite(b, objects) >= 0 ? "again" : "wrong";
    });
    const count = (kind) => kinds.filter((k) => k === kind).length, hits = taken.length;
    const free = objects.map((_, i) => i).filter((i) => !taken.includes(i));
    const lost = free.map((i) => sure.find((b) => favourite(b, objects) === i)).filter(Boolean);
    return { kept, kinds, lost, gone: sure.filter((b) => !kept.includes(b)), hits, again: count("again"), wrong: count("wrong"),
      missed: free.length, precision: hits / kept.length, recall: hits / objects.length };
  }

  /** One state a line: picture_threshold_score, the numbers in hundredths. @typedef {{picture: string, threshold: number, score: number}} State */
  /** @param {State} s */
  const encode = (s) => [s.picture, s.threshold, s.score].join("_");

  /** null for what is no state. @param {string} text @param {string[]} pictures @returns {State | null} */
  function decode(text, pictures) {
    const [picture, ...rest] = text.split("_"), [threshold, score] = rest.map(Number), inside = (n, low) => Number.isInteger(n) && n >= low && n <= HIGH;
    return rest.length === 2 && pictures.includes(picture) && inside(threshold, LOW) && inside(score, 5) && score % 5 === 0 ? { picture, threshold, score } : null;
  }

  return { iou, nms, judge, encode, decode, LOW, HIGH };
})();
