"""The page in a real browser: what people do on it, what they see, and what it leaves behind.

MOA_SCREENSHOTS names a folder for pictures of the page; without it they go to pytest's own.
"""

import json
import os
import re
from pathlib import Path

import pytest

from moa_jax.page.people import MAX_BYTES
from tests.page.server import SECRET, chromium, photo, serving
from tests.page.slowly import LONG

pytestmark = pytest.mark.slow

LINK = "?prompt=a+man+and+a+woman+in+the+garden&words=2-1.5-2&people=9.10&sampler=ddim&guidance=2.5"
SECONDS = 60_000  # milliseconds: the first drawing compiles


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch")
    command = ["-m", "moa_jax.page", "--port", "PORT", "--steps", "3"]
    command += ["--plugin", "tests.page.slowly"]
    with serving(scratch, command) as running:
        yield running


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    if chromium() is None:
        pytest.skip("there is no browser: apt-get install chromium")
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield launched
        launched.close()


@pytest.fixture
def visit(browser, server):
    """Open the page as a new visitor; nothing may be asked of any other machine."""
    contexts, outside, faults = [], [], []

    def open_page(query="", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 1000}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: outside.append(request.url))
        page.goto(server.url + query)
        page.get_by_role("group", name="Who each word is").wait_for()
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not faults
    local = (server.url, "data:", "blob:")
    assert not [url for url in outside if not url.startswith(local)]


@pytest.fixture
def shoot(tmp_path):
    folder = Path(os.environ.get("MOA_SCREENSHOTS") or tmp_path)
    folder.mkdir(parents=True, exist_ok=True)
    return lambda page, name: page.screenshot(path=folder / f"{name}.png")


def draw(page):
    page.get_by_role("button", name="Draw", exact=True).click()
    return drawn(page)


def drawn(page):
    """Wait for the picture, and give its address, which holds its pixels."""
    page.get_by_role("link", name="Save as PNG").wait_for()
    page.wait_for_function("document.querySelector('.moa-go button:last-child').disabled")
    return page.get_by_role("link", name="Save as PNG").get_attribute("href")


def word(page, name):
    return page.get_by_role("button", name=re.compile(f"^{name}: "))


def drop(page, *files):
    page.locator("input[type=file]").set_input_files(
        [{"name": name, "mimeType": "image/jpeg", "buffer": data} for name, data in files]
    )


def test_somebody_is_dropped_bound_by_clicks_and_drawn(visit, server, shoot):
    page = visit()
    page.get_by_role("button", name=re.compile("^Take away subject 2")).click()
    drop(page, ("her.jpg", photo()))
    page.get_by_role("img", name="subject 2, her.jpg").wait_for()
    assert not [path for path in server.files() if SECRET in path.read_bytes()]
    kept = [path for folder in server.folders() for path in folder.rglob("*") if path.is_file()]
    assert not kept

    box = page.get_by_role("textbox", name="Prompt", exact=True)
    box.fill("a man and a woman in the snow")
    word(page, "woman").get_by_text("woman").wait_for()
    # From the first prompt.
    assert word(page, "man").get_attribute("aria-label") == "man: subject 1"
    word(page, "woman").focus()
    for expected in ("subject 1", "subject 2", "nobody", "subject 1", "subject 2"):
        page.keyboard.press("Enter")  # the keyboard alone: the button keeps the focus
        page.get_by_role("button", name=f"woman: {expected}").wait_for()
    box.press("Home")
    box.type("tall ")
    page.get_by_role("button", name="tall: nobody").wait_for()
    assert word(page, "woman").get_attribute("aria-label") == "woman: subject 2"

    first = draw(page)
    assert first.startswith("data:image/png;base64,")
    page.get_by_text(re.compile(r"Seed \d+, 3 steps of ddim, guidance 2.5, [\d.]+ s")).wait_for()
    shoot(page, "light")
    assert "people=9.own" in page.url
    link = page.get_by_label(re.compile("^Link to this picture"))
    assert link.input_value() == page.url
    assert not [path for path in server.files() if SECRET in path.read_bytes()]


