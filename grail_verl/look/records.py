"""The weights as data: a folder of JSON lines, written while a policy trains or after the fact, and its reader.

Beside the data's way: worker.py writes what it made of a step's responses, attribute.py what it makes of any text, and
report/ reads either. A folder holds

    settings.json             version of grail-verl, every option but dump_dir, where weights were clipped, or null, and
                              which run these are of: its trainer.default_local_dir, by which verl resumes it, or null;
                              of two rules beside each other both names, and options and bounds of the second
    responses-<rank>.jsonl    a response a line, see `response_record`
    metrics.jsonl             a step a line: {"step": 3, "metrics": {"weight_mean": 1.02, …}}; from training only

Lines are appended and flushed step by step, in the order of steps: a crash loses the step being written at most. A line
that was cut off is skipped, one that is JSON but no record refused; files of other names are left alone. A run that
resumes first drops what it writes again, of every rank. Nothing here imports torch or verl.
"""

import dataclasses
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path

from grail_verl.credit.answer import AnswerSpan
from grail_verl.credit.config import SECTION, GrailConfig

SETTINGS, RESPONSES, METRICS = "settings.json", "responses-{}.jsonl", "metrics.jsonl"
PASS_RATE = "pass_rate"  # of metrics: of the whole rollout batch, not of the responses written
OF_THE_POLICY = ("surprise", "entropy", "ratio")  # channels that are the same by any rule
DIGITS = 6  # significant ones of a score or weight: float32's, without the noise behind them
CHANNEL_DIGITS = 4  # of what is there to be looked at
BLOCK = 1 << 20  # bytes that are read at once from a file's end


def response_record(
    *,
    step: int,
    row: int,
    prompt: str,
    tokens: Sequence[str],
    mask: Sequence[int],
    score: Sequence[float] | None,
    weight: Sequence[float],
    advantage: float | None,
    answer: AnswerSpan | None,
    reward: float | None,
    weighted: bool,
    channels: Mapping[str, Sequence[float]] | None = None,
    second: Mapping | None = None,
) -> dict:
    """A response as its line holds it. Numbers that are not finite become None.

    Args:
        step: of training.
        row: its number among those that its rank writes of a step, or in the input.
        prompt: the text that the policy saw.
        tokens: texts of the T response tokens; joined, the response's text, special tokens as they are written.
        mask: (T,) response_mask.
        score: (T,), 0 behind the answer where it is about the answer; None where none was computed for the response.
        weight: (T,).
        advantage: the response's, before weighting; None where nobody told.
        answer: its tokens.
        reward: the response's score, before a KL penalty; None where nobody told.
        weighted: its tokens got weights from their scores.
        channels: what else is known of each token, name → (T,); left out where nothing is: "surprise", "entropy",
            "ratio" of its probability before the update to that of the rollout, a factor of the score by its name,
            "hop 0" … of saliency.
        second: another rule's "score", "weight", "weighted" and "channels", as above; those of the policy are above.
    """
    record = {
        "step": step,
        "row": row,
        "prompt": prompt,
        "tokens": list(tokens),
        "mask": [int(own) for own in mask],
        **_given(score, weight, weighted, channels),
        "advantage": _finite(advantage),
        "answer": None if answer is None else dataclasses.asdict(answer),
        "reward": _finite(reward),
    }
    if second is not None:
        record["second"] = _given(**second)
    return record


def _given(
    score: Sequence[float] | None,
    weight: Sequence[float],
    weighted: bool,
    channels: Mapping[str, Sequence[float]] | None = None,
) -> dict:
    """What a rule gave a response's tokens."""
    given = {
        "score": [None] * len(weight) if score is None else list(map(_rounded, score)),
        "weight": list(map(_rounded, weight)),
        "weighted": weighted,
    }
    if channels:
        given["channels"] = {name: [_rounded(value, CHANNEL_DIGITS) for value in channels[name]] for name in channels}
    return given


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _rounded(value: float, digits: int = DIGITS) -> float | None:
    return _finite(float(f"{value:.{digits}g}"))


class Writer:
    """Appends to a folder, which is made.

    Args:
        folder: of the records.
        rank: whose responses these are.

    Raises:
        OSError: it cannot be written to; from every method, too.
    """

    def __init__(self, folder: str | Path, rank: int = 0):
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._responses = self._folder / RESPONSES.format(rank)
        _append(self._responses, [])

    def write_settings(
        self,
        config: GrailConfig,
        bounds: tuple[float, float],
        run: str | None = None,
        name: str | None = None,
        second: Mapping | None = None,
    ) -> None:
        """Replaces settings.json.

        Args:
            config, bounds, name: see `rule_settings`.
            run: trainer.default_local_dir; None outside of training.
            second: another rule's `rule_settings`.
        """
        settings = {"version": version("grail-verl"), "run": run, **rule_settings(config, bounds, name)}
        if second is not None:
            settings["second"] = dict(second)
        path = self._folder / SETTINGS
        whole = path.with_suffix(".new")
        whole.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        os.replace(whole, path)

    def add_responses(self, records: Iterable[Mapping]) -> None:
        """Adds what `response_record` gives."""
        _append(self._responses, records)

    def add_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Adds a step's metrics, by their names without `grail/`."""
        named = {name.removeprefix("grail/"): _finite(value) for name, value in metrics.items()}
        _append(self._folder / METRICS, [{"step": step, "metrics": named}])


