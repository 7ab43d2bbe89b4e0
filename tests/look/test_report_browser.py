"""The report in headless Chromium: what is shown, found by pointer and keyboard, at phone width and wide, light and
dark."""

import re
import shutil

import pytest
import report_records
from playwright.sync_api import expect, sync_playwright
from report_records import HOSTILE, WORDS

from grail_verl.credit.config import GrailConfig
from grail_verl.look import records
from grail_verl.look.report.report import write
from grail_verl.look.report.statistics import numbers

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync"""
WIDE, PHONE = 1280, 390
expect.set_options(timeout=20_000)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path")


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A run's page, from hostile text."""
    folder = tmp_path_factory.mktemp("run")
    report_records.write_run(folder, steps=[1, 2, 3], words=WORDS + HOSTILE, prompt='</script><img src="x" onerror=y>')
    (folder / "report").mkdir()
    found = records.read(folder)
    return write(folder / "report", found), found.responses


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture
def opened(browser, report):
    """open_page(width, path, link, clock) → the page; at the end nothing may have gone wrong in it, or been asked of
    the network."""
    contexts, wrong = [], []

    def route(asked):
        if asked.request.url.startswith(("file:", "data:")):
            return asked.continue_()
        wrong.append(asked.request.url)
        asked.abort()

    def open_page(width=WIDE, path=report[0], link="", clock=False):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme="light")
        context.set_default_timeout(20_000)
        contexts.append(context)
        page = context.new_page()
        page.route("**/*", route)
        page.on("console", lambda message: wrong.append(message.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", lambda dialog: wrong.append(dialog.message))
        if clock:
            page.clock.install()
        page.goto(path.as_uri() + link)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def facts(page, outcome: str) -> list[tuple[int, float, int]]:
    """(step, reward, length) of the responses shown, down the page."""
    cards = page.locator(f"#{outcome} article").all_text_contents()
    return [
        (int(re.search(r"Step (\d+)", card)[1]), float(re.search(r"reward ([\d.]+)", card)[1]),
         int(re.search(r"([\d,]+) tokens", card)[1].replace(",", "")))
        for card in cards
    ]  # fmt: skip


def show_all(page) -> None:
    for button in page.locator(".more").all():
        while button.is_visible():
            button.click()


def test_every_response_is_there_as_its_policy_wrote_it(opened, report):
    page = opened()
    show_all(page)
    responses = report[1]
    for outcome, correct in (("correct", True), ("wrong", False)):
        expected = [one for one in responses if (one["reward"] > 0) == correct]
        assert facts(page, outcome) == [(one["step"], one["reward"], len(one["tokens"])) for one in expected]
        assert f"{len(expected)} of {len(expected)}" in page.locator(f"#{outcome} output").inner_text()
    assert page.title() == "Token weights – grail-verl" and page.locator("main img[src='x']").count() == 0

    first = next(one for one in responses if one["reward"] > 0)
    tokens = page.locator("#correct article").first.locator(".token")
    assert tokens.count() == len(first["tokens"])
    answer = first["answer"]
    marked = [place for place in range(tokens.count()) if "answer" in tokens.nth(place).get_attribute("class").split()]
    assert marked == list(range(answer["start"], answer["end"]))
    assert "double" in tokens.nth(answer["start"]).evaluate("one => getComputedStyle(one).textDecoration")
    page.locator("#correct summary").first.click()
    expect(page.get_by_text('</script><img src="x" onerror=y>').first).to_be_visible()

    texts = "".join(page.locator(".token").all_text_contents())
    for sign in ("<img src=x onerror=alert(1)>", "↵\n", "␣␣", "∅", "⇥\t", "⟨U+202E⟩", "⟨U+0000⟩"):
        assert sign in texts
    foreign = sum(mask == 0 for one in responses for mask in one["mask"])
    assert foreign and page.locator(".tokens .token.foreign").count() == foreign
    style = page.locator(".tokens .token.foreign").first.evaluate("one => getComputedStyle(one).borderBottomStyle")
    assert style == "dashed"


def test_filters_choose_and_sorting_orders(opened, report):
    page = opened()
    every = sorted(len(one["tokens"]) for one in report[1])
    middle = every[len(every) // 2]
    page.get_by_label("Outcome").select_option("wrong")
    expect(page.locator("#correct")).to_be_hidden()
    page.get_by_role("group", name="Step").get_by_label("from").fill("2")
    page.get_by_role("group", name="Length").get_by_label("to").fill(str(middle))
    page.get_by_label("Sort by").select_option("length")
    page.get_by_label("Order").select_option("highest first")
    show_all(page)
    kept = [len(one["tokens"]) for one in report[1] if one["reward"] == 0 and one["step"] >= 2]
    shown = facts(page, "wrong")
    assert [length for *_, length in shown] == sorted((one for one in kept if one <= middle), reverse=True)
    assert {step for step, *_ in shown} == {2, 3}

    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#correct")).to_be_visible()
    page.get_by_role("group", name="Reward").get_by_label("from").fill("0.5")
    expect(page.locator("#wrong article")).to_have_count(0)
    assert page.locator("#correct article").count() == 10
    page.get_by_label("Sort by").select_option("step")
    page.get_by_label("Order").select_option("highest first")
    show_all(page)
    steps = [step for step, *_ in facts(page, "correct")]
    assert len(steps) == sum(one["reward"] for one in report[1]) and steps == sorted(steps, reverse=True)


def test_outcomes_stand_side_by_side_or_below_each_other(opened):
    page = opened()
    for width, beside in ((WIDE, True), (PHONE, False)):
        page.set_viewport_size({"width": width, "height": 900})
        correct, wrong = (page.locator(f"#{outcome}").bounding_box() for outcome in ("correct", "wrong"))
        if beside:
            assert correct["y"] == wrong["y"] and correct["x"] + correct["width"] <= wrong["x"]
        else:
            assert correct["x"] == wrong["x"] and correct["y"] + correct["height"] <= wrong["y"]
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        widest = page.locator("body *:not(noscript)").evaluate_all(
            "all => Math.max(...all.map(one => one.getBoundingClientRect().right))"
        )
        assert widest <= width


def test_the_pointer_finds_a_tokens_numbers(opened, report):
    page = opened()
    first = next(one for one in report[1] if one["reward"] > 0)
    tokens = page.locator("#correct article").first.locator(".token")
    note = page.get_by_role("tooltip")
    expect(note).to_be_hidden()
    for place in (1, first["answer"]["content_start"]):
        tokens.nth(place).hover()
        text = note.inner_text()
        assert f"Token {place + 1} of {len(first['tokens'])}" in text
        assert float(re.search(r"weight ([\d.]+)", text)[1]) == pytest.approx(first["weight"][place], rel=5e-3)
        assert float(re.search(r"saliency ([\d.e+-]+)", text)[1]) == pytest.approx(first["score"][place], rel=5e-3)
        box, view = note.bounding_box(), page.viewport_size
        assert box["x"] >= 0 and box["x"] + box["width"] <= view["width"] and box["y"] >= 0
        assert box["y"] + box["height"] <= view["height"]
    assert "the answer’s content" in text
    page.locator("h2").nth(1).hover()
    expect(note).to_be_hidden()


def test_the_keyboard_reaches_everything(opened):
    page = opened(PHONE)
    page.get_by_label("Outcome").select_option("correct")
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(70):
        page.keyboard.press("Tab")
        name, outline = page.evaluate("""() => {
            const one = document.activeElement;
            const name = one.name || (one.matches(".token") ? "token" : one.textContent.trim());
            return [name, getComputedStyle(one).outlineStyle];
        }""")
        reached.append(name)
        assert outline == "solid" or name.startswith("Step "), name  # a step of a figure has a frame of its own
        if reached[-1].startswith("Show more"):
            break
    over_steps = [name for name in reached if name.startswith("Step 1:") or name == "Step 1"]
    assert len(over_steps) == 5  # pass rate, thirds and heat map of each outcome, to the first of their steps
    assert [name for name in reached if not name.startswith("Step ")] == [
        "Weights", "Responses", "Metrics", "Settings", "channel", "arrange", "find", "outcome",
        "reward-from", "reward-to", "step-from", "step-to",
        "length-from", "length-to", "sort", "order", "Reset", *["Prompt", "token"] * 10, "Show more correct responses",
    ]  # fmt: skip
    page.keyboard.press("Enter")
    expect(page.locator("#correct article").nth(10).locator("h4")).to_be_focused()

    note = page.get_by_role("tooltip")
    for _ in range(3):  # the link to it, its prompt, its tokens
        page.keyboard.press("Tab")
    tokens = page.locator("#correct article").nth(10).locator(".token")
    last = tokens.count() - 1
    for key, place in (("", 0), ("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1), ("End", last), ("Home", 0)):
        if key:
            page.keyboard.press(key)
        expect(tokens.nth(place)).to_be_focused()
        expect(tokens.nth(place)).to_have_attribute("aria-describedby", "note")
        expect(note).to_contain_text(f"Token {place + 1} of {last + 1}")
        expect(note).to_contain_text("weight")
    page.keyboard.press("Escape")
    expect(note).to_be_hidden()
    page.keyboard.press("ArrowRight")
    expect(note).to_be_visible()
    page.keyboard.press("Shift+Tab")
    expect(note).to_be_hidden()
    page.keyboard.press("Tab")
    expect(tokens.nth(1)).to_be_focused()  # where it was left


CONTRASTS = """
() => {
  const channels = (colour) => {
    const numbers = colour.match(/[\\d.]+/g).map(Number);
    return colour.startsWith("color(") ? numbers.slice(0, 3).map((one) => one * 255) : numbers;
  };
  const luminance = (colour) => {
    const linear = channels(colour).slice(0, 3).map((one) => one / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const background = (one) => {
    const found = getComputedStyle(one).backgroundColor;
    return found === "rgba(0, 0, 0, 0)" ? background(one.parentElement) : found;
  };
  const texts = "p, h1, h2, h3, h4, output, label, input, select, button, a, figcaption, summary, th, td, .token";
  return [...document.querySelectorAll(texts)].map((one) => {
    const [dark, light] = [getComputedStyle(one).color, background(one)].map(luminance).sort((a, b) => a - b);
    return { ratio: (light + 0.05) / (dark + 0.05), background: background(one) };
  });
}
"""


def test_text_stands_out_light_and_dark(opened):
    page = opened()
    page.get_by_label("Find text").fill("add")  # found tokens, too
    show_all(page)
    pictures = page.locator("figure img")
    expect(pictures).to_have_count(9)
    for scheme, paper in (("light", "rgb(255, 255, 255)"), ("dark", "rgb(22, 25, 30)")):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == paper
        found = page.evaluate(CONTRASTS)
        assert min(one["ratio"] for one in found) >= 4.5
        assert len({one["background"] for one in found}) > 30  # the weights' colours among them
        page.wait_for_function("[...document.querySelectorAll('figure img')].every((one) => one.complete)")
        for picture in pictures.all():
            alt, light, width = picture.evaluate("one => [one.alt, one.currentSrc === one.src, one.naturalWidth]")
            assert alt and width > 600 and light == (scheme == "light")


def test_where_nothing_is_known_the_page_says_so(opened, tmp_path):
    """No reward, no score, no answer, one step, numbers that are not finite."""
    folder = report_records.write_run(
        tmp_path / "run", steps=[4], metrics=False, bounds=(0.0, float("inf")), reward=None, score=None, answer=None,
        weighted=False, advantage=float("nan"), config=GrailConfig(score="surprise"),
    )  # fmt: skip
    (folder / "report").mkdir()
    page = opened(path=write(folder / "report", records.read(folder)))
    for text in ("No response was weighted", "These records hold no metrics", "16 came without a reward", "of step 4"):
        expect(page.get_by_text(text)).to_be_visible()
    expect(page.get_by_role("group", name="Reward").get_by_label("from")).to_be_disabled()
    expect(page.locator("#wrong article")).to_have_count(10)
    page.locator("#wrong .token").first.hover()
    expect(page.get_by_role("tooltip")).to_contain_text("no surprise")
    expect(page.locator("#wrong article").first).to_contain_text("no reward · advantage unknown")
    expect(page.locator("#wrong article").first).to_contain_text("no answer · not weighted")


def share(token) -> str:
    return token.evaluate("one => one.style.getPropertyValue('--share')")


def test_a_switch_says_what_colours_show(opened, report):
    page = opened()
    first = next(one for one in report[1] if one["reward"] > 0)
    tokens = page.locator("#correct article").first.locator(".token")
    legend = page.get_by_role("list", name="Colours and marks")
    expect(legend).to_contain_text("What the response’s advantage is multiplied by.")
    names = page.get_by_label("Colour by").locator("option").all_text_contents()
    assert names == ["weight", "saliency", "surprise, −log p", "hop 0"]

    surprise, start = first["channels"]["surprise"], first["answer"]["start"]
    page.get_by_label("Colour by").select_option("surprise, −log p")
    expect(legend).to_contain_text("Negative log-probability of the token, in nats.")
    full = float(re.search(r"0([\d.]+) or more", legend.inner_text().replace("\n", ""))[1])
    for place in range(5):
        assert share(tokens.nth(place)) == f"{min(100, round(100 * surprise[place] / full))}%"
    page.get_by_label("Colour by").select_option("hop 0")  # in full where it is largest before the answer
    expect(legend).to_contain_text("the response’s largest before its answer")
    hop = first["channels"]["hop 0"]
    assert share(tokens.nth(hop.index(max(hop[:start])))) == "100%"
    tokens.nth(1).hover()
    note = page.get_by_role("tooltip").inner_text()
    for name, value in (("surprise, −log p", surprise[1]), ("hop 0", hop[1]), ("weight", first["weight"][1])):
        assert float(re.search(rf"{name} ([\d.e+-]+)", note)[1]) == pytest.approx(value, rel=1e-2)


def test_siblings_stand_together_and_part_at_one_height(opened, report):
    page = opened()
    page.get_by_label("Arrange").select_option("by prompt, where they part")
    expect(page.locator("#correct")).to_be_hidden()
    groups = {}
    for one in report[1]:
        groups.setdefault((one["step"], one["prompt"]), []).append(one)
    expect(page.locator("#siblings output").first).to_have_text(f"– {len(groups)} of {len(groups)}")
    expect(page.locator(".family")).to_have_count(len(groups))
    family, group = page.locator(".family").first, next(iter(groups.values()))
    right = [one for one in group if one["reward"]]
    title = f"Step 1: {len(right)} correct, {len(group) - len(right)} wrong"
    expect(family.get_by_role("heading", level=4)).to_have_text(title)

    pair = family.locator(".pair").first
    one, other = (pair.locator("article").nth(place) for place in (0, 1))
    expect(one).to_contain_text("correct · reward 1")
    expect(other).to_contain_text("wrong · reward 0")
    texts, rests = ([article.locator(path).all_text_contents() for article in (one, other)]
                    for path in (".token", ".fork ~ .token"))  # fmt: skip
    shared = len(texts[0]) - len(rests[0])
    assert texts[0][:shared] == texts[1][:shared] and texts[0][shared] != texts[1][shared]
    wrong = next(each for each in group if not each["reward"])
    assert shared == max(
        next(place for place, pair in enumerate(zip(each["tokens"], wrong["tokens"])) if pair[0] != pair[1])
        for each in right
    )
    forks = [article.locator(".fork").bounding_box() for article in (one, other)]
    assert forks[0]["y"] == forks[1]["y"] and forks[0]["x"] < forks[1]["x"]
    page.set_viewport_size({"width": PHONE, "height": 900})
    boxes = [article.bounding_box() for article in (one, other)]
    assert boxes[0]["y"] + boxes[0]["height"] <= boxes[1]["y"]
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE


def test_text_is_found_and_marked(opened, report):
    page = opened()
    page.get_by_label("Find text").fill("SUM so")
    show_all(page)
    kept = [one for one in report[1] if "sum so" in "".join(one["tokens"])]
    assert 0 < len(kept) < len(report[1]) and page.locator("article").count() == len(kept)
    marked = page.locator("article").first.locator(".token.found").all_text_contents()
    assert marked[:2] == [" sum", " so"]


def test_nothing_to_show_is_said(opened, report):
    page = opened()
    page.get_by_label("Find text").fill("nothing of this kind")
    expect(page.locator("#said")).to_have_text("No response is like that.")
    page.get_by_role("button", name="Reset").click()
    expect(page.locator("#said")).to_be_empty()
    length = max(len(one["tokens"]) for one in report[1])
    page.get_by_label("Arrange").select_option("by prompt, where they part")
    page.get_by_role("group", name="Length in tokens").get_by_label("from").fill(str(length))
    expect(page.locator("#said")).to_have_text("No prompt has two of these responses.")


def test_links_lead_to_responses_and_figures_to_steps(opened, report):
    wanted = next(one for one in reversed(report[1]) if one["rank"] == 1 and one["reward"] > 0)
    step, row = wanted["step"], wanted["row"]
    page = opened(link=f"#step-{step}-rank-1-row-{row}")
    heading = page.locator("#correct h4", has_text=f"Step {step}, rank 1, row {row}")
    expect(heading).to_be_focused()
    expect(heading).to_be_in_viewport()
    page.get_by_role("button", name="Reset").click()

    steps = page.get_by_role("group", name="Steps of Pass rate, to their responses")
    rate = sum(one["reward"] for one in report[1] if one["step"] == 2) / sum(one["step"] == 2 for one in report[1])
    link = steps.get_by_role("link", name=f"Step 2: {rate:.0%}")
    link.click()
    expect(page.get_by_role("heading", name="Responses", exact=True)).to_be_focused()
    expect(page.get_by_role("status").filter(has_text="responses of step 2.")).to_be_visible()
    show_all(page)
    assert {step for outcome in ("correct", "wrong") for step, *_ in facts(page, outcome)} == {2}
    steps.get_by_role("link", name="Step 1").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(steps.get_by_role("link", name="Step 3")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="responses of step 3.")).to_be_visible()

    page.locator("#wrong article a").first.click()
    expect(page.locator("#wrong h4").first).to_be_focused()
    page.evaluate("location.hash = '#step-1-row-99'")
    expect(page.get_by_text("Step 1, row 99 is not among the responses of this page.")).to_be_visible()


def test_a_link_to_a_step_of_one_response_says_so(opened, tmp_path):
    folder = report_records.write_run(tmp_path / "run", steps=[1, 2], rows=1)
    (folder / "report").mkdir()
    page = opened(path=write(folder / "report", records.read(folder)), link="#step-2")
    expect(page.get_by_role("status").filter(has_text="1 response of step 2.")).to_be_visible()


def test_two_rules_stand_side_by_side(opened, tmp_path):
    folder = report_records.write_run(tmp_path / "run", steps=[1, 2], two_rules=True, metrics=False)
    found = records.read(folder)
    page = opened(path=write(folder / "report", found))
    agreement = numbers(found)["agreement"]
    said = f"give before the answer have a rank correlation of {agreement['rank_correlation']['mean']:.2f} ±"
    expect(page.get_by_text(said)).to_be_visible()
    article = page.locator("#correct article").first
    one, other = (
        article.get_by_role("group", name=f"Response, token by token by {name}") for name in ("grail", "surprise")
    )
    assert one.bounding_box()["y"] == other.bounding_box()["y"]
    assert one.locator(".token").all_text_contents() == other.locator(".token").all_text_contents()

    page.get_by_label("Colour by").select_option("difference of the weights")
    response = next(each for each in found.responses if each["reward"])
    start, own = response["answer"]["start"], [place for place, mine in enumerate(response["mask"]) if mine]
    places = [place for place in own if place < start]
    means = [sum(weight[place] for place in places) / len(places)
             for weight in (response["weight"], response["second"]["weight"])]  # fmt: skip
    for place in places[:8]:
        more = response["weight"][place] / means[0] > response["second"]["weight"][place] / means[1]
        low = ["low" in side.locator(".token").nth(place).get_attribute("class").split() for side in (one, other)]
        assert low == [not more, more]
        assert share(one.locator(".token").nth(place)) == share(other.locator(".token").nth(place))
    one.locator(".token").first.hover()
    expect(page.get_by_role("tooltip")).to_contain_text("weight by surprise")

    page.get_by_label("Colour by").select_option("hop 0")  # each by its own
    note = page.get_by_role("tooltip").inner_text()
    for side, name, own in zip((one, other), ("grail", "surprise"), (response, response["second"]), strict=True):
        hop = own["channels"]["hop 0"]
        assert share(side.locator(".token").nth(hop.index(max(hop[place] for place in places)))) == "100%"
        assert float(re.search(rf"hop 0 by {name} ([\d.e+-]+)", note)[1]) == pytest.approx(hop[0], rel=1e-2)
    assert "no hop 1 by grail" in note and re.search(r"hop 1 by surprise [\d.]", note)
    assert note.count("surprise, −log p ") == 1  # the policy's

    page.get_by_label("Sort by").select_option("agreement of the rules")
    show_all(page)
    said = [float(re.search(r"rank correlation (-?[\d.]+)", text)[1])
            for text in page.locator("#wrong .facts").all_text_contents()]  # fmt: skip
    assert said == sorted(said)
    titles = page.locator("figure img").evaluate_all("all => all.length")
    assert titles == 13  # pass rate; way, histogram, thirds and heat maps of either rule


def test_a_page_that_is_watched_loads_itself_as_it_was_left(opened, tmp_path):
    folder = report_records.write_run(tmp_path / "run", steps=[1], metrics=False)
    path = write_watched(folder)
    page = opened(path=path, clock=True)
    page.get_by_label("Find text").fill("sum")
    page.get_by_label("Colour by").select_option("saliency")
    more = tmp_path / "more"
    report_records.write_run(more, steps=[2], metrics=False)
    for file in more.glob("responses-*.jsonl"):
        with (folder / file.name).open("a") as lines:
            lines.write(file.read_text())
    write_watched(folder)
    page.locator("#correct .token").first.focus()
    page.clock.run_for(31_000)
    expect(page.get_by_text("responses of step 1:")).to_be_visible()  # not while somebody reads there
    page.evaluate("document.activeElement.blur()")
    page.clock.run_for(31_000)
    expect(page.get_by_text("responses of 2 steps, 1 to 2")).to_be_visible()
    expect(page.get_by_label("Find text")).to_have_value("sum")
    assert page.get_by_label("Colour by").evaluate("one => one.selectedOptions[0].text") == "saliency"
    page.get_by_label("Load this page again every 30 seconds").uncheck()
    path.write_text("gone")
    page.clock.run_for(61_000)
    expect(page.get_by_text("responses of 2 steps, 1 to 2")).to_be_visible()


def test_a_watched_page_leaves_another_alone(opened, tmp_path):
    """What was chosen on one, which the other may not even have."""
    paths = []
    for name, changes in (("two", {"two_rules": True}), ("one", {})):
        folder = report_records.write_run(tmp_path / name, steps=[1], metrics=False, **changes)
        paths.append(write_watched(folder))
    page = opened(path=paths[0])
    page.get_by_label("Sort by").select_option("agreement of the rules")
    page.get_by_label("Find text").fill("sum")
    page.goto(paths[1].as_uri())
    expect(page.get_by_label("Find text")).to_have_value("")
    expect(page.locator("article")).not_to_have_count(0)
    page.goto(paths[0].as_uri())
    expect(page.get_by_label("Find text")).to_have_value("sum")


def write_watched(folder):
    return write(folder / "report", records.read(folder), watched=True)


NAMELESS = """
() => {
  const labels = (one) => [...(one.labels ?? [])].map((each) => each.textContent).join("");
  const name = (one) => one.getAttribute("aria-label") || labels(one)
    || one.querySelector(":scope > title")?.textContent || one.textContent;
  const nameless = [...document.querySelectorAll("a, button, input, select, summary, [role=group], [tabindex='0']")]
    .filter((one) => !name(one).trim()).map((one) => one.outerHTML);
  const levels = [...document.querySelectorAll("h1, h2, h3, h4, h5")].filter((one) => one.offsetParent)
    .map((one) => Number(one.tagName[1]));
  const skipped = levels.filter((level, place) => level > (levels[place - 1] ?? 0) + 1);
  const ids = [...document.querySelectorAll("[id]")].map((one) => one.id);
  return [nameless, skipped, ids.filter((id, place) => ids.indexOf(id) < place)];
}
"""


def test_a_screen_reader_hears_names_levels_and_changes(opened):
    page = opened()
    for arrangement in ("correct beside wrong", "by prompt, where they part"):
        page.get_by_label("Arrange").select_option(arrangement)
        assert page.evaluate(NAMELESS) == [[], [], []]
    for role, name in (
        ("navigation", "Sections"), ("region", "Weights"), ("region", "Responses"), ("list", "Colours and marks"),
        ("combobox", "Colour by"), ("searchbox", "Find text"), ("group", "Step"),
        ("group", "Steps of Pass rate, to their responses"),
    ):  # fmt: skip
        expect(page.get_by_role(role, name=name, exact=True)).to_have_count(1)
    page.get_by_label("Find text").fill("nowhere")
    expect(page.get_by_role("status").filter(has_text="0 of 0").locator("visible=true").first).to_be_visible()
