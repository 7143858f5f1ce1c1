"""The quiz and the map of nbs/recap.html in Chromium: by mouse, by keyboard, on a phone, without JavaScript."""

import re

import pytest
import quiz
import test_site

pytestmark = pytest.mark.site
base, browser, open_page = test_site.base, test_site.browser, test_site.open_page  # fixtures
PAGE = "nbs/recap.html"


class Quiz:
    def __init__(self, page):
        self.page = page

    @property
    def card(self):
        return self.page.locator(".quiz-card:visible")

    def letters(self):
        "(wrong ones, right one)"
        items = "items => items.map(i => [i.dataset.choice, 'right' in i.dataset])"
        found = self.card.locator("li[data-choice]").evaluate_all(items)
        return [a for a, right in found if not right], next(a for a, right in found if right)

    def answer(self, letter):
        self.card.locator(f'.quiz-choice[data-choice="{letter}"]').click()
        self.card.locator("button[type=submit]").click()

    def said(self):
        return self.card.locator("[role=status]").inner_text()

    def score(self):
        "[right at once, solved, of]"
        said = self.page.locator(".quiz .score").inner_text()
        return [int(n) for n in re.fullmatch(r"(\d+) right at once\s+(\d+) solved\s+of (\d+)", said.strip()).groups()]

    def next(self):
        was = self.card.get_attribute("id")
        self.page.locator(".quiz .next").click()
        self.page.locator(f"#{was}").wait_for(state="hidden")

    def goto(self, n):
        self.page.evaluate("n => { location.hash = `quiz-${n}` }", n)
        self.page.locator(f"#quiz-{n}").wait_for(state="visible")


@pytest.fixture
def game(open_page):
    return Quiz(open_page(f"{PAGE}#quiz-1"))


@pytest.fixture(scope="module")
def total(root):
    return len(quiz.load(root / quiz.QUIZ))


def test_all_right(game, total):
    assert game.score() == [0, 0, total] and game.page.locator(".quiz-end").is_hidden()
    for n in range(1, total + 1):
        assert game.card.get_attribute("id") == f"quiz-{n}"
        game.answer(game.letters()[1])
        assert f"{game.letters()[1]}, right." in game.said() and game.card.locator("button").count() == 1
        if n < total:
            game.next()
    assert game.score() == [total, total, total] and game.page.locator(".quiz .next").is_disabled()
    end = game.page.locator(".quiz-end")
    assert end.is_visible() and end.inner_text().strip() == f"{total} of {total} right at once."
    assert game.page.complaints == []


def test_wrong_then_right_then_reload_then_forget(game, total):
    wrong, right = game.letters()
    game.answer(wrong[1])
    choice = game.card.locator(f'.quiz-choice[data-choice="{wrong[1]}"]')
    assert f"{wrong[1]}, no." in game.said() and "wrong" in choice.get_attribute("class")
    assert choice.locator("input").is_disabled() and game.score() == [0, 0, total]
    assert game.card.locator("[role=status] a").get_attribute("href").partition("#")[2]
    assert game.card.locator("details").is_hidden()  # no answer is given away
    game.answer(wrong[0])
    assert f"{wrong[0]}, no." in game.said() and f"{wrong[1]}, no." not in game.said()
    game.answer(right)
    assert game.score() == [0, 1, total] and f"{right}, right." in game.said()
    assert game.page.locator('.quiz-map a[href="#quiz-1"]').get_attribute("class") == "found"
    game.card.locator("summary").click()
    assert game.card.locator("details li").last.is_visible()
    game.page.reload()
    assert game.score() == [0, 1, total] and "right" in game.said()
    assert game.card.locator("input:checked").get_attribute("value") == right
    game.page.once("dialog", lambda d: d.dismiss())
    game.page.locator(".quiz .reset").click()
    assert game.score() == [0, 1, total]
    game.page.once("dialog", lambda d: d.accept())
    game.page.locator(".quiz .reset").click()
    assert game.score() == [0, 0, total] and game.said() == ""
    assert game.card.locator("input:disabled, input:checked, .quiz-choice.wrong, .quiz-choice.right").count() == 0
    game.page.reload()
    assert game.score() == [0, 0, total] and game.page.complaints == []


