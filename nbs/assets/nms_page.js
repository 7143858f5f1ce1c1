// NMS against sets, in nbs/why_detr: move the threshold, and see which boxes stay, beside what DETR says.
(() => {
  const { fixed, clamp, svg, set, calm, recall, keeper, find, press } = detrLive;
  const { judge, encode, decode, LOW, HIGH } = detrNms;
  const part = find("nms");
  if (!part) return;
  const { root, data } = part, PICTURES = data.pictures, NEVER = 2;       // NEVER: no boxes overlap by more
  const START = { picture: PICTURES[1].key, threshold: 50, score: 50 };

  const $$ = (selector) => [...root.querySelectorAll(selector)];
  const maps = $$(".live-map"), presets = $$("[data-preset]"), sliders = ["threshold", "score"].map((n) => /** @type {[string, HTMLInputElement]} */ ([n, root.querySelector(`[name=${n}]`)]));
  const said = root.querySelector("[role=status]"), chart = /** @type {SVGElement} */ (root.querySelector(".live-chart")), keep = keeper("nms"), say = calm((text) => { said.textContent = text; }, 200);
  /** @type {ReturnType<typeof detrNms.decode>} */ let state;
  let drawn = "";                                         // what the curves were made for

  /** @param {number} n @param {number} m @param {string} what */
  const share = (n, m, what) => `${n} of ${m} ${what}${m === 1 ? "" : what === "box" ? "es" : "s"}`;

  /** @param {number[]} b @param {string} kind */
  function box([x, y, right, bottom, , label], kind) {
    const at = { x, y, width: right - x, height: bottom - y }, halo = kind === "gone" ? [] : [svg("rect", { class: "live-halo", ...at })];
    const cross = kind === "lost" ? [svg("path", { class: "live-frame", d: `M${x} ${y}L${right} ${bottom}M${right} ${y}L${x} ${bottom}` })] : [];
    return svg("g", { class: `live-box live-class-${label}`, "data-kind": kind }, ...halo, svg("rect", { class: "live-frame", ...at }), ...cross);
  }

  /** Precision and recall of both detectors at every threshold. @param {any} p */
  function curves(p) {
    const now = `${p.key} ${state.score}`;
    if (now === drawn) return;
    drawn = now;
    maps.forEach((map, n) => {
      const all = Array.from({ length: HIGH - LOW + 1 }, (_, i) => judge(p.boxes[n], p.objects, n ? NEVER : (LOW + i) / 100, state.score / 100));
      for (const k of ["precision", "recall"])
        set(map.querySelector(`.live-chart .live-${k}`), { d: all.flatMap((v, i) => (v.kept.length || k === "recall" ? [`${i} ${fixed(100 - 100 * v[k], 1)}`] : [])).join("L").replace(/^(?=.)/, "M") });
    });
  }

  function render() {
    const p = PICTURES.find((x) => x.key === state.picture), [t, score] = [state.threshold / 100, state.score / 100];
    const words = maps.map((map, n) => {
      const v = judge(p.boxes[n], p.objects, n ? NEVER : t, score), frame = map.querySelector(".live-look svg"), right = v.hits === v.kept.length && !v.missed;
      set(map.querySelector("image"), { href: p.image });
      map.querySelector("g").replaceChildren(...v.gone.filter((b) => !v.lost.includes(b)).map((b) => box(b, "gone")),
        ...v.kept.map((b, i) => box(b, v.kinds[i])).reverse(), ...v.lost.map((b) => box(b, "lost")));
      const numbers = [v.kept.length ? fixed(v.precision) : "–", fixed(v.recall)], parts = [share(v.hits, v.kept.length, "box"), share(v.hits, p.objects.length, "object")];
      map.querySelectorAll("dd").forEach((d, i) => { [d.children[0].textContent, d.children[1].textContent] = [numbers[i], parts[i]]; });
      const counts = `${v.hits} hit, ${v.again} said twice, ${v.wrong} wrong, ${v.missed} missed`;
      set(frame, { "aria-label": `${n ? "DETR" : "RetinaNet after NMS"}: ${counts}` });
      return `${n ? "DETR" : `RetinaNet keeps ${share(v.kept.length, v.kept.length + v.gone.length, "box")}`}: ${right ? `exactly right, ${v.hits} of ${v.hits}` : counts}${v.lost.length ? ` (${v.lost.length} lost to NMS)` : ""}. Precision ${numbers[0]}, recall ${numbers[1]}.`;
    });
    curves(p);
    set(chart.querySelector("line"), { x1: state.threshold - LOW, x2: state.threshold - LOW });
    for (const [name, s] of sliders) { s.value = String(state[name] / 100); s.nextElementSibling.textContent = fixed(state[name] / 100); }
    say(words.join(" "));
    press(presets, state.picture);
    const now = encode(state);
    keep(now === encode(START) ? "" : now);
  }

  for (const [name, s] of sliders) s.addEventListener("input", () => { state[name] = Math.round(100 * Number(s.value)); render(); });
  for (const b of presets) b.addEventListener("click", () => { state.picture = b.dataset.preset; render(); });
  const to = (e) => {
    const r = chart.getBoundingClientRect();
    state.threshold = clamp(Math.round(LOW + ((e.clientX - r.left) / r.width) * (HIGH - LOW)), LOW, HIGH);
    render();
  };
  chart.addEventListener("pointerdown", (e) => { if (!e.button) { chart.setPointerCapture(e.pointerId); to(e); } });
  chart.addEventListener("pointermove", (e) => { if (e.buttons) to(e); });
  const open = () => { state = decode(recall("nms"), PICTURES.map((p) => p.key)) ?? { ...START }; render(); };
  addEventListener("popstate", open);
  open();
})();
