"""The scrubber of chapter 09 in Chromium: shows what was recorded, and what follows from it, by hand, by key, by finger."""

import json
import re

import node
import pytest
import test_site
import torch
from test_site_live import nameless, sticking_out, too_pale
from torchvision.ops import box_convert, box_iou

from detr_lit.data import ToyDetectionDataset
from detr_lit.matcher import HungarianMatcher

pytestmark = pytest.mark.site
base, browser, open_page = test_site.base, test_site.browser, test_site.open_page  # fixtures
PAGE = "nbs/09_train.html"


maths = node.scripts("live.js", "training.js")


@pytest.fixture(scope="module")
def films(root):
    "The recorded looks of both trainings, by step; the page shows those with boxes."
    runs = [json.loads((root / f"nbs/runs/frames/{n}/run.json").read_text()) for n in ("all", "last")]
    return [{look["step"]: look for look in run["seen"]} for run in runs]


class Film:
    def __init__(self, page):
        self.page, self.root = page, page.locator('.live[data-live="training"]')
        self.slider, self.play = self.root.locator("[name=step]"), self.root.locator(".live-play")

    def step(self):
        return int(self.root.locator(".live-player output").inner_text())

    def go(self, frame):
        self.slider.fill(str(frame))

    def boxes(self, n):
        "{query: (x0, y0, x1, y1 in thousandths, stroke's width, whether it has an object)} of a training."
        read = """gs => gs.map(g => { const r = g.querySelector("rect"), at = k => +r.getAttribute(k);
            return [+g.dataset.query, at("x"), at("y"), at("x") + at("width"), at("y") + at("height"),
                    parseFloat(getComputedStyle(r).strokeWidth), !!g.querySelector("line")]; })"""
        return {
            q: rest for q, *rest in self.root.locator(".live-track").nth(n).locator("g[data-query]").evaluate_all(read)
        }

    def rows(self, n):
        "[(query before, query, object, IoU, claims)] of a training."
        cells = """rows => rows.filter(r => r.checkVisibility({ visibilityProperty: true })).map(r =>
            [...r.cells[0].children, ...[...r.cells].slice(1)].map(e => e.textContent))"""
        return self.root.locator(".live-track").nth(n).locator("tbody tr").evaluate_all(cells)

    def numbers(self):
        "[[first training's, second's] of each curve]."
        curves = self.root.locator(".live-curve")
        return curves.evaluate_all("cs => cs.map(c => [...c.querySelectorAll('b')].map(b => +b.textContent))")


@pytest.fixture
def film(open_page):
    it = Film(open_page(PAGE))
    yield it
    assert it.page.complaints == []


# ---------------------------------------------------------------- the mathematics, without a page
def test_iou_equals_torchvisions(maths):
    boxes = torch.rand(2, 500, 4, dtype=torch.double) * 0.5 + 0.01
    found = maths.evaluate("([a, b]) => a.map((x, i) => detrTraining.iou(x, b[i]))", boxes.tolist())
    wanted = [box_iou(*(box_convert(b[None], "cxcywh", "xyxy") for b in pair)).item() for pair in zip(*boxes)]
    assert torch.tensor(found, dtype=torch.double).sub(torch.tensor(wanted, dtype=torch.double)).abs().max() < 1e-9
    assert 0 in found and max(found) > 0.5


def test_a_state_survives_the_address_and_nonsense_does_not(maths):
    back = "t => { const s = detrTraining.decode(t, [0, 5, 10, 25], 3); return s && detrTraining.encode(s, [0, 5, 10, 25]); }"
    assert [maths.evaluate(back, t) for t in ("0_1", "10_3", "24_2", "25_2")] == ["0_1", "10_3", "10_2", "25_2"]
    assert [
        t for t in ("", "5", "5_0", "5_4", "26_1", "-5_1", "5_1_1", "x_1") if maths.evaluate(back, t) is not None
    ] == []


