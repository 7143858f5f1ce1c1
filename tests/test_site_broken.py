"""The game of nbs/broken.md, played in Chromium: by mouse, by keyboard, on a phone, without JavaScript."""

import re

import broken
import pytest
import test_site

pytestmark = pytest.mark.site
base, browser, open_page = test_site.base, test_site.browser, test_site.open_page  # fixtures
PAGE = "nbs/broken.html"


class Game:
    def __init__(self, page):
        self.page = page

    @property
    def card(self):
        return self.page.locator(".broken-card:visible")

    def line(self, n):
        return self.card.locator(f'[data-line="{n}"]')

    def lines(self):
        "(wrong, right) numbers of the lines to choose from."
        right = self.card.get_attribute("data-answers").split()
        every = self.card.locator("[data-line]").evaluate_all("lines => lines.map(line => line.dataset.line)")
        return [n for n in every if n not in right], right

    def score(self):
        "[found at the first click, found, of]"
        return [int(n) for n in re.findall(r"\d+", self.page.locator(".score").inner_text())]

    def said(self):
        return self.card.locator("[role=status]").inner_text()

    def find(self):
        self.line(self.lines()[1][0]).click()

    def next(self):
        "The address changes first, then the card: whoever looks too early holds on to the old one."
        old = self.card.get_attribute("id")
        self.page.locator("button.next").click()
        self.page.locator(f"#{old}").wait_for(state="hidden")


@pytest.fixture
def game(open_page):
    return Game(open_page(f"{PAGE}#card-06_matcher-1"))


@pytest.fixture(scope="module")
def total(root):
    return sum(map(len, broken.load(root / "detr_lit/mutants").values()))


def test_each_mutant_has_a_card(site, root, total):
    page = (site / PAGE).read_text("utf-8")
    assert page.count('<article class="broken-card"') == total and f"There are {total} cards" in page
    assert len(set(re.findall(r'data-key="([^"]+)"', page))) == total


def test_wrong_then_right_then_reload_then_forget(game, total):
    wrong, right = game.lines()
    answer = game.card.locator("details")
    assert game.score() == [0, 0, total] and not answer.locator("dl").is_visible()
    game.line(wrong[3]).click()
    assert game.said() == f"No, line {wrong[3]} is as it should be." and game.score() == [0, 0, total]
    assert "wrong" in game.line(wrong[3]).get_attribute("class") and not answer.locator("dl").is_visible()
    game.line(right[0]).click()
    assert game.said() == f"Line {right[0]} it is." and game.score() == [0, 1, total]
    assert answer.locator("dl").is_visible() and "test_matcher.py::test_" in answer.inner_text()
    game.line(wrong[0]).click(force=True)  # too late to be wrong
    assert game.page.locator(".broken-card .wrong:visible").count() == 1
    row = game.page.locator('.broken-map tr[data-chapter="06_matcher"]')
    assert row.locator(".count").inner_text().startswith("1 of ") and row.locator("a.found").count() == 1
    game.page.reload()
    assert game.score() == [0, 1, total] and answer.locator("dl").is_visible()
    assert "wrong" in game.line(wrong[3]).get_attribute("class")
    game.page.once("dialog", lambda d: d.dismiss())
    game.page.locator("button.reset").click()
    assert game.score() == [0, 1, total]
    game.page.once("dialog", lambda d: d.accept())
    game.page.locator("button.reset").click()
    assert game.score() == [0, 0, total] and not answer.locator("dl").is_visible()
    game.page.reload()
    assert game.score() == [0, 0, total] and game.card.locator(".broken-code .wrong, .broken-code .right").count() == 0
    assert game.page.complaints == []


def test_the_first_click_counts(game, total):
    game.find()
    assert game.score() == [1, 1, total] and game.said().endswith("at the first click.")
    game.next()
    game.card.locator("summary").click()
    assert game.card.locator("dl").is_visible() and game.score() == [1, 1, total]
    assert game.page.locator(".broken-map a.first").count() == game.page.locator(".broken-map a.shown").count() == 1