def test_a_link_draws_the_same_picture_again(visit):
    one, two, other = (visit(f"{LINK}&seed={seed}&steps=2") for seed in (7, 7, 8))
    assert drawn(one) == drawn(two) != drawn(other)
    assert "seed=7" in one.url


def test_a_link_that_cannot_be_is_refused_in_words(visit):
    page = visit(LINK + "&steps=100000")
    page.get_by_role("alert").get_by_text("steps=100000: must lie between 1 and 100").wait_for()
    page = visit(LINK.replace("9.10", "9.own"))
    page.get_by_role("alert").get_by_text("pictures that it does not hold").wait_for()


def test_the_dial_at_nothing_draws_the_prior_whoever_is_asked_for(visit):
    link = LINK.replace("people=9.10", "people={}&seed=3&steps=2&dial={}")
    asked = (("9.10", 0), ("6.1", 0), ("9.10", 1))
    prior, same, all_in = (drawn(visit(link.format(*each))) for each in asked)
    assert prior == same != all_in


def test_the_slider_of_the_dial_reaches_the_picture(visit):
    page = visit(LINK + "&seed=5&steps=2")
    before = drawn(page)
    page.get_by_role("button", name="More settings").click()
    page.get_by_label("A new seed for every picture").uncheck()
    number = page.get_by_label("number input for How much of the people (the dial)")
    number.fill("0.2")
    number.press("Tab")
    page.get_by_role("button", name="Draw", exact=True).click()
    page.get_by_text(re.compile("Seed 5, 2 steps of ddim, guidance 2.5, dial 0.2")).wait_for()
    assert drawn(page) != before
    # The first one is still there, with all that made it.
    page.get_by_role("group", name="Drawn before").get_by_role("button").nth(1).click()
    page.wait_for_function("!document.body.innerText.includes('dial 0.2')")
    assert drawn(page) == before
    assert float(number.input_value()) == 1


def test_somebody_else_comes_in_by_swap_and_by_morph(visit, shoot):
    page = visit(LINK + "&seed=4&steps=3")
    before = drawn(page)
    page.get_by_role("tab", name="Swap").click()
    page.get_by_role("button", name="Swap", exact=True).click()
    page.get_by_role("alert").get_by_text("Choose who comes instead.").wait_for()
    panel = page.locator("[role=tabpanel]:visible")
    panel.get_by_role("radio", name="2: woman").check()
    panel.get_by_role("button", name="woman, number 1", exact=True).click()
    page.get_by_role("button", name="Swap", exact=True).click()
    now = page.get_by_role("img", name="Now: woman").get_attribute("src")
    assert page.get_by_role("img", name="Before: woman").get_attribute("src") == before
    shoot(page, "swap")
    # It is what a link with her in it draws.
    assert now == drawn(visit(LINK.replace("9.10", "9.1") + "&seed=4&steps=3"))

    page.get_by_role("tab", name="Morph").click()
    frames = page.get_by_label("number input for Frames")
    frames.fill("3")
    frames.press("Tab")
    page.get_by_role("button", name="Morph", exact=True).click()
    way = page.get_by_role("slider", name="From one to the other")
    way.wait_for()
    seen = []
    for frame in range(3):
        way.fill(str(frame))
        seen.append(page.locator(".moa-frames img:visible").get_attribute("src"))
    assert len(set(seen)) == 3
    shoot(page, "morph")


def test_the_routing_is_looked_at_by_layer_and_step(visit, shoot):
    page = visit(LINK + "&seed=4&steps=3")
    drawn(page)
    view = page.locator("[role=tabpanel]:visible")
    whole = view.get_by_role("img", name=re.compile("^Routing, all layers, all steps"))
    whole.wait_for()
    page.get_by_role("combobox", name="Layers").click()
    page.get_by_role("option", name=re.compile("up .*cross-attention")).first.click()
    step = view.get_by_label("number input for Step (0: all of them)")
    step.fill("3")
    step.press("Tab")
    view.get_by_role("img", name=re.compile("cross-attention, step 3 of 3")).wait_for()
    view.get_by_role("button", name="Every stage in one figure").click()
    view.get_by_role("img", name=re.compile("^A map for each stage")).wait_for()