def rule_settings(config: GrailConfig, bounds: tuple[float, float], name: str | None = None) -> dict:
    """What settings.json says of a rule; `bounds` as Weights have them, infinite where it has none; `name` as a user
    called it, if one did."""
    clipped = all(map(math.isfinite, bounds))
    named = {} if name is None else {"name": name}
    return {**named, "options": _options(config), "bounds": list(bounds) if clipped else None}


def _options(config: GrailConfig) -> dict:
    options = dataclasses.asdict(config)
    del options["dump_dir"]  # where the records lie can change, and a report may be for others to read
    del options["log_pictures"]  # changes nothing of them
    return options


def _append(path: Path, lines: Iterable[Mapping]) -> None:
    text = "".join(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n" for line in lines)
    with path.open("a+b") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                text = "\n" + text  # behind a line that was cut off
        file.write(text.encode(errors="replace"))


def refuse_others(config: GrailConfig, run: str) -> None:
    """Whether this run may write to dump_dir, which need not be there.

    Raises:
        ValueError: it holds records of another run, or made under other options; says what to do.
    """
    if (why := _of_another(Path(config.dump_dir), config, run)) is not None:
        allowed = "a new folder, or one with records of this run, made under the same options"
        raise ValueError(f"{SECTION}.dump_dir={config.dump_dir!r} {why}; allowed: {allowed}")


def _of_another(folder: Path, config: GrailConfig, run: str) -> str | None:
    if not (folder / SETTINGS).exists():
        bare = any(path.stat().st_size for path in _by_rank(folder).values())
        return f"holds responses without {SETTINGS}" if bare else None
    try:
        settings = _settings(folder)
    except ValueError as error:
        return f"cannot be told from another run's: {error}"
    if not _is_same_run(theirs := settings.get("run"), run):
        of = "made outside of training" if theirs is None else f"of a run with trainer.default_local_dir={theirs}"
        return f"holds records {of}, and this one has trainer.default_local_dir={run}"
    then = {**_options(GrailConfig()), **settings["options"]}  # a version that lacked an option did as by its default
    for name, value in _options(config).items():
        if name != "dump_responses" and (theirs := then[name]) != value:
            return f"holds records made with {SECTION}.{name}={theirs!r}, and this run has {value!r}"
    return None


def _is_same_run(theirs: object, ours: str | None) -> bool:
    """By the folder that each names, whatever its spelling: with a slash at the end, or from here on."""
    named = isinstance(theirs, str) and isinstance(ours, str)
    return theirs == ours or named and os.path.abspath(theirs) == os.path.abspath(ours)


def drop_from(folder: str | Path, step: int) -> bool:
    """Cuts off what lies at or behind a step, of every rank; doing so twice, or at once, does no harm.

    Returns:
        There was something.

    Raises:
        OSError: it cannot be written to.
        ValueError: a line is no record; names the file and the line.
    """
    folder, dropped = Path(folder), False
    kinds = {**dict.fromkeys(_by_rank(folder).values(), _is_response), folder / METRICS: _is_metrics}
    for path, fits in kinds.items():
        keep = 0
        for _, record, end in _lines(path, fits):
            if record["step"] >= step:
                os.truncate(path, keep)
                dropped = True
                break
            keep = end
    return dropped


@dataclass(frozen=True)
class Records:
    """What a folder holds.

    Attributes:
        settings: {"version", "run", "options", "bounds"}, and of two rules "name" and "second": {"name", "options",
            "bounds"}.
        responses: as `response_record` gives them, and the "rank" of each; in order of step, rank and row.
        metrics: step → name → value; empty if they were not made in training.
    """

    settings: dict
    responses: list[dict]
    metrics: dict[int, dict[str, float | None]]

    @cached_property
    def second(self) -> "Records | None":
        """The same responses as the second of two rules has them."""
        if "second" not in self.settings:
            return None
        settings = {name: value for name, value in self.settings.items() if name != "second"}
        responses = [{**response, "channels": {}, **response["second"]} for response in self.responses]
        return Records({**settings, **self.settings["second"]}, responses, {})


def read(folder: str | Path) -> Records:
    """The records of a folder.

    Raises:
        ValueError: it holds none, or a line is none or there twice; names the file and the line.
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    settings, responses, metrics = _settings(folder), {}, {}
    for rank, path in _by_rank(folder).items():
        for place, record, _ in _lines(path, _is_response):
            if ("second" in record) != ("second" in settings):
                raise ValueError(f"{place}: of another number of rules than {SETTINGS} names")
            _put(responses, (record["step"], rank, record["row"]), {**record, "rank": rank}, place)
    for place, line, _ in _lines(folder / METRICS, _is_metrics):
        _put(metrics, line["step"], line["metrics"], place)
    return Records(settings, [responses[key] for key in sorted(responses)], dict(sorted(metrics.items())))


def read_last(folder: str | Path) -> Records:
    """Of a folder's responses those of the last step alone, without metrics: as fast after a thousand steps.

    Raises:
        ValueError: it holds no settings, or a line is no record; names the file.
        OSError: a file cannot be read.
    """
    folder = Path(folder)
    settings = _settings(folder)
    responses = [{**record, "rank": rank} for rank, path in _by_rank(folder).items() for record in _of_last_step(path)]
    last = max((response["step"] for response in responses), default=None)
    responses = [response for response in responses if response["step"] == last]
    return Records(settings, sorted(responses, key=lambda one: (one["rank"], one["row"])), {})


def _of_last_step(path: Path) -> Iterator[dict]:
    step = None
    for line in _backwards(path):
        try:
            record = json.loads(line)
        except ValueError:  # cut off, or behind the last line's end
            continue
        if not _is_response(record):
            raise ValueError(f"{path}: a line that is JSON, but no record")
        if step not in (None, record["step"]):
            return
        step = record["step"]
        yield record


def _backwards(path: Path) -> Iterator[bytes]:
    """A file's lines, the last one first."""
    with path.open("rb") as file:
        place, rest = file.seek(0, os.SEEK_END), b""
        while place > 0:
            start = max(place - BLOCK, 0)
            file.seek(start)
            rest, *lines = (file.read(place - start) + rest).split(b"\n")
            yield from reversed(lines)
            place = start
        yield rest


def _put(found: dict, key: object, value: Mapping, place: str) -> None:
    if key in found:
        raise ValueError(f"{place}: the same step and row stand there twice")
    found[key] = value


def _by_rank(folder: Path) -> dict[int, Path]:
    named = {path: re.fullmatch(r"responses-(0|[1-9][0-9]*)\.jsonl", path.name) for path in folder.glob("*.jsonl")}
    return {int(name[1]): path for path, name in named.items() if name}


def _settings(folder: Path) -> dict:
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        if not _is_settings(settings):
            raise ValueError(f"{SETTINGS} is another kind of JSON")
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no records of responses and their weights: {error}") from error
    return settings


def _lines(path: Path, fits: Callable[[object], bool]) -> Iterator[tuple[str, dict, int]]:
    """Each line that was written whole: file and number, what it holds, where it ends in the file. Raises ValueError
    at one that is JSON but does not fit."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            end += len(line)
            try:
                record = json.loads(line)
            except ValueError:  # cut off
                continue
            if not fits(record):
                raise ValueError(f"{path}, line {number}: JSON, but no record")
            yield f"{path}, line {number}", record, end


def _is_settings(value: object) -> bool:
    match value:
        case {"version": str(), **rule}:
            second = rule.pop("second", None)
            return _is_rule(rule) and (second is None or all("name" in one and _is_rule(one) for one in (rule, second)))
    return False


def _is_rule(value: object) -> bool:
    match value:
        case {"options": {"score": str() | [*_], "mean": mean}, "bounds": None | [_, _] as bounds}:
            return _are_numbers([mean, *(bounds or [])]) and isinstance(value.get("name", ""), str)
    return False


def _is_response(value: object) -> bool:
    match value:
        case {
            "step": int(), "row": int(), "prompt": str(), "tokens": [*tokens], "mask": [*mask],
            "advantage": advantage, "answer": answer, "reward": reward,
        }:  # fmt: skip
            count, second = len(tokens), value.get("second")
            return (
                len(mask) == count
                and all(isinstance(token, str) for token in tokens)
                and all(own in (0, 1) for own in mask)
                and _are_numbers(each for each in (advantage, reward) if each is not None)
                and (answer is None or _is_span(answer, count))
                and _is_given(value, count)
                and (second is None or _is_given(second, count))
            )
    return False


def _is_given(value: object, count: int) -> bool:
    match value:
        case {"score": score, "weight": weight, "weighted": bool()}:
            channels = value.get("channels", {})
            return (
                _is_of_tokens(score, count)
                and _is_of_tokens(weight, count)
                and isinstance(channels, dict)
                and all(_is_of_tokens(channel, count) for channel in channels.values())
            )
    return False


def _is_of_tokens(value: object, count: int) -> bool:
    known = [each for each in value if each is not None] if isinstance(value, list) else None
    return known is not None and len(value) == count and _are_numbers(known)


def _is_span(value: object, count: int) -> bool:
    match value:
        case {"start": int(start), "end": int(end), "content_start": int(first), "content_end": int(last)}:
            return 0 <= start <= first <= last <= end <= count
    return False


def _is_metrics(value: object) -> bool:
    match value:
        case {"step": int(), "metrics": {**metrics}}:
            return _are_numbers(each for each in metrics.values() if each is not None)
    return False


def _are_numbers(values: Iterable) -> bool:
    """Finite ones."""
    return all(isinstance(each, int | float) and abs(each) <= sys.float_info.max for each in values)
