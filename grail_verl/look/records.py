"""The weights as data: a folder of JSON lines, written while a policy trains or after the fact, and its reader.

Beside the data's way: worker.py writes what it made of a step's responses, attribute.py what it makes of any text, and
report/ reads either. A folder holds

    settings.json             version of grail-verl, every option but dump_dir, where weights were clipped, or null, and
                              which run these are of: its trainer.default_local_dir, by which verl resumes it, or null
    responses-<rank>.jsonl    a response a line, see `response_record`
    metrics.jsonl             a step a line: {"step": 3, "metrics": {"weight_mean": 1.02, …}}; from training only

Lines are appended and flushed step by step, in the order of steps: a crash loses the step being written at most. A line
that was cut off is skipped. A run that resumes first drops what it writes again, of every rank. Nothing here imports
torch or verl.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from grail_verl.credit.answer import AnswerSpan
from grail_verl.credit.config import SECTION, GrailConfig

SETTINGS, RESPONSES, METRICS = "settings.json", "responses-{}.jsonl", "metrics.jsonl"
DIGITS = 6  # significant ones of a score or weight: float32's, without the noise behind them


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
    """
    return {
        "step": step,
        "row": row,
        "prompt": prompt,
        "tokens": list(tokens),
        "mask": [int(own) for own in mask],
        "score": [None] * len(tokens) if score is None else list(map(_rounded, score)),
        "weight": list(map(_rounded, weight)),
        "advantage": _finite(advantage),
        "answer": None if answer is None else dataclasses.asdict(answer),
        "reward": _finite(reward),
        "weighted": weighted,
    }


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value


def _rounded(value: float) -> float | None:
    return _finite(float(f"{value:.{DIGITS}g}"))


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

    def write_settings(self, config: GrailConfig, bounds: tuple[float, float], run: str | None = None) -> None:
        """Replaces settings.json; `bounds` as Weights have them, infinite where it has none; `run` None outside of
        training."""
        settings = {
            "version": version("grail-verl"),
            "run": run,
            "options": _options(config),
            "bounds": list(bounds) if all(map(math.isfinite, bounds)) else None,
        }
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


def _options(config: GrailConfig) -> dict:
    options = dataclasses.asdict(config)
    del options["dump_dir"]  # where the records lie can change, and a report may be for others to read
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
        bare = any(path.stat().st_size for path in folder.glob(RESPONSES.format("*")))
        return f"holds responses without {SETTINGS}" if bare else None
    try:
        settings = _settings(folder)
    except ValueError as error:
        return f"cannot be told from another run's: {error}"
    if (theirs := settings.get("run")) != run:
        of = "made outside of training" if theirs is None else f"of a run with trainer.default_local_dir={theirs}"
        return f"holds records {of}, and this one has trainer.default_local_dir={run}"
    for name, value in _options(config).items():
        if name != "dump_responses" and (theirs := settings["options"].get(name)) != value:
            return f"holds records made with {SECTION}.{name}={theirs!r}, and this run has {value!r}"
    return None


def drop_from(folder: str | Path, step: int) -> bool:
    """Cuts off what lies at or behind a step, of every rank; doing so twice, or at once, does no harm.

    Returns:
        There was something.

    Raises:
        OSError: it cannot be written to.
    """
    dropped = False
    for path in (*Path(folder).glob(RESPONSES.format("*")), Path(folder) / METRICS):
        keep = 0
        for record, end in _lines(path):
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
        settings: {"version", "run", "options", "bounds"}.
        responses: as `response_record` gives them, and the "rank" of each; in order of step, rank and row.
        metrics: step → name → value; empty if they were not made in training.
    """

    settings: dict
    responses: list[dict]
    metrics: dict[int, dict[str, float | None]]


def read(folder: str | Path) -> Records:
    """The records of a folder.

    Raises:
        ValueError: it holds none.
    """
    folder = Path(folder)
    settings = _settings(folder)
    responses = {}
    for path in folder.glob(RESPONSES.format("*")):
        rank = int(path.stem.rpartition("-")[-1])
        for record, _ in _lines(path):
            responses[record["step"], rank, record["row"]] = {**record, "rank": rank}
    metrics = {line["step"]: line["metrics"] for line, _ in _lines(folder / METRICS)}
    return Records(settings, [responses[key] for key in sorted(responses)], dict(sorted(metrics.items())))


def _settings(folder: Path) -> dict:
    try:
        return json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder} holds no records of responses and their weights: {error}") from error


def _lines(path: Path) -> Iterator[tuple[dict, int]]:
    """Each line, and where it ends in the file."""
    if not path.exists():
        return
    end = 0
    with path.open("rb") as file:
        for line in file:
            end += len(line)
            try:
                yield json.loads(line), end
            except ValueError:  # cut off
                continue