def test_two_visitors_share_the_device_one_sees_the_place_the_other_stops(visit):
    # The second page is open before the first drawing begins: opening one may take long.
    short = visit()
    long = visit(f"{LINK}&seed=4&steps={LONG}")
    long.get_by_role("progressbar").wait_for()
    short.get_by_role("button", name="Draw", exact=True).click()
    short.get_by_text("You are number 2 in the line: one drawing is first.").wait_for()
    # Whoever waits, sees previews come, and stops, keeps a page that works.
    long.get_by_role("img", name="A preview").wait_for()
    long.get_by_role("button", name="Stop", exact=True).click()
    long.get_by_text("Stopped. Nothing of it was kept.").wait_for()
    assert drawn(short)
    assert "Save as PNG" not in long.inner_text("body")


def test_what_goes_wrong_is_said_in_words(visit, server):
    page = visit()
    alert = page.get_by_role("alert")
    drop(page, ("notes.jpg", b"no picture at all"))
    alert.get_by_text("notes.jpg: is no picture, or of a kind that Pillow cannot read").wait_for()
    page.get_by_role("textbox", name="Prompt", exact=True).fill("")
    page.get_by_role("button", name="Draw", exact=True).click()
    alert.get_by_text("The prompt is empty").wait_for()
    page.get_by_role("button", name="kid, number 2", exact=True).click()
    page.get_by_role("button", name="kid, number 5", exact=True).click()
    page.get_by_role("button", name="kid, number 8", exact=True).click()
    alert.get_by_text("There is room for 4 people").wait_for()
    drop(page, ("large.jpg", photo() + bytes(MAX_BYTES)))
    page.get_by_text(re.compile("exceed", re.IGNORECASE)).first.wait_for()
    assert not [path for path in server.files() if SECRET in path.read_bytes()]
    assert "Traceback" not in page.inner_text("body")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_phone_shows_all_of_it_without_scrolling_sideways(visit, shoot, theme):
    size = {"viewport": {"width": 360, "height": 780}, "is_mobile": True, "has_touch": True}
    page = visit(LINK + "&seed=4&steps=2", color_scheme=theme, **size)
    drawn(page)
    for tab in ("Who drew what", "Swap", "Morph"):
        page.get_by_role("tab", name=tab).click()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
    shoot(page, f"phone-{theme}")
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
    assert light > 200 if theme == "light" else light < 60


UNNAMED = """() => [...document.querySelectorAll('button, input, textarea, select, img, a[href]')]
  .filter((each) => each.offsetParent !== null && each.type !== 'hidden')
  .filter((each) => !(each.innerText || each.ariaLabel || each.alt || each.title || ''
    || (each.labels && each.labels.length && each.labels[0].innerText)
    || each.getAttribute('aria-labelledby') || '').trim())
  .filter((each) => !(each.localName === 'img' && each.alt === ''))
  .map((each) => each.outerHTML.slice(0, 200))"""


def test_everything_has_a_name_for_those_who_do_not_see_it(visit):
    page = visit(LINK + "&seed=4&steps=2")
    drawn(page)
    page.get_by_role("button", name="More settings").click()
    for tab in ("Swap", "Morph", "Who drew what"):
        page.get_by_role("tab", name=tab).click()
        assert not json.loads(json.dumps(page.evaluate(UNNAMED))), tab
    tree = page.locator("body").aria_snapshot()
    for part in (
        'heading "Put people into pictures"',
        'list "People in the picture"',
        'button "Take away subject 1, man"',
        'button "Click to upload or drop files"',
        'textbox "Prompt"',
        'button "man: subject 1" [pressed]',
        'button "Draw"',
        'img "Drawn: a man and a woman in the garden"',
        'group "Drawn before"',
    ):
        assert part in tree, part


def test_the_folder_goes_with_the_page(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with serving(scratch, ["-m", "moa_jax.page", "--port", "PORT"]) as server:
        assert len(server.folders()) == 1
        server.stop()
        assert not server.folders()
