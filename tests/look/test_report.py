"""The report without a browser: its numbers by hand, figures that draw them, a page that is safe and small enough."""

import io
import json
import re
import statistics as stdlib
from collections import Counter
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import numpy as np
import pytest
import report_records
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from grail_verl.__main__ import main
from grail_verl.credit.answer import AnswerSpan
from grail_verl.credit.config import GrailConfig
from grail_verl.look import records
from grail_verl.look.report.channels import channels
from grail_verl.look.report.colours import DARK, LIGHT
from grail_verl.look.report.figures import figures
from grail_verl.look.report.page import page
from grail_verl.look.report.statistics import bin_means, mean_and_error, numbers
from grail_verl.look.report.watch import watch

pytestmark = pytest.mark.fast

ANSWER = AnswerSpan(4, 7, 5, 6)


def response(step: int, weight: list, **changes) -> dict:
    """Four tokens before an answer of three."""
    record = {
        "step": step, "row": 0, "prompt": "?", "tokens": list("abcd{7}"), "mask": [1] * 7, "score": [1.0] * 7,
        "weight": [*weight, 1.0, 5.0, 1.0], "advantage": -1.0, "answer": ANSWER, "reward": 0.0, "weighted": True,
    }  # fmt: skip
    return {**records.response_record(**{**record, **changes}), "rank": 0}


def of(*responses: dict, metrics=None, bounds=(0.5, 5.0)) -> dict:
    settings = {"options": asdict(GrailConfig()), "bounds": bounds}
    return numbers(records.Records(settings, list(responses), metrics or {}))


RUN = (
    response(1, [0.5, 1.0, 1.5, 2.0], reward=1.0),
    response(1, [0.5, 2.0, 0.5, 4.0]),
    response(1, [1.5, 2.0, 9.0, float("nan")], mask=[1, 1, 0, 1, 1, 1, 1]),
    response(3, [0.5, 1.0, 1.0, 5.0]),
    response(3, [1.0] * 4, weighted=False),
    response(3, [1.0] * 4, weighted=False, answer=None),
    response(3, [1.0] * 4, mask=[0] * 4 + [1] * 3),
)


def test_the_numbers_of_a_run_by_hand():
    found = of(*RUN, metrics={1: {"weight_mean": 1.5}, 3: {"weight_mean": None, "other": 2.0}})
    counts = {"total": 7, "correct": 1, "wrong": 6, "with_answer": 6, "weighted": 5, "without_reward": 0, "steps": 2,
              "first_step": 1, "last_step": 3}  # fmt: skip
    assert found["responses"] == counts

    correct, wrong = found["position"]["correct"], found["position"]["wrong"]
    assert (correct["responses"], wrong["responses"]) == (1, 3)
    assert correct["mean"] == [0.5] * 5 + [1.0] * 5 + [1.5] * 5 + [2.0] * 5
    assert correct["standard_error"] == [None] * 20  # of one response
    # Wrong, by token: (0.5, 1.5, 0.5), (2, 2, 1), (0.5, -, 1), (4, -, 5); errors: deviation / root of the count.
    by_token = [5 / 6, 5 / 3, 0.75, 4.5]
    assert wrong["mean"] == pytest.approx([mean for mean in by_token for _ in range(5)])
    assert wrong["standard_error"] == pytest.approx([error for error in (1 / 3, 1 / 3, 0.25, 0.5) for _ in range(5)])

    # A third of four tokens is a token and a third of the next, and so on.
    thirds = found["thirds"]["wrong"]
    assert thirds["steps"] == [1, 3] and thirds["responses"] == [2, 1]
    first = [(0.5 + 2.0 / 3) / (4 / 3), (1.5 + 2.0 / 3) / (4 / 3)]
    assert thirds["first"]["mean"] == pytest.approx([sum(first) / 2, (0.5 + 1 / 3) / (4 / 3)])
    assert thirds["first"]["standard_error"] == pytest.approx([(first[1] - first[0]) / 2, None])
    assert thirds["last"]["mean"] == pytest.approx([(0.5 / 3 + 4) / (4 / 3), (1 / 3 + 5) / (4 / 3)])
    assert found["thirds"]["correct"]["steps"] == [1]

    heatmap = found["heatmap"]["wrong"]
    assert heatmap["steps"] == [1, 3]
    assert heatmap["mean"][0] == pytest.approx([1.0] * 5 + [2.0] * 5 + [0.5] * 5 + [4.0] * 5)
    assert heatmap["mean"][1] == [0.5] * 5 + [1.0] * 10 + [5.0] * 5

    histogram = found["histogram"]
    assert (histogram["edges"][0], histogram["edges"][-1]) == (0.5, 5.0)
    assert histogram["wrong"]["tokens"] == 10 and histogram["correct"]["tokens"] == 4
    assert histogram["wrong"]["share"][0] == histogram["wrong"]["at_low"] == pytest.approx(0.3)
    assert histogram["wrong"]["share"][-1] == histogram["wrong"]["at_high"] == pytest.approx(0.1)
    assert sum(histogram["wrong"]["share"]) == pytest.approx(1)
    assert found["metrics"] == {"steps": [1, 3], "values": {"weight_mean": [1.5, None], "other": [None, 2.0]}}
    # Sorted distances to 1 end with 3 and 4, of 14 tokens: the quantile is at place 12.74 of 0 to 13.
    assert found["mean"] == 1.0 and found["spread"] == pytest.approx(3.8)
    json.dumps(found, allow_nan=False)


