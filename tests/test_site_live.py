"""The live parts of chapters 02 and 06 in Chromium: right to the fifth digit, and usable by hand, by key, by finger."""

import re

import node
import numpy as np
import pytest
import test_site
import torch
from scipy.optimize import linear_sum_assignment
from test_site_quiz import CONTRAST

from detr_lit.matcher import HungarianMatcher
from detr_lit.position import PositionalEncoding2D

pytestmark = pytest.mark.site
base, browser, open_page = test_site.base, test_site.browser, test_site.open_page  # fixtures
MATCHING, POSITION = "nbs/06_matcher.html", "nbs/02_position.html"
PARTS = [MATCHING, POSITION, "nbs/09_train.html", "nbs/10_inference.html", "nbs/why_detr.html", "nbs/16_real_images.html"]


class Engine:
    "A live part with a model that is loaded on demand."

    def __init__(self, page, name):
        self.page, self.root = page, page.locator(f'.live[data-live="{name}"]')

    def load(self):
        self.root.locator(".live-go").click()
        self.root.locator(".live-wait").wait_for(state="hidden", timeout=60_000)
        self.settled()
        return self

    def frames(self):
        return int(self.root.get_attribute("data-frames") or 0)

    def settled(self):
        "Until no frame comes any more, and what is said has been said."
        before = -1
        while before != (now := self.frames()):
            before = now
            self.page.wait_for_timeout(350)

    def said(self):
        return self.root.locator("[role=status]").inner_text()


def too_pale(page):
    "Words of a live part that can't be told from their ground."
    return page.evaluate(CONTRAST, ".live-app *:not(svg *, option)")


def nameless(page):
    "What can be pressed, moved or looked at, and has no name for a screen reader."
    kinds = "input, select, button, progress, [tabindex], [role=img], [role=group]"
    return page.locator(f".live-app :is({kinds})").evaluate_all("""all => all.filter(e => !(e.getAttribute("aria-label")
        || e.closest("label")?.textContent.trim() || e.textContent.trim())).map(e => e.outerHTML)""")


def finger(page, *stops):
    "A finger goes from place to place on the screen -> by how much the page was moved."
    client, before = page.context.new_cdp_session(page), page.evaluate("scrollY")
    for kind, place in [("touchStart", stops[0]), *(("touchMove", s) for s in stops[1:]), ("touchEnd", None)]:
        points = [dict(x=place[0], y=place[1])] if place else []
        client.send("Input.dispatchTouchEvent", dict(type=kind, touchPoints=points))
        page.wait_for_timeout(20)
    page.wait_for_timeout(300)
    return page.evaluate("scrollY") - before


def sticking_out(page):
    "What a phone would not show of a live part: beyond its edge, or cut."
    return page.locator(".live-app").evaluate("""a => [...a.querySelectorAll("*")].filter(e => e.checkVisibility()
        && !e.closest(".live-sr, svg, legend") && (e.getBoundingClientRect().right > a.getBoundingClientRect().right + .5
        || e.matches("td, th, p, span") && e.clientWidth && e.scrollWidth > e.clientWidth + 1)).map(e => e.outerHTML)""")


# ---------------------------------------------------------------- the mathematics, without a page
maths = node.scripts("live.js", "matching.js", "position.js")


def test_a_thousand_assignments_equal_scipys(maths):
    r = np.random.default_rng(0)
    tables = [r.normal(size=r.integers(1, 13, 2)) for _ in range(1000)]
    for c in tables[::10]:
        c[:] = c.round(1)  # some with ties: the totals are equal all the same
    found = maths.evaluate("ts => ts.map(t => detrMatching.assign(t))", [c.tolist() for c in tables])
    for c, queries in zip(tables, found):
        q, o = linear_sum_assignment(c)
        pairs = {(q, o) for o, q in enumerate(queries) if q >= 0}
        assert len(pairs) == len({q for q, _ in pairs}) == min(c.shape)
        assert np.isclose(sum(c[p] for p in pairs), c[q, o].sum(), atol=1e-9)
        if len(np.unique(c)) == c.size:
            assert pairs == {*zip(q.tolist(), o.tolist())}


