// What the live parts of the book share: small helpers, and a state that stands in the address (?matching=..., ?position=...).
const detrLive = (() => {
  /** @typedef {(text: string) => void} Say */

  /** A number as text, with a minus sign that is one. @param {number} x @param {number} [digits] */
  const fixed = (x, digits = 2) => (Math.abs(x) < 0.5 * 10 ** -digits ? 0 : x).toFixed(digits).replace("-", "−");

  /** x, but not below a nor above b. @param {number} x @param {number} a @param {number} b */
  const clamp = (x, a, b) => Math.min(Math.max(x, a), b);

  /** "A", "A and B", "A, B and C". @param {(string | number)[]} words */
  const list = (words) => words.length < 2 ? words.join("") : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`;

  /** An SVG element. @param {string} tag @param {Record<string, string | number | boolean>} [attributes] @param {Element[]} children */
  function svg(tag, attributes = {}, ...children) {
    const e = document.createElementNS("http://www.w3.org/2000/svg", tag);
    set(e, attributes);
    e.append(...children);
    return e;
  }

  /** @param {Element} e @param {Record<string, string | number | boolean>} attributes */
  function set(e, attributes) {
    for (const [name, value] of Object.entries(attributes)) e.setAttribute(name, String(value));
  }

  /** A function that calls f once, when it has not been asked for so many milliseconds. @param {Say} f @param {number} ms @returns {Say} */
  function calm(f, ms) {
    let timer = 0;
    return (text) => { clearTimeout(timer); timer = setTimeout(() => f(text), ms); };
  }

  /** What the address says under a name; "" if nothing. @param {string} name */
  const recall = (name) => new URLSearchParams(location.search).get(name) ?? "";

  /** Writes a state into the address, without a new entry in the history; "" takes it out. @param {string} name @returns {Say} */
  const keeper = (name) => calm((text) => {
    const url = new URL(location.href);
    if (text) url.searchParams.set(name, text); else url.searchParams.delete(name);
    try { history.replaceState(history.state, "", url); } catch { /* a page opened from a file may not */ }
  }, 250);

  /** The part's root and data, if it is on this page, shown instead of its still picture. @param {string} name */
  function find(name) {
    const root = /** @type {HTMLElement | null} */ (document.querySelector(`.live[data-live="${name}"]`));
    if (!root) return null;
    document.documentElement.classList.add("live-on");
    return { root, data: JSON.parse(root.querySelector(".live-data").textContent) };
  }

  /** Marks the pressed one of the buttons of a row. @param {Iterable<HTMLElement>} buttons @param {string} key */
  function press(buttons, key) {
    for (const b of buttons) b.setAttribute("aria-pressed", String(b.dataset.preset === key));
  }

  return { fixed, clamp, list, svg, set, calm, recall, keeper, find, press };
})();
