"""How heavy is a page of the built site, and how soon can a slow phone use it?

    make book && python benchmarks/pages.py [--slower 4] [--mbit 10] [--rounds 3]

Headless Chromium with its processor slowed down and its line narrowed, every page from an empty cache. `parsed` is when
the page can be read, scrolled and clicked (domInteractive), `loaded` when every figure and script is there; medians.
"""
import argparse
import functools
import gzip
import http.server
import shutil
import statistics
import threading
from pathlib import Path

from playwright.sync_api import sync_playwright

SITE = Path(__file__).parents[1] / "_build/html"
TIMES = """async () => {
    while (!performance.getEntriesByType('navigation')[0].loadEventEnd) await new Promise(r => setTimeout(r, 20));
    const t = performance.getEntriesByType('navigation')[0];
    return [t.domInteractive, t.loadEventEnd, performance.getEntriesByType('resource').reduce((n, r) => n + r.transferSize, 0)];
}"""


class Host(http.server.SimpleHTTPRequestHandler):
    "Compresses what is text, as web hosts do."

    def log_message(self, *args: object) -> None: pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if path.suffix not in (".html", ".css", ".js", ".svg") or not path.is_file(): return super().do_GET()
        body = gzip.compress(path.read_bytes(), 6)
        self.send_response(200)
        for name, value in [("Content-Type", self.guess_type(path)), ("Content-Encoding", "gzip"), ("Content-Length", len(body))]:
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)


def visit(browser, url: str, slower: float, mbit: float) -> tuple[float, float, float]:
    "Milliseconds until parsed and until loaded, and bytes beyond the page itself, in a browser without a cache."
    context = browser.new_context(viewport=dict(width=390, height=844), is_mobile=True)
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Emulation.setCPUThrottlingRate", dict(rate=slower))
    session.send("Network.enable")
    line = dict(offline=False, latency=20, downloadThroughput=mbit * 1e6 / 8, uploadThroughput=mbit * 1e6 / 8)
    session.send("Network.emulateNetworkConditions", line)
    page.goto(url, wait_until="load", timeout=120_000)
    times = page.evaluate(TIMES)
    context.close()
    return tuple(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slower", type=float, default=4, help="how many times as slow as this machine's processor")
    parser.add_argument("--mbit", type=float, default=10, help="of the line, per second")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Host, directory=str(SITE)))
    server.handle_error = lambda *_: None               # a browser that is done hangs up
    threading.Thread(target=server.serve_forever, daemon=True).start()
    path = next((p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None)
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        print("   page kB   others kB   parsed ms   loaded ms")
        for file in sorted((SITE / "nbs").glob("*.html")):
            url = f"http://127.0.0.1:{server.server_port}/nbs/{file.name}"
            seen = [visit(browser, url, args.slower, args.mbit) for _ in range(args.rounds)]
            parsed, loaded, others = (statistics.median(column) for column in zip(*seen))
            kb = file.stat().st_size / 1e3
            print(f"{kb:10.0f} {others / 1e3:11.0f} {parsed:11.0f} {loaded:11.0f}   {file.name}", flush=True)
        browser.close()


if __name__ == "__main__": main()