def test_costs_equal_the_matchers(maths):
    n, m, weights = 60, 40, (1.5, 4.0, 2.5)
    centre, size = torch.rand(n + m, 2, dtype=torch.double), torch.rand(n + m, 2, dtype=torch.double) ** 3 + 1e-4
    size[:3] = 1e-6  # nearly points
    box, logits, labels = torch.cat([centre, size], 1), torch.randn(n, 4, dtype=torch.double), torch.randint(1, 4, (m,))
    predictions = [dict(box=b, probs=p) for b, p in zip(box[:n].tolist(), logits.softmax(-1).tolist())]
    objects = [dict(box=b, label=c) for b, c in zip(box[n:].tolist(), labels.tolist())]
    found = maths.evaluate("([p, o, w]) => detrMatching.costs(p, o, w)", [predictions, objects, weights])
    wanted = HungarianMatcher(*weights).cost(logits[None], box[None, :n], labels[None], box[None, n:])[0]
    assert (torch.tensor(found, dtype=torch.double) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("rows, cols, d, T", [(3, 4, 8, 10000), (25, 34, 256, 10000), (34, 5, 64, 20), (10, 16, 32, 1)])
def test_sine_equals_the_modules(maths, rows, cols, d, T):
    found = maths.evaluate("a => detrPosition.sine(...a)", [rows, cols, d, T])
    row, col = (torch.tensor(found[k], dtype=torch.float32) for k in ("row", "col"))
    code = torch.cat([row[:, None].expand(-1, cols, -1), col[None].expand(rows, -1, -1)], -1).permute(2, 0, 1)
    wanted = PositionalEncoding2D(d, float(T))(torch.zeros(1, 1, rows, cols))[0]
    assert (code - wanted).abs().max() < 1e-5
    for name, codes in (("dot", wanted), ("cosine", torch.nn.functional.normalize(wanted, dim=0))):
        ask = "([c, name]) => detrPosition.similarity(c, c.row[2], c.col[3], name)"
        alike = torch.tensor(maths.evaluate(ask, [found, name]), dtype=torch.float32)
        assert (alike - torch.einsum("dhw,d->hw", codes, codes[:, 2, 3])).abs().max() < 1e-5 * (d if name == "dot" else 1)


def test_a_state_survives_the_address_and_nonsense_does_not(maths):
    back = "t => { const s = detrMatching.decode(t); return s && detrMatching.encode(s); }"
    good = "favourites_15.50.20_q.430.500.200.400.2.963.963.7111.963_o.300.500.200.400.2"
    assert maths.evaluate(back, good) == good
    bad = ["", "toString_1.2.3_" + good[20:], good.replace(".50.", ".x."), good[:-1] + "7", good + "_o.1", good.split("_o")[0],
           good + "_o.1.1.1.1.1", good.replace("430", "-30")]  # fmt: skip
    assert [t for t in bad if maths.evaluate(back, t) is not None] == []
    back = "t => { const s = detrPosition.decode(t); return s && detrPosition.encode(s); }"
    good = "16_20_3_19_20_32_dot_trained_start"
    assert maths.evaluate(back, good) == good
    bad = ["", good[:-1], good.replace("20_32", "0_32"), good.replace("32", "33"), good.replace("3_19", "3_20"),
           good.replace("16", "3")]  # fmt: skip
    assert [t for t in bad if maths.evaluate(back, t) is not None] == []


# ---------------------------------------------------------------- the matching playground
class Play:
    def __init__(self, page):
        self.page, self.root = page, page.locator('.live[data-live="matching"]')

    def sums(self):
        return [float(t.replace("−", "-")) for t in self.root.locator(".live-sum").all_inner_texts()]

    def pairs(self, mark):
        "{object's column: query} of the cells that bear a mark."
        cells = """(rows, m) => rows.flatMap((r, q) =>
            [...r.cells].flatMap((c, i) => c.querySelector(".live-" + m) ? [[i - 1, q]] : []))"""
        return dict(self.root.locator("tbody tr").evaluate_all(cells, mark))

    def costs(self):
        texts = self.root.locator("tbody .live-cost").all_inner_texts()
        return np.array([float(t.replace("−", "-")) for t in texts]).reshape(self.root.locator("tbody tr").count(), -1)

    def said(self, words):
        self.root.locator("[role=status]", has_text=words).wait_for()

    def point(self, x, y, scene=0):
        "The place of the picture's point (x, y) on the screen."
        svg = self.root.locator(".live-scene svg").nth(scene)
        svg.scroll_into_view_if_needed()
        r = svg.bounding_box()
        return r["x"] + x * r["width"], r["y"] + y / 0.85 * r["height"]

    def drag(self, start, end, scene=0):
        mouse = self.page.mouse
        mouse.move(*self.point(*start, scene))
        mouse.down()
        mouse.move(*self.point(*end, scene), steps=4)
        mouse.up()

    def sides(self):
        return [float(n) for n in self.root.locator("[data-side]").evaluate_all("x => x.map(e => e.value)")]

    def preset(self, name):
        self.root.locator("button", has_text=name).click()

    def consistent(self):
        "The totals are those of the marked cells, and the second is scipy's."
        c = self.costs()
        for mark, total in zip(("greedy", "best"), self.sums()):
            assert abs(sum(c[q, o] for o, q in self.pairs(mark).items()) - total) < 0.02
        q, o = linear_sum_assignment(c)
        assert abs(c[q, o].sum() - self.sums()[1]) < 0.03


@pytest.fixture(scope="module")
def pages(browser, base):
    "Both pages, opened once; what they complain about."
    found = {}
    for path in (MATCHING, POSITION):
        page = test_site.listening(browser.new_page(viewport=dict(width=1280, height=900)))
        page.goto(base + path, wait_until="load")
        found[path] = page
    yield found
    for page in found.values():
        page.close()


@pytest.fixture
def play(pages):
    "The playground at its start."
    it = Play(pages[MATCHING])
    it.preset("Greedy goes wrong")
    yield it
    assert it.page.complaints == []


def test_it_begins_with_the_chapters_own_example(play):
    assert play.pairs("greedy") == {0: 2, 1: 1, 2: 3} and play.pairs("best") == {0: 1, 1: 2, 2: 3}
    boxes = torch.tensor([[0.10, 0.12, 0.14, 0.14], [0.43, 0.50, 0.20, 0.40],
                          [0.66, 0.54, 0.26, 0.44], [0.74, 0.34, 0.20, 0.24]])  # fmt: skip
    logits = torch.tensor([[2.0, 0, 0, 0], [0, 0, 2, 0], [0, 0, 1, 0], [1, 0, 0, 1.2]])
    objects = torch.tensor([[0.30, 0.50, 0.20, 0.40], [0.54, 0.50, 0.20, 0.40], [0.80, 0.30, 0.20, 0.20]])
    wanted = HungarianMatcher().cost(logits[None], boxes[None], torch.tensor([[2, 2, 3]]), objects[None])[0]
    assert np.abs(play.costs() - wanted.numpy()).max() < 0.006
    play.consistent()
    play.said("The cheapest pair first pays 1.95 more.")
    assert "matching=" not in play.page.url


def test_dragging_a_prediction_mends_the_greedy_rule(play):
    before = play.sums()
    play.drag((0.33, 0.45), (0.30, 0.45))  # the left edge of query 1, a little to the left
    assert play.sides() == pytest.approx([0.40, 0.50, 0.20, 0.40], abs=0.006)
    assert play.sums()[0] < before[0] - 1 and play.sums()[0] == play.sums()[1] and play.pairs("greedy") == play.pairs("best")
    play.said("Both find the same total.")
    play.consistent()
    play.page.wait_for_url(re.compile("matching=pairs_"))
    now = play.sums(), play.sides()
    play.page.reload()
    play.said("Both find the same total.")
    assert (play.sums(), play.sides()) == now


def test_dragging_objects_corners_and_on_the_right(play):
    play.drag((0.87, 0.38), (0.67, 0.78), scene=1)  # the triangle, beside query 3's frame
    assert play.root.locator(".live-who").inner_text() == "Object C"
    assert play.sides()[:2] == pytest.approx([0.60, 0.70], abs=0.006)
    assert play.costs()[3, 2] > 3
    play.drag((0.70, 0.80), (0.80, 0.84))  # its corner
    assert play.sides() == pytest.approx([0.65, 0.72, 0.30, 0.24], abs=0.01)
    play.drag((0.65, 0.72), (1.5, 1.5))  # and never out of the picture
    x, y, w, h = play.sides()
    assert x + w / 2 <= 1.001 and y + h / 2 <= 0.851
    play.consistent()


def test_a_duplicate_comes_and_goes(play):
    play.preset("A duplicate")
    assert play.pairs("greedy") == {0: 0, 1: 0, 2: 2} and play.pairs("best") == {0: 0, 1: 1, 2: 2}
    left, right = play.root.locator(".live-scene").all()
    assert left.locator(".live-q.twice").count() == 1 and right.locator(".live-q.twice").count() == 0
    assert "Claimed twice: query 0. Left over: queries 1 and 3." in left.inner_text()
    assert "Left over: query 3." in right.inner_text()
    play.said("Query 0 is claimed by A and B: a duplicate")
    play.consistent()
    play.root.locator("[name=rule]").select_option("pairs")
    assert left.locator(".live-q.twice").count() == 0 and play.pairs("greedy") == play.pairs("best")


def test_weights_decide(play):
    play.preset("Weights decide")
    assert play.pairs("best") == {0: 0, 1: 3}
    play.root.locator("[data-weight]").nth(0).fill("3")
    assert play.pairs("best") == {0: 1, 1: 3}
    play.root.locator("[data-weight]").nth(1).fill("2")
    assert play.pairs("best") == {0: 1, 1: 2}
    play.consistent()
    terms = [float(t.replace("−", "-")) for t in play.root.locator(".live-terms").first.inner_text().split()]
    assert sum(terms) == pytest.approx(play.costs()[0, 0], abs=0.02) and terms[0] < 0
    for i in range(3):
        play.root.locator("[data-weight]").nth(i).fill("0")
    play.said("With all weights at 0, every assignment costs nothing.")


def test_keys_and_numbers_alone(play):
    key = play.page.keyboard.press
    play.root.locator("button").last.focus()
    for _ in range(2):  # the rule, then the first box
        key("Tab")
    assert play.page.evaluate("document.activeElement.getAttribute('aria-label')").startswith("Object A: ellipse, centre 0.30")
    key("ArrowRight"), key("ArrowDown"), key("Shift+ArrowRight")
    assert play.sides() == [0.31, 0.51, 0.21, 0.40]
    assert "centre 0.31, 0.51, size 0.21" in play.page.evaluate("document.activeElement.getAttribute('aria-label')")
    play.root.locator('[data-box="q1"]').first.focus()
    play.root.locator("[data-side='0']").fill("0.2")
    assert play.sides()[0] == 0.2 and play.sums()[0] == play.sums()[1]
    before = play.costs()[1]
    play.root.locator("[name=prob]").fill("0.1")
    assert play.costs()[1, 0] == pytest.approx(before[0] + 0.61, abs=0.02) and play.costs()[1, 2] < before[2] - 0.1
    play.root.locator("[name=class]").select_option("3")
    assert play.costs()[1, 2] > before[2] - 0.1
    play.consistent()


def test_a_linked_view_opens_and_nonsense_opens_the_start(open_page):
    state = "favourites_10.50.20_q.430.500.200.400.2.963.963.7111.963_q.100.100.100.100.0.7000.1000.1000.1000_o.400.500.200.400.2"
    play = Play(open_page(f"{MATCHING}?matching={state}#drag-the-boxes"))
    assert play.pairs("best") == {0: 0} and play.costs().shape == (2, 1) and play.page.url.endswith("#drag-the-boxes")
    play.page.wait_for_function("scrollY > 500")  # the page glides there
    play = Play(open_page(f"{MATCHING}?matching=nonsense"))
    assert play.costs().shape == (4, 3) and play.page.complaints == []


# ---------------------------------------------------------------- where am I?
class Where:
    def __init__(self, page):
        self.page, self.root = page, page.locator('.live[data-live="position"]')

    def near(self):
        return [int(t.split()[0]) for t in self.root.locator(".live-near").all_inner_texts()]

    def most(self):
        return [tuple(map(int, re.findall(r"\d+", t)[:2])) for t in self.root.locator(".live-most").all_inner_texts()]

    def at(self):
        return tuple(int(self.root.locator(f"[name={n}]").input_value()) for n in ("row", "col"))

    def map(self, n=0):
        return self.root.locator(".live-cells").nth(n)

    def colours(self, n=0):
        "[rows, columns, 3] from the canvas."
        get = "c => [c.height, c.width, [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]]"
        h, w, data = self.map(n).locator("canvas").evaluate(get)
        return np.array(data).reshape(h, w, 4)[..., :3]

    def point(self, row, col, rows, cols, n=0):
        self.map(n).scroll_into_view_if_needed()
        r = self.map(n).bounding_box()
        return r["x"] + (col - 0.5) / cols * r["width"], r["y"] + (row - 0.5) / rows * r["height"]


@pytest.fixture
def where(pages):
    it = Where(pages[POSITION])
    it.root.locator("button", has_text="The paper").click()
    yield it
    assert it.page.complaints == []


def test_hovering_moves_the_cell_and_the_map(where):
    start = where.near()
    wanted = torch.nn.functional.normalize(PositionalEncoding2D(256)(torch.zeros(1, 1, 25, 34))[0], dim=0)
    for row, col in ((13, 18), (4, 6)):
        where.page.mouse.move(*where.point(row, col, 25, 34))
        assert where.at() == (row, col) and where.most() == [(row, col)] * 2
        alike = torch.einsum("dhw,d->hw", wanted, wanted[:, row - 1, col - 1])
        assert abs(where.near()[0] - int((alike > 0.9).sum())) <= 1
        green, value = where.colours()[..., 1].ravel(), alike.numpy().ravel()  # viridis: the higher, the more green
        assert np.corrcoef(green, value)[0, 1] > 0.95 and green[value.argmax()] == green.max()
    assert where.near()[0] < start[0]


def test_temperature_and_width(where):
    slider = where.root.locator("[name=T]")
    broad = where.near()[0]
    where.root.locator("button", has_text="A temperature of 20").click()
    assert where.near()[0] < broad / 3 and slider.get_attribute("aria-valuetext") == "20"
    sharp, before = where.near()[0], where.colours()
    where.root.locator("[name=d]").fill("3")  # 64 numbers: nearly the same map, a little sharper
    assert 0.5 * sharp < where.near()[0] < sharp and 0 < np.abs(where.colours() - before).max() < 40
    where.root.locator("[name=d]").fill("5")
    slider.fill("4")
    assert where.near()[0] == broad


def test_dot_product_and_the_learned_table(where):
    where.root.locator("[name=measure][value=dot]").check()
    assert where.root.locator(".live-top").all_inner_texts()[0] == "128.0"  # sines are all equally long
    assert where.most()[0] == where.at()
    learned = where.colours(1)
    where.root.locator("[name=table][value=start]").check()
    assert (where.colours(1) != learned).any() and where.root.locator(".live-width").all_inner_texts() == ["d = 256"] * 2


def test_a_size_never_trained(where):
    where.root.locator("button", has_text="A size never trained").click()
    assert where.at() == (12, 12) and where.map().get_attribute("style").count("100%") == 2
    sine, learned = where.most()
    assert max(abs(a - 12) for a in sine) <= 1 and learned == (8, 8)  # place 8 of ten: its share, or its number
    assert "0.35 of the side away" in where.root.locator(".live-most").nth(1).inner_text()
    where.root.locator("[name=cols]").fill("32")  # the place is kept as a share, and sine follows
    assert where.at()[1] in (23, 24) and abs(where.most()[0][1] - 24) <= 2 and where.most()[1][1] in (7, 8)
    where.root.locator("[name=ask][value=cell]").check()
    assert where.most()[0] == where.at()


def test_keys_numbers_and_the_address(where):
    where.root.locator(".live-map").first.focus()
    for k in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft", "ArrowLeft"):
        where.page.keyboard.press(k)
    assert where.at() == (15, 17)
    where.page.keyboard.press("End")
    assert where.at() == (15, 34)
    where.root.locator("[name=row]").fill("2")
    assert where.at() == (2, 34) and where.most()[0] == (2, 34)
    where.root.locator("[role=status]", has_text="Row 2, column 34.").wait_for(state="attached")
    where.page.wait_for_url(re.compile("position=25_34_1_33_"))
    near = where.near()
    where.page.reload()
    assert where.at() == (2, 34) and where.near() == near


# ---------------------------------------------------------------- both
@pytest.mark.parametrize("path", [MATCHING, POSITION])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_and_everything_has_a_name(open_page, path, scheme):
    page = open_page(path, scheme=scheme)
    height = page.evaluate("document.querySelector('.live-app').offsetHeight")
    for button in page.locator(".live-presets button").all()[::-1]:
        button.click()
        page.wait_for_timeout(260)
        assert too_pale(page) == []
        assert page.evaluate("document.querySelector('.live-app').offsetHeight") == height, "it jumps"
    tags = page.locator(".live-app svg .live-q").evaluate_all("""gs => gs.map(g =>
        [getComputedStyle(g.querySelector(".live-name")).fill, getComputedStyle(g.querySelector(".live-tag")).fill])""")
    for ink, ground in {tuple(t) for t in tags}:
        light = [np.dot([0.2126, 0.7152, 0.0722], [(v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055) ** 2.4)
                 for v in (int(n) / 255 for n in re.findall(r"\d+", c)[:3])]) for c in (ink, ground)]  # fmt: skip
        assert (max(light) + 0.05) / (min(light) + 0.05) > 4.5, (ink, ground)
    assert nameless(page) == [] and page.locator(".live-app [role=status]").count() == 1
    assert page.locator("#live-keys").count() == 1 and page.locator(".live-app [aria-describedby=live-keys]").count() >= 1