def test_the_end_names_what_to_read_again(game, total):
    missed = {}
    for n in range(1, total + 1):
        wrong, right = game.letters()
        if n in (2, 3, total):
            game.answer(wrong[0])
            link = game.card.locator(".quiz-where a")
            missed.setdefault(link.get_attribute("href"), []).append(n)
        game.answer(right)
        if n < total:
            game.next()
    end = game.page.locator(".quiz-end")
    assert end.inner_text().startswith(f"{total - 3} of {total} right at once.")
    links = end.locator("li").evaluate_all(
        "items => items.map(i => [i.querySelector('a').getAttribute('href'), i.innerText])"
    )
    assert {href: re.findall(r"\d+", text.rpartition("(")[2]) for href, text in links} == {
        href: [*map(str, ns)] for href, ns in missed.items()
    }


def test_keyboard_alone(game, total):
    press = game.page.keyboard.press
    game.page.locator("#quiz-1 .quiz-where a").focus()
    press("Tab")
    focused = "document.activeElement"
    assert game.page.evaluate(f"{focused}.type") == "radio"
    press("Space")
    wrong, right = game.letters()
    order = sorted([*wrong, right])
    at = order.index(game.page.evaluate(f"{focused}.value"))
    for _ in range(order.index(right) - at):
        press("ArrowDown")
    assert game.score() == [0, 0, total]  # to walk is not to answer
    press("Enter")
    assert game.score() == [1, 1, total] and "right" in game.said()
    press("Enter")  # the focus is on "Next"
    game.page.locator("#quiz-2").wait_for(state="visible")
    assert game.page.evaluate(f"{focused}.id") == "quiz-2"


def test_enter_without_a_choice_answers_nothing(game, total):
    game.card.locator("button[type=submit]").click()
    assert game.score() == [0, 0, total] and game.said() == ""
    assert game.page.evaluate("document.activeElement.type") == "radio"


def test_squares_lead_to_a_question_and_back(game):
    game.page.locator('.quiz-map a[href="#quiz-7"]').click()
    game.page.locator("#quiz-7").wait_for(state="visible")
    assert game.card.count() == 1 and game.page.locator('.quiz-map a[aria-current="true"]').inner_text() == "7"
    game.page.go_back()
    game.page.locator("#quiz-1").wait_for(state="visible")
    assert game.card.count() == 1


def test_what_a_screen_reader_needs(game, total):
    found = game.page.evaluate("""() => [...document.querySelectorAll(".quiz-card")].map(card => ({
        legend: card.querySelector("fieldset > legend")?.textContent.trim().length > 20,
        named: [...card.querySelectorAll("input")].every(i => i.closest("label")?.textContent.trim()),
        one: new Set([...card.querySelectorAll("input")].map(i => i.name)).size,
        live: card.querySelector("[role=status]")?.getAttribute("aria-live") }))""")
    assert len(found) == total and all(f == dict(legend=True, named=True, one=1, live="polite") for f in found)
    game.answer(game.letters()[0][0])
    described = game.card.locator("input:disabled").first.get_attribute("aria-describedby")
    assert game.page.locator(f"#{described}").inner_text() == game.said()
    assert game.page.locator('.quiz-map a[href="#quiz-1"]').get_attribute("aria-label") == "Question 1: not yet right"