def test_without_a_reward_the_advantage_tells_and_without_bounds_nothing_is_clipped():
    found = of(*(response(1, [1.0, 1.1, 1.2, 1.3], reward=None, advantage=value) for value in (0.5, 0.0, -0.5, np.inf)),
               bounds=None)  # fmt: skip
    assert found["responses"]["correct"] == 1 and found["responses"]["without_reward"] == 4
    assert found["bounds"] is None and found["histogram"]["wrong"]["at_low"] is None
    assert "not clipped" in figures(found)[1].caption


def test_a_weighted_response_without_an_answer_counts_to_its_end():
    """As by a score that is not about an answer."""
    found = of(response(1, [0.5, 1.0, 1.5, 2.0], answer=None), response(2, [0.5] * 4, answer=None, weighted=False))
    assert found["responses"]["weighted"] == 1 and found["position"]["wrong"]["responses"] == 1
    assert found["histogram"]["wrong"]["tokens"] == 7
    assert found["heatmap"]["wrong"]["steps"] == [1]
    thirds = [found["thirds"]["wrong"][third]["mean"][0] for third in ("first", "middle", "last")]
    assert thirds == pytest.approx([
        (0.5 + 1.0 + 1.5 / 3) / (7 / 3), (2 / 3 * 1.5 + 2.0 + 2 / 3 * 1.0) / (7 / 3), (1.0 / 3 + 5.0 + 1.0) / (7 / 3)
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("score", "name"), [("surprise", "surprise"), (["entropy", "surprise"], "entropy × surprise")]
)
def test_the_page_calls_the_score_by_its_name(tmp_path, score, name):
    report_records.write_run(tmp_path, steps=[1], config=GrailConfig(score=score, weights="proportional"))
    found = records.read(tmp_path)
    drawn = numbers(found)
    html = page(found, drawn, []).decode()
    assert f"were weighted by the {name} of their tokens." in html and "saliency" not in html
    (channel,) = (one for one in data_of(html)["channels"] if one["key"] == "score")
    assert channel["name"].startswith(name)
    shown = data_of(html)["responses"]
    assert shown[0]["score"] == pytest.approx(found.responses[0]["score"], rel=5e-3)
    assert [one["score"] is None for one in shown] == [one["score"][0] is None for one in found.responses]


def test_rounding_in_the_records_hides_no_token_at_a_bound():
    assert of(response(1, [1 / 3, 1.0, 2.0, 3.0]), bounds=(1 / 3, 5.0))["histogram"]["wrong"]["at_low"] == 0.25


weights_of_tokens = st.lists(st.one_of(st.floats(0, 10), st.just(float("nan"))), min_size=1, max_size=40)


@given(weights_of_tokens, st.sampled_from([1, 3, 20]))
def test_a_part_holds_tokens_by_their_overlap(weights, bins):
    for part, mean in enumerate(bin_means(np.array(weights), bins)):
        overlaps = [
            (max(Fraction(0), min(Fraction(part + 1, bins), Fraction(token + 1, len(weights)))
                 - max(Fraction(part, bins), Fraction(token, len(weights)))), weight)
            for token, weight in enumerate(weights) if weight == weight
        ]  # fmt: skip
        total = float(sum(overlap for overlap, _ in overlaps))
        if total:
            assert mean == pytest.approx(sum(float(overlap) * weight for overlap, weight in overlaps) / total)
        else:
            assert np.isnan(mean)


@given(st.integers(1, 4).flatmap(
    lambda width: st.lists(st.lists(st.one_of(st.floats(-5, 5), st.just(float("nan"))), min_size=width, max_size=width),
                           min_size=1, max_size=8)))  # fmt: skip
def test_means_and_errors_are_those_of_the_rows_that_have_a_value(values):
    means, errors = mean_and_error(np.array(values))
    for column, mean, error in zip(zip(*values), means, errors):
        known = [value for value in column if value == value]
        assert mean == pytest.approx(stdlib.mean(known) if known else float("nan"), nan_ok=True, abs=1e-9)
        expected = stdlib.stdev(known) / len(known) ** 0.5 if len(known) > 1 else float("nan")
        assert error == pytest.approx(expected, nan_ok=True, abs=1e-9)


def test_the_pass_rate_is_that_of_whole_batches_where_training_wrote_it():
    """Else of the responses that are here: one of three, none of four."""
    told = of(*RUN, metrics={1: {"weight_mean": 1.5, "pass_rate": 0.25}, 2: {"pass_rate": 0.5}})
    assert told["pass_rate"] == {"steps": [1, 2], "rate": [0.25, 0.5], "of": "all responses of a step"}
    assert told["metrics"]["values"] == {"weight_mean": [1.5, None]}  # it is drawn once
    here = of(*RUN)["pass_rate"]
    assert here["steps"] == [1, 3] and here["rate"] == pytest.approx([1 / 3, 0])
    unknown = of(response(1, [1.0] * 4, reward=None, advantage=None), response(2, [1.0] * 4))["pass_rate"]
    assert unknown["steps"] == [2]


def by_two(*pairs, weighted=True) -> records.Records:
    """Responses with the four weights before the answer that each of two rules gives."""
    settings = records.rule_settings(GrailConfig(), (0.5, 5.0), "grail")
    second = records.rule_settings(report_records.SURPRISE, (0.0, float("inf")), "surprise")
    behind = {"score": [0.0] * 7, "weighted": weighted}
    lines = [
        response(1, one, row=row, second={**behind, "weight": [*other, 0.0, 0.0, 0.0]})
        for row, (one, other) in enumerate(pairs)
    ]
    return records.Records({"version": "1", **settings, "second": second}, lines, {})


def test_two_rules_are_compared_by_their_ranks():
    # Ranks 1 2 3 4 and 2 1 3 4 (Spearman 1 - 6·2 / (4·15) = 0.8; the top fifth of four is one token, the last of both);
    # 1 2 3 4 and 4 3 2 1 (-1, 0); all the same by one (no correlation; each of four is a quarter of the one token).
    found = numbers(by_two(
        ([0.5, 1.0, 1.5, 2.0], [0.2, 0.1, 0.3, 9.0]), ([0.5, 1.0, 1.5, 2.0], [4.0, 3.0, 2.0, 1.0]),
        ([1.0] * 4, [0.2, 0.1, 0.3, 9.0]),
    ))  # fmt: skip
    agreement = found["agreement"]
    assert agreement["rules"] == ["grail", "surprise"] and agreement["responses"] == 3
    assert agreement["rank_correlation"] == pytest.approx({"mean": -0.1, "standard_error": 0.9})
    mean = (1 + 0 + 0.25) / 3
    error = stdlib.stdev([1, 0, 0.25]) / 3**0.5
    assert agreement["top_in_common"] == pytest.approx({"mean": mean, "standard_error": error})
    wrong = found["second"]["position"]["wrong"]
    assert wrong["mean"][0] == pytest.approx((0.2 + 4.0 + 0.2) / 3) and found["second"]["bounds"] is None
    names = [drawing.name for drawing in figures(found)]
    assert names == ["position", "second-position", "histogram", "second-histogram"]
    nobody = numbers(by_two(([1.0, 2.0, 3.0, 4.0],) * 2, weighted=False))["agreement"]
    assert nobody["responses"] == 0 and nobody["rank_correlation"]["mean"] is None
    json.dumps(found, allow_nan=False)


def test_the_page_of_two_rules_says_how_far_they_agree():
    found = by_two(([0.5, 1.0, 1.5, 2.0], [0.2, 0.1, 0.3, 9.0]), ([0.5, 1.0, 1.5, 2.0], [4.0, 3.0, 2.0, 1.0]))
    html = page(found, numbers(found), []).decode()
    assert "have a rank correlation of -0.10 ± 0.90" in html and "50% ± 50% are in common" in html
    assert "<th scope=\"row\">score</th><td>saliency</td><td>surprise</td>" in html
    data = data_of(html)
    assert data["rules"] == ["grail", "surprise"]
    assert [one["agreement"] for one in data["responses"]] == [[0.8, 1], [-1, 0]]
    assert data["responses"][0]["second"]["weight"] == [0.2, 0.1, 0.3, 9, 0, 0, 0]
    # Over their means 1.25 and 2.4 (or 2.5): of eight differences 0.98 of them are below the second largest by 0.86.
    differences = [abs(one / 1.25 - other / mean) for mean, others in ((2.4, [0.2, 0.1, 0.3, 9.0]), (2.5, [4, 3, 2, 1]))
                   for one, other in zip([0.5, 1.0, 1.5, 2.0], others)]  # fmt: skip
    expected = np.quantile(differences, 0.98)
    reach = {one["key"]: (one["middle"], one["reach"]) for one in data["channels"]}
    assert reach["difference"] == (0, pytest.approx(expected, rel=0.05)) and reach["score"] == (None, None)


def test_each_channel_has_a_scale():
    """Of tokens before answers that the policy wrote: of 1 … 4 the 0.98 quantile is at place 2.94 of 0 to 3."""
    settings = {"version": "1", **records.rule_settings(GrailConfig(), (0.5, 5.0))}
    values = [1.0, 2.0, 3.0, 4.0, 9.0, 9.0, 9.0]
    lines = [
        response(1, [1.0] * 4, channels={"surprise": values, "ratio": [1.0, 0.5, 1.5, 1.0, 9, 9, 9], "hop 0": values}),
        response(1, [1.0] * 4, mask=[0] * 4 + [1] * 3, channels={"surprise": [99.0] * 7}),
    ]
    found = records.Records(settings, lines, {})
    scales = {one.key: (one.middle, one.reach) for one in channels(found, numbers(found))}
    assert scales == {
        "weight": (1.0, 1.0), "score": (None, None), "surprise": (None, 3.9), "ratio": (1.0, 0.5),
        "hop 0": (None, None),
    }  # fmt: skip


def test_strips_of_a_figure_lie_over_its_steps():
    (drawing,) = (one for one in figures(of(*RUN)) if one.name == "pass-rate")
    one, three = drawing.strips
    assert [(strip.first, strip.last, strip.said) for strip in (one, three)] == [(1, 1, "33%"), (3, 3, "0%")]
    assert one.left + one.width == pytest.approx(three.left) and one.top == three.top
    assert one.left > 0 and three.left + three.width <= 1 and one.top + one.height < 1
    assert one.width == pytest.approx(three.width)  # parted at step 2, the middle
    image = matplotlib.image.imread(io.BytesIO(drawing.light))[..., :3]
    height, width, _ = image.shape
    dots = [
        np.argwhere(image[int(strip.top * height) : int((strip.top + strip.height) * height),
                          int(strip.left * width) + 3 : int((strip.left + strip.width) * width) - 3].max(axis=2) < 0.3)
        for strip in (one, three)
    ]  # fmt: skip
    assert all(len(dark) for dark in dots) and dots[0][:, 0].min() < dots[1][:, 0].max()  # higher up on the left
    many = of(*(response(step, [1.0] * 4) for step in range(1, 131)))
    strips = figures(many)[0].strips
    assert [(strip.first, strip.last) for strip in strips] == [(a, min(a + 2, 130)) for a in range(1, 131, 3)]


def painted(drawing):
    axes = Figure().subplots()
    drawing.paint(axes, LIGHT)
    return axes


def test_figures_draw_the_numbers():
    found = of(*RUN, *(response(5, [0.6, 0.8, 1.0, 1.6], reward=1.0, row=row) for row in range(2)),
               metrics={1: {"weight_mean": 1.5}, 3: {"weight_mean": None}, 5: {"weight_mean": 2.0}})  # fmt: skip
    drawn = {drawing.name: drawing for drawing in figures(found)}
    assert list(drawn) == [
        "pass-rate", "position", "histogram", "thirds-correct", "heatmap-correct", "thirds-wrong", "heatmap-wrong",
        "metric-weight_mean",
    ]  # fmt: skip

    axes = painted(drawn["position"])
    for place, outcome in enumerate(("correct", "wrong")):
        expected = np.array(found["position"][outcome]["mean"])
        error = np.array(found["position"][outcome]["standard_error"], dtype=float)
        np.testing.assert_allclose(axes.lines[place].get_xdata(), np.arange(0.025, 1, 0.05))
        np.testing.assert_allclose(axes.lines[place].get_ydata(), expected)
        band = axes.collections[place].get_paths()[0].vertices[:, 1]
        assert (band.min(), band.max()) == pytest.approx((min(expected - error), max(expected + error)))
    assert axes.lines[0].get_linestyle() != axes.lines[1].get_linestyle()
    assert "correct responses (3): from " in drawn["position"].summary

    axes = painted(drawn["histogram"])
    assert [line.get_xdata()[0] for line in axes.lines] == [0.5, 5.0]
    np.testing.assert_allclose(axes.patches[-1].get_data().values, found["histogram"]["wrong"]["share"])
    assert "Clipped at 0.5 and 5" in drawn["histogram"].caption
    assert "wrong 30.0% and 10.0%" in drawn["histogram"].summary

    axes = painted(drawn["thirds-wrong"])
    for line, third in zip(axes.lines, ("first", "middle", "last")):
        np.testing.assert_allclose(line.get_ydata(), found["thirds"]["wrong"][third]["mean"])

    (image,) = painted(drawn["heatmap-wrong"]).images
    np.testing.assert_allclose(image.get_array().T, found["heatmap"]["wrong"]["mean"])  # steps to the right
    assert image.origin == "lower" and image.norm.vcenter == found["mean"]
    assert image.norm.vmax - 1 == 1 - image.norm.vmin == 4
    assert "highest 5.00 at step 3, from 75% of the way on" in drawn["heatmap-wrong"].summary

    line = painted(drawn["metric-weight_mean"]).lines[0]
    assert line.get_xdata().tolist() == [1, 3, 5]
    np.testing.assert_array_equal(line.get_ydata(), [1.5, np.nan, 2.0])


@pytest.mark.parametrize("changes", [{"weighted": False}, {"weighted": False, "answer": None}, {"mask": [0] * 7}])
def test_without_a_weighted_token_there_is_no_figure_of_weights(changes):
    drawn = figures(of(response(1, [1.0] * 4, **changes), response(2, [1.0] * 4, **changes)))
    assert [drawing.name for drawing in drawn] == ["pass-rate"]


def contrast(one: str, other: str) -> float:
    """WCAG 2.2's contrast ratio of two #rrggbb."""

    def luminance(colour: str) -> float:
        channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted(map(luminance, (one, other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_colours_stand_out(theme):
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert min(contrast(theme.ink, getattr(theme, name)) for name in ("paper", "low", "middle", "high")) >= 4.5
    assert contrast(theme.muted, theme.paper) >= 4.5
    assert min(contrast(getattr(theme, name), theme.paper) for name in ("correct", "wrong", "control")) >= 3


def data_of(html: str) -> dict:
    (data,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', html, flags=re.DOTALL)
    return json.loads(data)


def test_a_page_takes_nothing_for_markup(tmp_path):
    hostile = '</script><script>alert(1)</script><!--"&'
    report_records.write_run(tmp_path, steps=[1], words=report_records.HOSTILE, prompt=hostile, metrics=False)
    found = records.read(tmp_path)
    found.settings["version"] = found.settings["options"]["score"] = hostile
    found.metrics[1] = {hostile: 1.0}
    found.responses[0]["tokens"][0] = "\ud800"  # half a character, which UTF-8 has not
    drawn = numbers(found)
    html = page(found, drawn, figures(drawn)[-1:]).decode()
    assert html.count("<script") == html.count("</script>") == 2
    assert "<!--" not in html and "alert(1)</script" not in html
    data = data_of(html)
    assert data["prompts"] == [hostile]
    found.responses[0]["tokens"][0] = "?"
    assert [one["tokens"] for one in data["responses"]] == [one["tokens"] for one in found.responses]


def test_a_page_holds_an_even_sample_where_all_would_be_too_much(tmp_path):
    report_records.write_run(tmp_path, steps=range(1, 9), rows=40, tokens=100, metrics=False)
    found = records.read(tmp_path)
    drawn = numbers(found)
    everything = data_of(page(found, drawn, []).decode())
    assert len(everything["responses"]) == 320 and len(everything["prompts"]) == 10

    limit = 300_000
    small = page(found, drawn, [], limit)
    assert 0.95 * limit < len(small) < limit
    shown = data_of(small.decode())["responses"]
    assert f"{len(shown)} of 320 responses are here" in small.decode()
    counts = Counter((one["step"], one["correct"]) for one in shown)
    assert len(counts) == 16 and max(counts.values()) - min(counts.values()) <= 1
    for step, correct in counts:  # from the whole of a step, not its first rows
        assert max(one["row"] for one in shown if (one["step"], one["correct"]) == (step, correct)) >= 16
    places = [(one["step"], one["rank"], one["row"]) for one in shown]
    assert places == sorted(places)

    tiny = page(found, drawn, [], len(page(found, drawn, [], 1)) + 20_000)
    few = data_of(tiny.decode())["responses"]
    assert 2 <= len(few) < 16 and {one["correct"] for one in few} == {True, False}
    assert max(Counter(one["step"] for one in few).values()) <= 2


def test_a_response_that_fits_no_page_is_left_out_and_said(tmp_path):
    """Not all those behind it, too."""
    report_records.write_run(tmp_path, steps=[1, 2], metrics=False)
    found = records.read(tmp_path)
    drawn = numbers(found)
    limit = len(page(found, drawn, []))
    for place in (0, 5):
        found.responses[place] = {**found.responses[place], "prompt": "w" * limit}
    large = [found.responses[place] for place in (0, 5)]
    small = page(found, drawn, [], limit)
    shown = data_of(small.decode())["responses"]
    assert len(small) < limit and len(shown) == len(found.responses) - 2
    first = f"the first of them step {large[0]['step']}, row {large[0]['row']}"
    assert f"2 would not fit by themselves, {first}, rank {large[0]['rank']}." in small.decode()
    alone = records.Records(found.settings, large[:1], {})
    html = page(alone, numbers(alone), [], limit).decode()
    assert data_of(html)["responses"] == []
    assert "The one response is left out: with it this page would not be under 0.08" in html
    found.responses[5] = found.responses[4]
    html = page(found, drawn, [], limit).decode()
    assert "31 of 32 responses are here" in html and f"1 would not fit by itself: step {large[0]['step']}, row " in html


def test_one_is_singular(tmp_path):
    record = response(3, [0.5, 1.0, 1.5, 2.0])
    found = records.Records({"version": "1", **records.rule_settings(GrailConfig(), (0.5, 5.0))}, [record], {})
    html = page(found, numbers(found), []).decode()
    assert "1 response of step 3: 0 correct, 1 wrong. 1 has an answer, 1 was weighted by the saliency of its" in html
    assert "The one response is here." in html
    (metric,) = figures(of(metrics={1: {"weight_mean": 1.0}}))
    assert metric.summary == "weight_mean over 1 step: from 1 to 1."


def test_the_command_writes_page_numbers_and_pictures(tmp_path, capsys):
    folder = report_records.write_run(tmp_path / "run", steps=[1, 2])
    main(["report", str(folder)])
    written = folder / "report"
    assert capsys.readouterr().out.strip() == str(written / "report.html")
    drawn = json.loads((written / "numbers.json").read_text())
    assert drawn == numbers(records.read(folder))
    names = {drawing.name for drawing in figures(drawn)}
    assert {path.stem for path in written.glob("*.png")} == names
    for name in names:
        assert matplotlib.image.imread(written / f"{name}.png").std() > 0.01  # not a blank
    html = (written / "report.html").read_bytes()
    assert len(html) < 10_000_000 and html.count(b"<figure>") == len(names)
    assert b'<img src="data:' in html and not re.findall(rb'(?:src|href)="(?!data:|#)', html)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: None, "holds no records of responses and their weights"),
        (lambda folder: folder.mkdir(), "holds no records of responses and their weights"),
        (
            lambda folder: records.Writer(folder).write_settings(GrailConfig(), (0.5, 5.0)),
            "holds settings but no responses yet",
        ),
    ],
)
def test_a_folder_without_records_ends_the_command(make, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "run")
    with pytest.raises(SystemExit, match=f"grail-verl report: run {says}"):
        main(["report", "run"])
    assert not (tmp_path / "run" / "report").exists()


def changed(path, **values) -> str:
    """The file's first line with other values."""
    return json.dumps({**json.loads(path.read_text().splitlines()[0]), **values})


def test_a_run_is_watched(tmp_path, capsys, monkeypatch):
    """Before it has written anything, while it does, and while nothing changes."""
    folder, waited, drawn = tmp_path / "run", [], []

    def grow(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 1:
            report_records.write_run(folder, steps=[1], metrics=False)
        elif len(waited) == 2:
            drawn.append((folder / "report" / "report.html").stat().st_mtime_ns)
        elif len(waited) == 3:
            drawn.append((folder / "report" / "report.html").stat().st_mtime_ns)
            raise KeyboardInterrupt

    clock = iter([0.0, 0.0, 1.0, 6.0])  # drawing takes 5 s
    monkeypatch.setattr(watch, "__defaults__", (grow,))
    monkeypatch.setitem(watch.__globals__, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    main(["report", str(folder), "--watch"])
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith(f"waiting: {folder} holds no records") and said[1:] == [f"{folder}/report/report.html"]
    assert drawn[0] == drawn[1]  # nothing had changed
    assert waited == [10, 50, 10]  # a tenth of the time goes to drawing
    html = (folder / "report" / "report.html").read_text()
    assert data_of(html)["watched"] and "Load this page again every 30 seconds" in html
    assert not list((folder / "report").glob("*.new"))


def test_a_watched_folder_may_vanish_and_come_back(tmp_path, capsys, monkeypatch):
    """Also while it is looked at: a file is gone between its name and its size."""
    folder, looked = report_records.write_run(tmp_path / "run", steps=[1], metrics=False), []
    real = Path.is_file

    def vanishing(path) -> bool:
        found = real(path)
        if looked and folder.exists():
            folder.rename(tmp_path / "away")
        return found

    def change(seconds: float) -> None:
        looked.append(seconds)
        if len(looked) == 3:
            (tmp_path / "away").rename(folder)
            monkeypatch.setattr(Path, "is_file", real)
        elif len(looked) == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "is_file", vanishing)
    monkeypatch.setattr(watch, "__defaults__", (change,))
    main(["report", str(folder), "--watch"])
    said = capsys.readouterr().out.splitlines()
    written = f"{folder}/report/report.html"
    assert said[0] == said[2] == written and said[1].startswith(f"waiting: {folder} holds no records") and not said[3:]


LINES = {
    "a channel that is short": lambda path: changed(path, row=99, channels={"surprise": [1.0]}),
    "channels of another kind": lambda path: changed(path, row=99, channels=[1.0]),
    "a second rule that settings do not name": lambda path: changed(
        path, row=99, tokens=["a"], mask=[1], score=[1], weight=[1], answer=None, channels={},
        second={"score": [1], "weight": [1], "weighted": True},
    ),
    "a list": lambda path: "[1, 2]",
    "a number": lambda path: "3",
    "of another kind": lambda path: '{"step": 1, "row": 1, "prompt": "", "tokens": []}',
    "a step in words": lambda path: changed(path, row=99, step="one"),
    "as many weights as tokens": lambda path: changed(path, row=99, weight=[1.0]),
    "a weight that is none": lambda path: changed(path, row=99, weight=float("nan"), tokens=["a"]),
    "no finite reward": lambda path: changed(path, row=99, reward=float("nan")),
    "an endless number": lambda path: changed(path, row=99, reward=10**400),
    "tokens of no text": lambda path: changed(path, row=99, tokens=[1], mask=[1], score=[1], weight=[1], answer=None),
    "an answer behind the end": lambda path: changed(
        path, row=99, answer={"start": 0, "end": 10**6, "content_start": 1, "content_end": 2}
    ),
    "twice": changed,
}


@pytest.mark.parametrize("name", LINES)
def test_a_line_that_is_no_record_is_named(name, tmp_path):
    folder = report_records.write_run(tmp_path / "run", steps=[1])
    path = folder / "responses-0.jsonl"
    number = len(path.read_text().splitlines()) + 1
    line = LINES[name](path)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(SystemExit) as end:
        main(["report", str(folder)])
    assert str(end.value).startswith(f"grail-verl report: {path}, line {number}: ")


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("metrics.jsonl", '{"step": 7, "metrics": {"weight_mean": "wide"}}\n', "metrics.jsonl, line 1: JSON, but no"),
        ("settings.json", "[]", "settings.json is another kind of JSON"),
        (
            "settings.json",
            '{"version": "1", "options": {"score": "a", "mean": 1}, "bounds": null, "second": {"name": "b"}}',
            "settings.json is another kind of JSON",
        ),
        ("settings.json", '{"version": "1", "options": {}, "bounds": null}', "settings.json is another kind of JSON"),
    ],
)
def test_metrics_and_settings_that_are_none_are_named(file, text, says, tmp_path):
    folder = report_records.write_run(tmp_path / "run", steps=[1])
    (folder / file).write_text(text)
    with pytest.raises(SystemExit) as end:
        main(["report", str(folder)])
    assert str(end.value).startswith("grail-verl report: ") and says in str(end.value)


def test_files_of_other_names_are_left_alone(tmp_path, capsys):
    folder = report_records.write_run(tmp_path / "run", steps=[1])
    before = records.read(folder)
    for name in ("responses-old.jsonl", "responses-0.backup.jsonl", "responses-00.jsonl", "responses-.jsonl"):
        (folder / name).write_text((folder / "responses-0.jsonl").read_text())
    assert records.read(folder) == before
    main(["report", str(folder)])
    (folder / "responses-1.jsonl").unlink(missing_ok=True)
    (folder / "responses-1.jsonl").mkdir()
    with pytest.raises(SystemExit, match="^grail-verl report: .*Is a directory.*responses-1.jsonl"):
        main(["report", str(folder)])


def test_a_report_that_cannot_be_written_ends_the_command(tmp_path):
    folder = report_records.write_run(tmp_path / "run", steps=[1])
    (folder / "report").write_text("a file")
    with pytest.raises(SystemExit, match="^grail-verl report: .*File exists"):
        main(["report", str(folder)])