@pytest.mark.parametrize("path", [MATCHING, POSITION])
def test_on_a_phone(open_page, path):
    page = open_page(path, width=390, height=844, has_touch=True, is_mobile=True)
    for width in (390, 360):
        page.set_viewport_size(dict(width=width, height=844))
        for button in page.locator(".live-presets button").all():
            button.tap()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert sticking_out(page) == []
    if path == POSITION:
        where = Where(page)
        page.touchscreen.tap(*where.point(3, 5, 16, 16))
        assert where.at() == (3, 5)
    else:
        play = Play(page)
        page.touchscreen.tap(*play.point(0.74, 0.40))
        assert play.root.locator(".live-who").inner_text() != "Query 1"
        play.preset("Greedy goes wrong")
        box = play.root.locator('[data-box="q0"]').first
        before = box.get_attribute("aria-label")
        assert finger(page, *(play.point(0.10, 0.06 + step / 50) for step in range(9))) == 0, "the page slid away"
        assert box.get_attribute("aria-label") != before
        assert abs(finger(page, *(play.point(0.95, 0.65 - step / 25) for step in range(9)))) > 30  # beside them the page moves


@pytest.mark.parametrize("path", PARTS)
def test_without_scripts_and_on_paper_a_picture_stands_there(open_page, path):
    page = open_page(path, java_script_enabled=False)
    assert page.locator("img.live-still").is_visible() and not page.locator(".live-app").is_visible()
    assert len(page.locator("img.live-still").get_attribute("alt")) > 100 and page.locator(".live noscript p").is_visible()
    page = open_page(path)
    assert not page.locator("img.live-still").is_visible() and page.locator(".live-app").is_visible()
    page.emulate_media(media="print")
    assert page.locator("img.live-still").is_visible() and not page.locator(".live-app").is_visible()


def test_the_scripts_go_to_their_pages_alone(site):
    pages = {p.name: p.read_text("utf-8") for p in (site / "nbs").glob("*.html")}
    own = {"position_page.js": "02", "matching.js": "06", "training.js": "09", "detector.js": "10 in", "nms.js": "wh",
           "trees.js": "16"}  # fmt: skip
    all_parts = " ".join(own.values())
    for name, wanted in {**own, "detect.js": "10 in 16", "live.js": all_parts, "live.css": all_parts}.items():
        assert {n[:2] for n, t in pages.items() if f"/{name}" in t} == {*wanted.split()}