def test_a_curve_is_drawn_from_the_ground_up(maths):
    assert maths.evaluate("detrTraining.line([4, 1, 0], 4, 100, 40)") == "0.0,0.0 50.0,30.0 100.0,40.0"


# ---------------------------------------------------------------- the page
@pytest.mark.parametrize("picture, step", [(0, 5), (0, 100), (1, 500), (2, 190)])
def test_a_frame_shows_what_was_recorded(open_page, films, picture, step):
    it, toys = Film(open_page(f"{PAGE}?training={step}_{picture + 1}")), ToyDetectionDataset(3, split="test")
    assert it.step() == step
    target, first = toys[picture][1], sum(len(toys[i][1]["labels"]) for i in range(picture))
    names = ("", *toys.class_names)
    for n, looks in enumerate(films):
        box, prob = (torch.tensor(looks[step][k][picture]) / 1000 for k in ("box", "prob"))
        [(q, o)] = HungarianMatcher()(dict(pred_logits=prob[None].clamp(1e-4).log(), pred_boxes=box[None]), [target])
        owner = dict(zip(o.tolist(), q.tolist()))
        assert [owner[i] for i in range(len(owner))] == looks[step]["who"][first : first + len(owner)]
        corners, shown = box_convert(box, "cxcywh", "xyxy") * 1000, it.boxes(n)
        assert len(shown) == 16 and {k for k, v in shown.items() if v[-1]} == {*owner.values()}
        for k, (*sides, width, _) in shown.items():
            assert sides == pytest.approx(corners[k].tolist(), abs=0.6)
            assert width == pytest.approx(1 + 3 * (1 - prob[k, 0].item()), abs=0.02)  # the surer, the thicker
        fits = box_iou(corners / 1000, box_convert(target["boxes"], "cxcywh", "xyxy"))
        rows = it.rows(n)
        assert [(int(r[1]), r[2]) for r in rows] == [
            (owner[i], names[c]) for i, c in enumerate(target["labels"].tolist())
        ]
        for i, row in enumerate(rows):
            assert float(row[3]) == pytest.approx(fits[owner[i], i].item(), abs=0.012)
            assert float(row[4]) == pytest.approx(1 - prob[owner[i], 0].item(), abs=0.006)
        losses, before = it.numbers(), looks.get(step - 5)
        assert [both[n] for both in losses[:4]] == pytest.approx(looks[step]["errors"], abs=0.006)
        if before:
            changed = [a != b for a, b in zip(before["who"], looks[step]["who"])]
            assert losses[4][n] == pytest.approx(sum(changed) / len(changed), abs=0.006)
    assert it.page.complaints == []


def test_both_begin_alike_and_a_change_of_hands_is_told(film, films):
    assert film.step() == 0 and film.boxes(0) == film.boxes(1) and film.rows(0) == film.rows(1)
    assert {r[0] for n in (0, 1) for r in film.rows(n)} == {""} and "training=" not in film.page.url
    steps = [0, *(s for s, look in films[0].items() if "box" in look)]
    told = 0
    for frame in range(2, 12):
        film.go(frame)
        assert film.step() == steps[frame]
        for n, looks in enumerate(films):
            was, now = (looks[s]["who"][:5] for s in steps[frame - 1 : frame + 1])
            assert [r[0] for r in film.rows(n)] == ["" if a == b else f"{a}→" for a, b in zip(was, now)]
            told += was != now
    assert told


def test_keys_the_address_and_another_picture(film):
    film.slider.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowUp"):
        film.page.keyboard.press(key)
    assert film.step() == 10 and film.slider.get_attribute("aria-valuetext") == "step 10"
    film.page.keyboard.press("End")
    assert film.step() == 500
    film.root.locator("[role=status]", has_text="Step 500.").wait_for(state="attached")
    film.root.locator("button", has_text="Picture 2").click()
    film.page.wait_for_url(re.compile("training=500_2"))
    rows = film.rows(0)
    assert film.root.locator("svg image").first.get_attribute("href").startswith("data:image/png;base64,")
    film.page.reload()
    assert film.step() == 500 and film.rows(0) == rows
    label = film.root.locator(".live-track svg").first.get_attribute("aria-label")
    assert f"step 500: query {rows[0][1]} for the {rows[0][2]}, IoU {rows[0][3]}" in label


