// Pages read to their end have a tick in the contents; which they are is kept in this browser, and taken back with a button.
(() => {
  const KEY = "detr-lit read", button = document.querySelector(".read-mark button");
  const name = (path) => path.match(/nbs\/([^/]+)\.html$/)?.[1], here = name(location.pathname);
  let read = [];        // the names of pages
  /** @type {NodeListOf<HTMLAnchorElement>} */ const links = document.querySelectorAll(".bd-sidenav a");

  function load() { try { read = JSON.parse(localStorage.getItem(KEY)) ?? []; } catch { /* no storage: known until the page is left */ } }

  function paint() {
    for (const a of links) {
      a.querySelector(".read-sign")?.remove();
      if (read.includes(name(a.pathname))) a.insertAdjacentHTML("beforeend", '<span class="read-sign"><span class="visually-hidden">, read</span></span>');
    }
    if (button) button.textContent = `Mark as ${read.includes(here) ? "unread" : "read"}`;
  }

  function mark(done) {
    load();             // another window may have changed it
    read = read.filter((x) => x !== here).concat(done ? here : []);
    try { localStorage.setItem(KEY, JSON.stringify(read)); } catch { /* as above */ }
    paint();
  }

  addEventListener("storage", () => { load(); paint(); });
  load();
  paint();
  if (!button) return;
  let pressed = false;  // then scrolling has no say any more
  const end = new IntersectionObserver(([e]) => {       // who comes to the button by key means to press it
    if (e.isIntersecting && scrollY && !pressed && document.activeElement !== button) mark(true);
  });
  for (const move of ["wheel", "touchmove", "keydown"]) // a link to the last heading is no reading
    addEventListener(move, () => end.observe(button), { once: true, passive: true });
  button.addEventListener("click", () => { pressed = true; mark(!read.includes(here)); });
})();