CONTRAST = """where => {
    const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
    const rgb = colour => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data]; };
    const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const light = c => [.2126, .7152, .0722].reduce((sum, weight, i) => sum + weight * linear(c[i] / 255), 0);
    const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + .05) / (y + .05); };
    const behind = e => {
        for (; e; e = e.parentElement) { const c = rgb(getComputedStyle(e).backgroundColor); if (c[3] > 250) return c; }
        return [255, 255, 255]; };
    const bad = [], check = (e, r) => { if (r < 4.5) bad.push(`${e.outerHTML.slice(0, 60)} ${r.toFixed(2)}`); };
    for (const e of document.querySelectorAll(where))
        if (e.checkVisibility() && [...e.childNodes].some(n => n.nodeType == 3 && n.textContent.trim()))
            check(e, ratio(rgb(getComputedStyle(e).color), behind(e)));
    const page = rgb(getComputedStyle(document.body).backgroundColor), fill = e => rgb(getComputedStyle(e).fill);
    for (const text of document.querySelectorAll(".model-map svg :is(.map-size, .map-symbol)")) {
        const over = r => Math.abs(+r.getAttribute("x") + r.getAttribute("width") / 2 - text.getAttribute("x")) < 1;
        const chip = fill([...text.parentElement.querySelectorAll("rect")].find(over));
        check(text, ratio(fill(text), chip[3] ? chip : page));
    }
    return bad; }"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(open_page, scheme):
    game = Quiz(open_page(f"{PAGE}#quiz-1", scheme=scheme))
    wrong, right = game.letters()
    for letter in (wrong[0], right):
        game.answer(letter)
        game.page.wait_for_timeout(300)
        assert game.page.evaluate(CONTRAST, ".quiz *, .map-keys *") == []


def test_on_a_phone(open_page):
    game = Quiz(open_page(f"{PAGE}#quiz-9", width=390, height=844, scheme="dark"))
    for letter in (game.letters()[0][0], game.letters()[1]):
        game.answer(letter)
        assert game.page.evaluate("document.documentElement.scrollWidth") <= 390
    heights = game.card.locator(".quiz-choice").evaluate_all("x => x.map(e => e.getBoundingClientRect().height)")
    assert min(heights) >= 40
    code = game.card.locator(".quiz-code").evaluate(
        "e => [e.scrollWidth - e.clientWidth, getComputedStyle(e).overflowX]"
    )
    assert code[0] == 0 or code[1] == "auto"
    assert game.page.locator("svg.map-narrow").is_visible() and not game.page.locator("svg.map-wide").is_visible()
    texts = game.page.locator("svg.map-narrow text").evaluate_all("""all => all.map(t => {
        const r = t.getBoundingClientRect(); return [t.textContent, Math.round(r.left), Math.round(r.right)]; })""")
    assert [t for t in texts if t[1] < 0 or t[2] > 390] == []


def test_the_map_on_a_wide_page(open_page):
    page = open_page(PAGE)
    assert page.locator("svg.map-wide").is_visible() and not page.locator("svg.map-narrow").is_visible()
    boxes = page.locator("svg.map-wide a")
    places = boxes.evaluate_all("all => all.map(a => a.href.baseVal)")
    assert len(places) == 14 and all(re.match(r"\w+\.html#.", p) for p in places)
    spilled = boxes.evaluate_all("""all => all.flatMap(a => {
        const edge = a.querySelector(".map-box").getBoundingClientRect().right + 1;
        const out = t => t.getBoundingClientRect().right > edge;
        return [...a.querySelectorAll("text")].filter(out).map(t => t.textContent); })""")
    assert spilled == []
    boxes.nth(4).focus()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"03_encoder\.html#the-stack"))


def test_without_javascript(open_page, total):
    page = open_page(PAGE, java_script_enabled=False)
    cards = page.locator(".quiz-card")
    assert cards.count() == total and cards.first.is_visible() and cards.last.is_visible()
    assert (
        not page.locator(".quiz-bar").is_visible()
        and not page.locator(".quiz-buttons:visible, .quiz-walk:visible").count()
    )
    assert not cards.last.locator("li").first.is_visible()
    cards.last.locator("summary").click()
    assert cards.last.locator("li").first.is_visible() and "right." in cards.last.locator("li[data-right]").inner_text()


def test_the_scripts_go_to_their_page_alone(site):
    for name in ("quiz.js", "quiz.css", "model_map.css"):
        assert [p.name for p in (site / "nbs").glob("*.html") if f"/{name}" in p.read_text("utf-8")] == ["recap.html"]