def test_a_curve_can_be_dragged(film):
    curve = film.root.locator(".live-curve svg").nth(2)
    curve.scroll_into_view_if_needed()
    r = curve.bounding_box()
    film.page.mouse.move(r["x"] + r["width"] * 0.5, r["y"] + 10)
    film.page.mouse.down()
    middle = film.step()
    assert 80 <= middle <= 110
    film.page.mouse.move(r["x"] + r["width"] + 40, r["y"] + 10)
    film.page.mouse.up()
    assert film.step() == 500
    film.page.mouse.move(r["x"], r["y"] + 10)
    assert film.step() == 500
    assert [
        float(x) for x in film.root.locator(".live-curve line").evaluate_all("x => x.map(l => l.getAttribute('x1'))")
    ] == [100] * 5


def test_it_plays_when_asked_and_stops(film):
    film.page.wait_for_timeout(600)
    assert film.step() == 0  # never by itself
    film.play.click()
    film.page.wait_for_function("+document.querySelector('.live-player output').textContent >= 15")
    assert film.play.inner_text() == "Pause"
    film.slider.press("ArrowRight")  # whoever takes the slider has it
    assert film.play.inner_text() == "Play"
    film.go(41)
    film.play.click()
    film.page.wait_for_function("document.querySelector('.live-play').textContent == 'Play'")
    assert film.step() == 500
    film.play.click()
    assert film.step() < 50  # once more from the beginning
    film.play.click()
    now = film.step()
    film.page.wait_for_timeout(500)
    assert film.step() == now


def test_less_motion_for_those_who_ask(open_page):
    it = Film(open_page(PAGE, reduced_motion="reduce"))
    it.page.wait_for_timeout(500)
    assert it.step() == 0
    it.play.click()
    it.page.wait_for_timeout(600)
    assert it.step() == 0  # a frame a second
    it.page.wait_for_function("+document.querySelector('.live-player output').textContent == 5")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_and_everything_has_a_name(open_page, scheme):
    it = Film(open_page(f"{PAGE}?training=60_1", scheme=scheme))
    heights = set()
    for button in it.root.locator(".live-presets button").all():
        button.click()
        it.page.wait_for_timeout(350)
        assert too_pale(it.page) == []
        heights.add(it.page.evaluate("document.querySelector('.live-app').offsetHeight"))
    assert len(heights) == 1, "it jumps"
    assert nameless(it.page) == [] and it.root.locator("[role=status]").count() == 1
    assert it.slider.get_attribute("aria-describedby") == "live-keys" and it.page.locator("#live-keys").count() == 1


def test_on_a_phone(open_page):
    page = open_page(f"{PAGE}?training=60_1", width=390, height=844, has_touch=True, is_mobile=True)
    it = Film(page)
    for width in (390, 360):
        page.set_viewport_size(dict(width=width, height=844))
        for button in it.root.locator(".live-presets button").all():
            button.tap()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert sticking_out(page) == []
    curve = it.root.locator(".live-curve svg").first
    curve.scroll_into_view_if_needed()
    r = curve.bounding_box()
    page.touchscreen.tap(r["x"] + r["width"] - 1, r["y"] + 10)
    assert it.step() == 500 and curve.evaluate("e => getComputedStyle(e).touchAction") == "pan-y"


def test_the_data_are_light(site):
    html = (site / PAGE).read_text("utf-8")
    data = re.search(r'data-live="training"><script [^>]*>(.*?)</script>', html, re.S)[1]
    assert len(data.encode()) < 150_000 and len(json.loads(data)["steps"]) >= 40
