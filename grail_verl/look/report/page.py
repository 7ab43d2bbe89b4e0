"""The report as one page: figures, responses and numbers in a file that asks the network for nothing.

Last room: records → statistics → figures → *page*. page.html, page.css and the files of script/ beside this one are the
page; here they are filled in and put together. Whatever a policy or a user wrote is hostile: text in HTML is escaped,
responses travel as JSON that no parser of HTML takes for markup, the script makes text nodes of them alone, and the
page's own policy lets no other script run and nothing be loaded.
"""

import base64
import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template

from grail_verl.look.records import Records
from grail_verl.look.report.channels import channels, score_name
from grail_verl.look.report.colours import DARK, LIGHT, Theme
from grail_verl.look.report.figures import Drawing
from grail_verl.look.report.statistics import agreement_of, is_correct
from grail_verl.look.words import counted

LIMIT = 10_000_000  # bytes of a page; mail and browsers take it
RELOAD = '<p><label><input type="checkbox" id="reload" checked> Load this page again every 30 seconds</label></p>'
BOX = {"x": "left", "y": "top", "width": "width", "height": "height"}  # SVG's names
SCRIPT = ("data", "channels", "cards", "siblings", "choice", "note", "links", "watch")


def page(
    records: Records, numbers: Mapping, drawings: Sequence[Drawing], limit: int = LIMIT, watched: bool = False
) -> bytes:
    """The page's bytes, fewer than `limit`: where the responses are too many, it shows an even sample; one that would
    not fit by itself is left out. The page says so.

    Args:
        records: of the responses.
        numbers: of statistics.py, from these records.
        drawings: of these numbers.
        limit: holds as long as the figures alone are smaller.
        watched: it is written anew while a run goes on, and loads itself again.
    """
    folder = Path(__file__).parent
    style = Template((folder / "page.css").read_text(encoding="utf-8")).substitute(
        light=_properties(LIGHT), dark=_properties(DARK)
    )
    script = "\n".join((folder / "script" / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPT)
    metrics = [drawing for drawing in drawings if drawing.name.startswith("metric-")]
    passed = [drawing for drawing in drawings if drawing.name == "pass-rate"]
    of_weights = [drawing for drawing in drawings if drawing not in (*metrics, *passed)]
    # Of two rules each figure stands beside the other's, so nothing else comes between.
    weights = _gallery([*passed, *of_weights]) if records.second is None else _gallery(passed) + _gallery(of_weights)
    if not of_weights:
        weights += "<p>No response was weighted, so there are no weights to draw.</p>"
    parts = {
        "policy": "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_source(style)}; script-src {_source(script)}",
        "style": style,
        "script": script,
        "overview": "".join(f"<p>{escape(sentence)}</p>" for sentence in _overview(records, numbers)),
        "reload": RELOAD if watched else "",
        "weights": weights,
        "metrics": _gallery(metrics, "gallery small")
        or "<p>These records hold no metrics: they were not made in training.</p>",
        "settings": "".join(
            f'<tr><th scope="row">{escape(name)}</th>' + "".join(f"<td>{escape(value)}</td>" for value in values)
            + "</tr>"
            for name, values in _settings(records).items()
        ),
    }  # fmt: skip
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    total = len(records.responses)

    def filled(data: Mapping, shown: int, too_large: Sequence[Mapping] = ()) -> bytes:
        said = f"All {total:,} responses are here." if total > 1 else "The one response is here."
        if shown < total == 1:
            said = f"The one response is left out: with it this page would not be under {limit / 1e6:g} MB."
        elif shown < total:
            said = (
                f"{shown:,} of {total:,} responses are here, an even sample over steps and outcomes that keeps "
                f"this page under {limit / 1e6:g} MB.{_left_out(too_large)} Figures and numbers are those of all."
            )
        return template.substitute(parts, shown=said, data=_json(data)).encode(errors="replace")

    data = {
        "rules": None if records.second is None else numbers["agreement"]["rules"],
        "channels": [dataclasses.asdict(channel) for channel in channels(records, numbers)],
        "watched": watched,
        "prompts": [],
        "responses": [],
    }
    longest = filled(data, 0, records.responses[-2:])
    prompts, responses, too_large = _sample(records.responses, limit - len(longest) - 100)  # for digits of numbers
    return filled({**data, "prompts": prompts, "responses": responses}, len(responses), too_large)


def _left_out(too_large: Sequence[Mapping]) -> str:
    if not too_large:
        return ""
    step, row, rank = (too_large[0][name] for name in ("step", "row", "rank"))
    first = f"step {step}, row {row}, rank {rank}"
    if len(too_large) == 1:
        return f" 1 would not fit by itself: {first}."
    return f" {len(too_large):,} would not fit by themselves, the first of them {first}."


def _overview(records: Records, numbers: Mapping) -> list[str]:
    of, score = numbers["responses"], score_name(records.settings)
    steps = f"step {of['first_step']}"
    if of["steps"] > 1:
        steps = f"{of['steps']:,} steps, {of['first_step']} to {of['last_step']}"
    were, their = ("was", "its") if of["weighted"] == 1 else ("were", "their")
    sentences = [
        f"{counted(of['total'], 'response')} of {steps}: {of['correct']:,} correct, {of['wrong']:,} wrong. "
        f"{of['with_answer']:,} {'has' if of['with_answer'] == 1 else 'have'} an answer, "
        f"{of['weighted']:,} {were} weighted by the {score} of {their} tokens"
    ]
    if records.second is None:
        sentences[0] += "."
    else:
        first, second = numbers["agreement"]["rules"]
        sentences[0] += (
            f" ({first}), {numbers['second']['responses']['weighted']:,} by their {score_name(records.second.settings)}"
            f" ({second})."
        )
    if of["weighted"] < of["total"]:
        sentences.append("The others keep weight 1 before the answer, and are in no figure of weights.")
    if of["without_reward"]:
        sentences.append(
            f"{of['without_reward']:,} came without a reward: correct is there what has an advantage above 0, "
            "elsewhere what has a reward above 0."
        )
    else:
        sentences.append("Correct is a response with a reward above 0.")
    agreement = numbers.get("agreement")
    if agreement and agreement["responses"]:
        sentences.append(
            f"On the {counted(agreement['responses'], 'response')} that both weigh, the weights that the two rules "
            f"give before the answer have a rank correlation of {_with_error(agreement['rank_correlation'])}, and of "
            f"the fifth of the tokens with the largest {_with_error(agreement['top_in_common'], '.0%')} are in "
            "common (by chance 20%); means over responses ± standard error."
        )
    return sentences


def _with_error(of: Mapping, form: str = ".2f") -> str:
    mean, error = of["mean"], of["standard_error"]
    said = "unknown" if mean is None else f"{mean:{form}}"
    return said if error is None else f"{said} ± {error:{form}}"


def _settings(records: Records) -> dict[str, list[str]]:
    """Rows of a table, with a column for each rule."""
    both = [one.settings for one in (records, records.second) if one is not None]
    rows = {"version of grail-verl": [records.settings["version"]] * len(both)}
    if len(both) > 1:
        rows["rule"] = [settings["name"] for settings in both]
    for name in dict.fromkeys(name for settings in both for name in settings["options"]):
        rows[name] = [str(settings["options"].get(name)) for settings in both]
    bounds = [settings["bounds"] for settings in both]
    rows["clipping bounds"] = ["none" if one is None else f"{one[0]:g} to {one[1]:g}" for one in bounds]
    return rows


def _gallery(drawings: Sequence[Drawing], kind: str = "gallery") -> str:
    return f'<div class="{kind}">{"".join(map(_figure, drawings))}</div>' if drawings else ""


def _figure(drawing: Drawing) -> str:
    caption = f"<figcaption>{escape(drawing.caption)}</figcaption>" if drawing.caption else ""
    return (
        '<figure><div class="plot"><picture>'
        f'<source media="(prefers-color-scheme: dark)" srcset="{_image(drawing.dark)}">'
        f'<img src="{_image(drawing.light)}" alt="{escape(drawing.summary)}" width="{drawing.size[0] * 100:.0f}" '
        f'height="{drawing.size[1] * 100:.0f}"></picture>{_strips(drawing)}</div>{caption}</figure>'
    )


def _strips(drawing: Drawing) -> str:
    """Over a figure: a link from each step to its responses. Tab reaches the first, arrow keys the others."""
    links = []
    for place, strip in enumerate(drawing.strips):
        to = "" if strip.last == strip.first else f"-to-{strip.last}"
        said = f"Step {strip.first}{to.replace('-', ' ')}" + (f": {strip.said}" if strip.said else "")
        box = (f'{name}="{100 * getattr(strip, of):.2f}"' for name, of in BOX.items())
        links.append(
            f'<a href="#step-{strip.first}{to}" tabindex="{-1 if place else 0}"><title>{escape(said)}</title>'
            f"<rect {' '.join(box)}></rect></a>"
        )
    if not links:
        return ""
    label = escape(f"Steps of {drawing.title}, to their responses")
    return (
        f'<svg class="steps" viewBox="0 0 100 100" preserveAspectRatio="none" role="group" aria-label="{label}">'
        f"{''.join(links)}</svg>"
    )


def _image(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _properties(theme: Theme) -> str:
    return " ".join(f"--{name}: {value};" for name, value in dataclasses.asdict(theme).items())


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _sample(responses: Sequence[Mapping], room: int) -> tuple[list[str], list[dict], list[Mapping]]:
    """Prompts, each once, and as many responses as fit into `room` bytes of JSON with them, in their order; and those
    that alone would not, as far as they were looked at."""
    prompts, chosen, too_large, whole = {}, {}, [], room
    for index in _evenly(responses):
        prompt = responses[index]["prompt"]
        response = _compact(responses[index], prompts.get(prompt, len(prompts)))
        size = _size(response)
        if size + _size(prompt) > whole:
            too_large.append(responses[index])
            continue
        room -= size + (0 if prompt in prompts else _size(prompt))
        if room < 0:
            break
        prompts.setdefault(prompt, len(prompts))
        chosen[index] = response
    return list(prompts), [chosen[index] for index in sorted(chosen)], too_large


def _size(value: object) -> int:
    return len(_json(value).encode(errors="replace")) + 1  # its comma


def _compact(response: Mapping, prompt: int) -> dict:
    """What the script reads: numbers to the digits that it shows, lists that say nothing as null."""
    mask, answer = response["mask"], response["answer"]
    compact = {
        **{name: response[name] for name in ("step", "rank", "row", "reward", "tokens")},
        **_given(response),
        "prompt": prompt,
        "correct": is_correct(response),
        "advantage": _digits(response["advantage"], 4),
        "answer": answer and [answer[name] for name in ("start", "content_start", "content_end", "end")],
        "mask": None if all(mask) else mask,
    }
    if "second" in response:
        compact["second"] = _given(response["second"])
        compact["agreement"] = [_digits(value, 3) for value in agreement_of(response)]
    return compact


def _given(of: Mapping) -> dict:
    score = of["score"]
    return {
        "weighted": of["weighted"],
        "weight": [_digits(value, 4) for value in of["weight"]],
        "score": None if all(value is None for value in score) else [_digits(value, 3) for value in score],
        "channels": {name: [_digits(value, 3) for value in values] for name, values in of.get("channels", {}).items()},
    }


def _digits(value: float | None, digits: int) -> float | int | None:
    if value is None:
        return None
    value = float(f"{value:.{digits}g}")
    return int(value) if value.is_integer() and abs(value) < 1e6 else value


def _evenly(responses: Sequence[Mapping]) -> list[int]:
    """Every index, such that the first few are spread over steps, outcomes and rows as evenly as can be."""
    groups = {}
    for index, response in enumerate(responses):
        groups.setdefault(response["step"], {}).setdefault(is_correct(response), []).append(index)
    columns = [_spread(rows) for step in _spread(sorted(groups)) for rows in groups[step].values()]
    return [index for turn in itertools.zip_longest(*columns) for index in turn if index is not None]


def _spread(items: Sequence) -> list:
    """First, middle, quarters, eighths ...: van der Corput's order, by the bits of an item's place backwards."""
    return [items[place] for place in sorted(range(len(items)), key=lambda place: f"{place:032b}"[::-1])]
