"""The report as one page: figures, responses and numbers in a file that asks the network for nothing.

Last room: records → statistics → figures → *page*. page.html, page.css and page.js beside this file are the page; here
they are filled in. Whatever a policy or a user wrote is hostile: text in HTML is escaped, responses travel as JSON that
no parser of HTML takes for markup, page.js makes text nodes of them alone, and the page's own policy lets no other
script run and nothing be loaded.
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
from grail_verl.look.report.colours import DARK, LIGHT, Theme
from grail_verl.look.report.figures import Drawing
from grail_verl.look.report.statistics import is_correct

LIMIT = 10_000_000  # bytes of a page; mail and browsers take it


def page(records: Records, numbers: Mapping, drawings: Sequence[Drawing], limit: int = LIMIT) -> bytes:
    """The page's bytes, fewer than `limit`: where the responses are too many, it shows an even sample.

    Args:
        records: of the responses.
        numbers: of statistics.py, from these records.
        drawings: of these numbers.
        limit: holds as long as the figures alone are smaller.
    """
    style, script = (Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    style = Template(style).substitute(light=_properties(LIGHT), dark=_properties(DARK))
    metrics = [drawing for drawing in drawings if drawing.name.startswith("metric-")]
    score = records.settings["options"]["score"]
    score = score if isinstance(score, str) else " × ".join(score)
    parts = {
        "policy": "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src {_source(style)}; script-src {_source(script)}",
        "style": style,
        "script": script,
        "overview": "".join(f"<p>{escape(sentence)}</p>" for sentence in _overview(numbers, score)),
        "weights": _gallery([drawing for drawing in drawings if drawing not in metrics])
        or "<p>No response was weighted, so there are no weights to draw.</p>",
        "metrics": _gallery(metrics) or "<p>These records hold no metrics: they were not made in training.</p>",
        "settings": "".join(
            f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
            for name, value in _settings(records.settings).items()
        ),
        "low": f"{numbers['mean'] - numbers['spread']:.3g}",
        "mean": f"{numbers['mean']:.3g}",
        "high": f"{numbers['mean'] + numbers['spread']:.3g}",
    }
    template = Template(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    total = len(records.responses)

    def filled(data: Mapping, shown: int) -> bytes:
        said = f"All {total:,} responses are here."
        if shown < total:
            said = (
                f"{shown:,} of {total:,} responses are here, an even sample over steps and outcomes that keeps this "
                f"page under {limit / 1e6:g} MB. Figures and numbers are those of all."
            )
        return template.substitute(parts, shown=said, data=_json(data)).encode(errors="replace")

    data = {"mean": numbers["mean"], "spread": numbers["spread"], "score": score, "prompts": [], "responses": []}
    prompts, responses = _sample(records.responses, limit - len(filled(data, 0)) - 100)  # digits of `shown`
    return filled({**data, "prompts": prompts, "responses": responses}, len(responses))


def _overview(numbers: Mapping, score: str) -> list[str]:
    of = numbers["responses"]
    steps = f"step {of['first_step']}"
    if of["steps"] > 1:
        steps = f"{of['steps']:,} steps, {of['first_step']} to {of['last_step']}"
    sentences = [
        f"{of['total']:,} responses of {steps}: {of['correct']:,} correct, {of['wrong']:,} wrong. "
        f"{of['with_answer']:,} have an answer, {of['weighted']:,} were weighted by the {score} of their tokens."
    ]
    if of["weighted"] < of["total"]:
        sentences.append("The others keep weight 1 before the answer, and are in no figure of weights.")
    if of["without_reward"]:
        sentences.append(
            f"{of['without_reward']:,} came without a reward: correct is there what has an advantage above 0, "
            "elsewhere what has a reward above 0."
        )
    else:
        sentences.append("Correct is a response with a reward above 0.")
    return sentences


def _settings(settings: Mapping) -> dict:
    bounds = settings["bounds"]
    return {
        "version of grail-verl": settings["version"],
        **settings["options"],
        "clipping bounds": "none" if bounds is None else f"{bounds[0]:g} to {bounds[1]:g}",
    }


def _gallery(drawings: Sequence[Drawing]) -> str:
    return "".join(
        f'<figure><picture><source media="(prefers-color-scheme: dark)" srcset="{_image(drawing.dark)}">'
        f'<img src="{_image(drawing.light)}" alt="{escape(drawing.summary)}" width="{drawing.size[0] * 100:.0f}" '
        f'height="{drawing.size[1] * 100:.0f}"></picture>'
        + (f"<figcaption>{escape(drawing.caption)}</figcaption>" if drawing.caption else "")
        + "</figure>"
        for drawing in drawings
    )


def _image(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _properties(theme: Theme) -> str:
    return " ".join(f"--{name}: {value};" for name, value in dataclasses.asdict(theme).items())


def _source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _sample(responses: Sequence[Mapping], room: int) -> tuple[list[str], list[dict]]:
    """Prompts, each once, and as many responses as fit into `room` bytes of JSON with them, in their order."""
    prompts, chosen = {}, {}
    for index in _evenly(responses):
        prompt = responses[index]["prompt"]
        response = _compact(responses[index], prompts.get(prompt, len(prompts)))
        room -= _size(response) + (0 if prompt in prompts else _size(prompt))
        if room < 0:
            break
        prompts.setdefault(prompt, len(prompts))
        chosen[index] = response
    return list(prompts), [chosen[index] for index in sorted(chosen)]


def _size(value: object) -> int:
    return len(_json(value).encode(errors="replace")) + 1  # its comma


def _compact(response: Mapping, prompt: int) -> dict:
    """What page.js reads: numbers to the digits that it shows, lists that say nothing as null."""
    score, mask, answer = response["score"], response["mask"], response["answer"]
    return {
        **{name: response[name] for name in ("step", "rank", "row", "reward", "weighted", "tokens")},
        "prompt": prompt,
        "correct": is_correct(response),
        "advantage": _digits(response["advantage"], 4),
        "answer": answer and [answer[name] for name in ("start", "content_start", "content_end", "end")],
        "weight": [_digits(value, 4) for value in response["weight"]],
        "score": None if all(value is None for value in score) else [_digits(value, 3) for value in score],
        "mask": None if all(mask) else mask,
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
