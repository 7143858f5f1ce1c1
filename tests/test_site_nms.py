"""NMS against sets, in why_detr, in Chromium: torchvision's suppression, the book's hits, and usable by hand, key, finger."""

import json
import re

import node
import numpy as np
import pytest
import test_site
import torch
from test_site_live import nameless, sticking_out, too_pale
from torchvision.ops import batched_nms, box_iou, nms

from detr_lit.evaluate import find_hits

pytestmark = [pytest.mark.site, pytest.mark.usefixtures("one_thread")]
base, browser, open_page = test_site.base, test_site.browser, test_site.open_page  # fixtures
PAGE = "nbs/why_detr.html"


# ---------------------------------------------------------------- the mathematics, without a page
maths = node.scripts("live.js", "nms.js")


def random_boxes(r, n, classes):
    "[n, 6]: corners, score, class; every second table on a grid and with few scores, so that there are ties."
    boxes = np.concatenate([r.uniform(0, 60, (n, 2)), np.zeros((n, 2))], 1)
    boxes[:, 2:] = boxes[:, :2] + r.uniform(5, 60, (n, 2))
    scores = r.uniform(size=(n, 1))
    if n % 2:
        boxes, scores = (boxes / 10).round() * 10, (scores * 4).round() / 4
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 10)
    return np.concatenate([boxes, scores, r.integers(1, classes + 1, (n, 1))], 1)


def test_suppression_equals_torchvisions(maths):
    r = np.random.default_rng(0)
    tables = [random_boxes(r, int(r.integers(0, 60)), 1 + k % 3) for k in range(400)]
    thresholds = [0.5 if k % 4 == 0 else round(r.uniform(0.1, 0.95), 2) for k in range(400)]  # halves occur on the grid
    found = maths.evaluate("all => all.map(([t, x]) => detrNms.nms(t, x))", list(zip([t.tolist() for t in tables], thresholds)))
    for table, threshold, kept in zip(tables, thresholds, found):
        boxes, scores, labels = torch.tensor(table).split((4, 1, 1), 1)
        if len(labels.unique()) < 2:
            wanted = nms(boxes, scores[:, 0], threshold)
        else:
            wanted = batched_nms(boxes, scores[:, 0], labels[:, 0].long(), threshold)
        assert torch.equal(torch.tensor(kept, dtype=torch.float64).view(-1, 6), torch.tensor(table)[wanted])


def python_judge(boxes, objects, threshold, score):
    "-> kept boxes, which of them hit, which are near an object of their class: by torchvision and the book's `find_hits`."
    boxes, objects = torch.tensor(boxes, dtype=torch.float64).view(-1, 6), torch.tensor(objects, dtype=torch.float64)
    boxes = boxes[boxes[:, 4] >= score]
    if threshold is not None:
        boxes = boxes[batched_nms(boxes[:, :4], boxes[:, 4], boxes[:, 5].long(), threshold)]
    hit, near = torch.zeros(len(boxes), dtype=torch.bool), torch.zeros(len(boxes), dtype=torch.bool)
    for k in range(1, 4):
        mine, theirs = boxes[:, 5] == k, objects[objects[:, 5] == k][:, :4]
        hit[mine] = find_hits(boxes[mine, 4].float(), boxes[mine, :4].float(), theirs.float())
        if len(theirs):
            near[mine] = (box_iou(boxes[mine, :4], theirs) >= 0.5).any(1)
    return boxes, hit, near


def counts(boxes, objects, threshold, score):
    kept, hit, near = python_judge(boxes, objects, threshold, score)
    return [int(hit.sum()), int((near & ~hit).sum()), int((~near & ~hit).sum()), len(objects) - int(hit.sum()), len(kept)]


COUNTS = "all => all.map(a => { const v = detrNms.judge(...a); return [v.hits, v.again, v.wrong, v.missed, v.kept.length]; })"