def test_next_stays_in_the_chapter_and_ends(game):
    game.page.locator("select").select_option("02_position")
    of = game.score()[2]
    seen = []
    for _ in range(of):
        seen.append(game.card.get_attribute("id"))
        game.find()
        if len(seen) < of: game.next()
    assert len(set(seen)) == of and all(s.startswith("card-02_position-") for s in seen)
    assert game.score() == [of, of, of] and game.page.locator("button.next").is_disabled()


def test_the_map_leads_to_a_card_and_back(game):
    game.page.locator('.broken-map a[href="#card-07_loss-2"]').click()
    assert game.card.get_attribute("id") == "card-07_loss-2" and game.card.count() == 1
    game.page.go_back()
    assert game.card.get_attribute("id") == "card-06_matcher-1"


def test_keyboard_alone(game, total):
    press, focused = game.page.keyboard.press, "document.activeElement"
    game.page.locator("select").focus()
    press("Tab")
    if game.page.evaluate(f"{focused}.tagName") == "PRE":  # the theme lets wide code be scrolled with the keys
        press("Tab")
    wrong, right = game.lines()
    first = game.page.evaluate(f"{focused}.dataset.line")
    assert first == min(wrong + right, key=int) and game.page.evaluate(f"{focused}.role") == "button"
    assert game.page.evaluate(f"{focused}.ariaLabel").startswith(f"line {first}: class HungarianMatcher")
    press("End"), press("Home"), press("ArrowDown"), press("ArrowUp")
    press("Space")
    assert game.said() == f"No, line {first} is as it should be."
    for _ in range(60):
        if game.page.evaluate(f"{focused}.dataset.line") in right:
            break
        press("ArrowDown")
    press("Enter")
    assert game.score() == [0, 1, total] and game.card.locator("dl").is_visible()
    press("Enter")  # the focus is on "Next one"
    game.page.locator("#card-06_matcher-1").wait_for(state="hidden")
    assert game.card.count() == 1 and game.page.evaluate("location.hash") == f"#{game.card.get_attribute('id')}"


def test_a_missing_line_is_found_from_both_sides(game):
    for i in (0, 1):
        card = game.page.locator(".broken-card", has_text="A line is missing").nth(i)
        game.page.evaluate("id => { location.hash = id }", card.get_attribute("id"))
        card.wait_for(state="visible")
        right = game.lines()[1]
        assert len(right) == 2
        game.line(right[i]).click()
        assert game.said() == f"Line {right[i]} it is, at the first click."
        assert game.card.locator(".broken-code .right").count() == 2


def test_the_wrong_line_looks_like_the_others(game):
    looks = game.card.locator("[data-line]").evaluate_all("""lines => lines.map(line => {
        const style = getComputedStyle(line), names = ["color", "backgroundColor", "fontWeight", "textDecorationLine"];
        return JSON.stringify([line.className, line.getAttributeNames(), names.map(n => style[n])]); })""")
    assert len(looks) > 20 and len(set(looks)) == 1


def test_code_scrolls_in_its_box_on_a_phone(open_page):
    game = Game(open_page(f"{PAGE}#card-06_matcher-1", width=390, height=844, scheme="dark"))
    scrolled, page = game.card.locator("pre.broken-code").evaluate(
        "pre => { pre.scrollLeft = 80; return [pre.scrollLeft, document.documentElement.scrollWidth]; }"
    )
    assert scrolled == 80 and page <= 390
    heights = game.card.locator("[data-line]").evaluate_all("lines => lines.map(l => l.getBoundingClientRect().height)")
    assert min(heights) >= 22
    game.find()
    assert game.card.locator("dl").is_visible()


def test_without_javascript(open_page, total):
    page = open_page(PAGE, java_script_enabled=False)
    cards = page.locator(".broken-card")
    assert cards.count() == total and cards.first.is_visible() and cards.last.is_visible()
    assert not page.locator(".broken-tools, .broken-buttons").first.is_visible()
    assert page.locator(".broken-code").last.is_visible() and not cards.last.locator("dl").is_visible()
    cards.last.locator("summary").click()
    assert cards.last.locator("dl").is_visible()