def test_hits_duplicates_and_misses_equal_the_books(maths):
    r, cases = np.random.default_rng(1), []
    for n in r.integers(0, 40, 300).tolist():
        table, objects = random_boxes(r, n, 3), random_boxes(r, int(r.integers(1, 7)), 3)
        near = objects[r.integers(0, len(objects), n // 2)]
        table[: n // 2, [0, 1, 2, 3, 5]] = near[:, [0, 1, 2, 3, 5]] + np.c_[r.normal(0, 3, (n // 2, 4)), np.zeros(n // 2)]
        table = table[(-table[:, 4]).argsort(kind="stable")]
        cases.append([table.tolist(), objects.tolist(), round(r.uniform(0.1, 0.95), 2), round(r.uniform(0.05, 0.5), 2)])
    wanted = [counts(*c) for c in cases]
    assert maths.evaluate(COUNTS, cases) == wanted
    assert all(sum(w[i] for w in wanted) > 30 for i in range(4))  # each kind occurs


def test_a_lost_box_was_the_surest_of_an_object_that_nothing_hits(maths):
    objects = [[0, 0, 40, 20, 1, 1], [10, 0, 50, 20, 1, 1], [90, 90, 99, 99, 1, 1]]
    boxes = [[0, 0, 40, 20, 0.9, 1], [1, 0, 41, 20, 0.8, 1], [10, 0, 50, 20, 0.7, 1], [11, 0, 51, 20, 0.6, 1]]
    judge = "a => { const v = detrNms.judge(...a); return [v.kept, v.lost, v.gone.length, v.precision, v.recall]; }"
    assert maths.evaluate(judge, [boxes, objects, 0.5, 0.1]) == [[boxes[0]], [boxes[2]], 3, 1, pytest.approx(1 / 3)]
    kept, lost, gone, precision, recall = maths.evaluate(judge, [boxes, objects, 0.7, 0.1])  # the twin is back
    assert (kept, lost, gone, precision) == ([boxes[0], boxes[2]], [], 2, 1) and recall == pytest.approx(2 / 3)
    assert maths.evaluate(judge, [boxes, objects, 0.5, 0.75])[1] == []  # not sure enough: NMS has not deleted it


def test_a_state_survives_the_address_and_nonsense_does_not(maths):
    back = "t => { const s = detrNms.decode(t, ['alone', 'crowd']); return s && detrNms.encode(s); }"
    assert maths.evaluate(back, "crowd_57_35") == "crowd_57_35"
    bad = ["", "crowd", "crowd_57", "nobody_57_35", "crowd_9_35", "crowd_96_35", "crowd_57.5_35", "crowd_57_4", "crowd_57_x",
           "crowd_57_37", "crowd_57_35_1"]  # fmt: skip
    assert [t for t in bad if maths.evaluate(back, t) is not None] == []


# ---------------------------------------------------------------- the page
@pytest.fixture(scope="module")
def data(site):
    "What the chapter's cell handed to the page."
    html = (site / PAGE).read_text("utf-8")
    found = re.search(r'data-live="nms"><script [^>]*>(.*?)</script>', html, re.S)[1]
    assert len(found) < 120_000
    return {p["key"]: p for p in json.loads(found)["pictures"]}


class Part:
    def __init__(self, page):
        self.page, self.root = page, page.locator('.live[data-live="nms"]')

    def preset(self, name):
        self.root.locator("button", has_text=re.compile(f"^{name}$")).click()

    def slide(self, name, value):
        self.root.locator(f"[name={name}]").fill(str(value))

    def threshold(self):
        return float(self.root.locator("[name=threshold]").input_value())

    def drawn(self, side=0):
        "{kind: boxes}"
        read = """gs => gs.map(g => [g.dataset.kind, ...["x", "y", "width", "height"].map(
            n => +g.querySelector("rect").getAttribute(n))])"""
        found = {}
        for kind, x, y, w, h in self.root.locator(".live-look").nth(side).locator(".live-box").evaluate_all(read):
            found.setdefault(kind, []).append([x, y, x + w, y + h])
        return found

    def numbers(self):
        "[[precision, recall] of RetinaNet, of DETR] as they stand there."
        texts = self.root.locator("dd b").all_inner_texts()
        return [texts[:2], texts[2:]]

    def said(self, words):
        self.root.locator("[role=status]", has_text=words).wait_for()

    def equals(self, picture, threshold, score):
        "Everything shown is what Python finds."
        for side, t in enumerate((threshold, None)):
            kept, hit, near = python_judge(picture["boxes"][side], picture["objects"], t, score)
            shown = self.drawn(side)
            for kind, which in (("hit", hit), ("again", near & ~hit), ("wrong", ~near & ~hit)):
                assert np.allclose(sorted(shown.get(kind, [])), sorted(kept[which, :4].tolist()), atol=1e-6), kind
            n, h, m = len(kept), int(hit.sum()), len(picture["objects"])
            assert self.numbers()[side] == [f"{h / n:.2f}" if n else "–", f"{h / m:.2f}"]
            sure = sum(b[4] >= score for b in picture["boxes"][side])
            assert sum(len(shown.get(k, [])) for k in ("hit", "again", "wrong", "gone", "lost")) == sure
            who = f"RetinaNet keeps {n} of {sure} box{'es' * (sure > 1)}: " if not side else "DETR: "
            again, wrong = int((near & ~hit).sum()), int((~near & ~hit).sum())
            what = f"exactly right, {h} of {h}" if n == h == m else f"{h} hit, {again} said twice, {wrong} wrong, {m - h} missed"
            self.said(who + what)

    def heights(self, line):
        "The curve's values for 0.10, 0.11 and so on, of RetinaNet and of DETR."
        paths = self.root.locator(f".live-chart .live-{line}").evaluate_all("x => x.map(p => p.getAttribute('d'))")
        return [[1 - float(point.split()[1]) / 100 for point in d[1:].split("L")] for d in paths]


@pytest.fixture(scope="module")
def opened(browser, base):
    page = test_site.listening(browser.new_page(viewport=dict(width=1280, height=1000)))
    page.goto(base + PAGE, wait_until="load")
    yield page
    page.close()


@pytest.fixture
def part(opened):
    "The part at its start."
    it = Part(opened)
    it.preset("Crowd")
    it.slide("threshold", 0.5)
    it.slide("score", 0.5)
    yield it
    assert opened.complaints == []


def test_everything_shown_is_what_python_finds(part, data):
    for key, name in (("alone", "Alone"), ("crowd", "Crowd"), ("closer", "Closer crowd")):
        part.preset(name)
        for threshold, score in ((0.5, 0.5), (0.1, 0.05), (0.9, 0.3), (0.6, 0.95)):
            part.slide("threshold", threshold)
            part.slide("score", score)
            part.equals(data[key], threshold, score)


def test_a_twin_is_lost_at_a_low_threshold_and_comes_back(part, data):
    part.slide("threshold", 0.3)
    low = part.drawn()
    assert len(low["hit"]) == len(low["lost"]) == 2
    part.said("2 missed (2 lost to NMS)")
    objects = torch.tensor(data["crowd"]["objects"])[:, :4]
    both = box_iou(torch.tensor(low["hit"] + low["lost"]), objects)
    assert sorted(both.argmax(1).tolist()) == [0, 1, 2, 3] and both.amax(1).min() > 0.5
    part.slide("threshold", 0.6)
    assert "lost" not in part.drawn() and len(part.drawn()["hit"]) == 4
    part.said("exactly right, 4 of 4")
    part.slide("threshold", 0.9)
    twice = len(part.drawn()["again"])
    part.slide("score", 0.95)
    assert len(part.drawn()["again"]) < 5 < 20 < twice


def test_the_curves_are_precision_and_recall_at_every_threshold(part, data):
    part.preset("Closer crowd")
    found = [part.heights("precision"), part.heights("recall")]
    p = data["closer"]
    for side in (0, 1):
        for i, n in enumerate(range(10, 96)):
            hit, _, _, _, kept = counts(p["boxes"][side], p["objects"], None if side else n / 100, 0.5)
            assert found[0][side][i] == pytest.approx(hit / kept, abs=6e-4)
            assert found[1][side][i] == pytest.approx(hit / len(p["objects"]), abs=6e-4)
    assert len({*found[0][1]}) == len({*found[1][1]}) == 1  # DETR's are level
    part.slide("score", 0.95)  # the curves follow the score
    assert part.heights("recall")[0] != found[1][0]


def test_no_setting_is_right_for_all_three_as_the_chapter_says(part, data, site):
    grid = [(t / 100, s / 100) for t in range(10, 96) for s in range(5, 100, 5)]
    fits = []
    for p in data.values():
        found = part.page.evaluate(COUNTS, [[p["boxes"][0], p["objects"], t, s] for t, s in grid])
        fits.append({g for g, (hit, *_, kept) in zip(grid, found) if hit == kept == len(p["objects"])})
    assert not set.intersection(*fits)
    shown = re.search(r"\(\[(\d+), (\d+), (\d+)\], \[\{", re.sub(r"<[^>]+>", "", (site / PAGE).read_text("utf-8")))
    assert [len(f) for f in fits] == [int(n) for n in shown.groups()]


def test_dragging_over_the_curve_and_keys_move_the_threshold(part):
    chart = part.root.locator(".live-chart").first
    chart.scroll_into_view_if_needed()
    r = chart.bounding_box()
    mouse, y = part.page.mouse, r["y"] + r["height"] / 2
    mouse.move(r["x"] + 2, y)
    mouse.down()
    assert part.threshold() == pytest.approx(0.11, abs=0.011)
    mouse.move(r["x"] + r["width"] / 2, y, steps=3)
    assert part.threshold() == pytest.approx(0.53, abs=0.011)
    mouse.move(r["x"] + 2 * r["width"], y, steps=3)
    mouse.up()
    mouse.move(r["x"] + 5, y)
    assert part.threshold() == 0.95
    assert float(chart.locator("line").get_attribute("x1")) == 85
    part.root.locator("[name=threshold]").focus()
    for key in ("ArrowLeft", "ArrowLeft", "ArrowLeft"):
        part.page.keyboard.press(key)
    assert part.threshold() == 0.92 and float(chart.locator("line").get_attribute("x1")) == 82
    assert part.root.locator("output").first.inner_text() == "0.92"
    part.root.locator("[name=score]").focus()
    part.page.keyboard.press("ArrowRight")
    assert part.root.locator("output").nth(1).inner_text() == "0.55"


def test_the_address_keeps_the_view(part, base):
    part.page.wait_for_timeout(300)
    assert "nms=" not in part.page.url  # the start needs none
    part.preset("Closer crowd")
    part.slide("threshold", 0.81)
    part.slide("score", 0.65)
    part.page.wait_for_url(re.compile("nms=closer_81_65$"))
    part.said("exactly right, 6 of 6")
    before = part.drawn(), part.numbers()
    part.page.reload()
    part.said("exactly right, 6 of 6")
    assert (part.drawn(), part.numbers()) == before
    assert part.root.locator("[aria-pressed=true]").all_inner_texts() == ["Closer crowd"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_and_everything_has_a_name(open_page, scheme):
    page = open_page(PAGE, scheme=scheme)
    heights = set()
    for button in page.locator(".live-presets button").all():
        button.click()
        for value in ("0.1", "0.9"):
            page.locator("[name=threshold]").fill(value)
            page.wait_for_timeout(260)
            assert too_pale(page) == []
            heights.add(page.evaluate("document.querySelector('.live-app').offsetHeight"))
    assert len(heights) == 1, "it jumps"
    assert nameless(page) == [] and page.locator(".live-app [role=status]").count() == 1
    assert page.locator(".live-look svg").first.get_attribute("aria-label").startswith("RetinaNet after NMS: ")


def test_on_a_phone(open_page):
    page = open_page(PAGE, width=390, height=844, has_touch=True, is_mobile=True)
    for width in (390, 360):
        page.set_viewport_size(dict(width=width, height=844))
        for button in page.locator(".live-presets button").all():
            button.tap()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert sticking_out(page) == []
        sides = [m.bounding_box() for m in page.locator(".live-look").all()]
        assert sides[0]["y"] == sides[1]["y"], "side by side, to compare"
    part = Part(page)
    chart = page.locator(".live-chart").first
    chart.scroll_into_view_if_needed()
    r = chart.bounding_box()
    page.touchscreen.tap(r["x"] + r["width"] / 2, r["y"] + r["height"] / 2)
    assert part.threshold() == pytest.approx(0.53, abs=0.011)
    assert chart.evaluate("e => getComputedStyle(e).touchAction") == "pan-y"
