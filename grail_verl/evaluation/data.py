r"""The published problems as verl reads them: hub or local file → verl's parquet.

    grail-verl data deepmath --out outputs/data
    grail-verl data math500 --out outputs/data --source MATH-500/test.jsonl

Before the data's way through the package, which begins with a response: a prompt here, a ground truth for the
reward there. Every file has the same columns and types, so that verl can join several (data.val_files).

- A prompt is the question as published, and `SUFFIX`; `official_prompt` (for data.prompt_key) ends as what the
  published code gives its policy, whose string is not raw: a backspace and `oxed{}`.
- A ground truth is the text that belongs between the braces of `\boxed{}`: bare LaTeX, without `$`.
- Rows without question or answer, or with an image, go to NAME.unusable.jsonl instead, and are reported.
- The number of rows must be the published one; --rows permits another.
- The paper evaluates 200 problems each of college_math and olympiadbench and does not say which. Here it is 200 of
  the n usable rows at equal distances, k * n // 200 for k = 0 to 199, as the first 200 of a file in the order of
  its competitions (OlympiadBench) are one kind of problem. A file of 200 rows is taken as it is.

Files are .parquet, .jsonl or .json (a list, or one object per line), the forms in which these sets are published; a
folder's are read in the order of their names.
"""

import argparse
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from grail_verl.command import CommandError, mendable
from grail_verl.credit.answer import complete_boxes
from grail_verl.printable import printable

SUFFIX = r" Please reason step by step, and put your final answer within \boxed{}."
OFFICIAL_SUFFIX = SUFFIX.replace(r"\b", "\b")
QUESTION = ("question", "problem")
IMAGES = ("images", *(f"image_{number}" for number in range(1, 10)))

MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
SCHEMA = pa.schema(
    {
        "data_source": pa.string(),
        "prompt": MESSAGES,
        "official_prompt": MESSAGES,
        "reward_model": pa.struct({"style": pa.string(), "ground_truth": pa.string()}),
        "extra_info": pa.struct(
            {"index": pa.int64(), "split": pa.string(), "subject": pa.string(), "level": pa.string()}
        ),
    }
)

_DOLLAR = re.compile(r"(?<!\\)\$")
_IMAGE_MARK = re.compile(r"<(image|img)_\d+>")


class UnusableRow(ValueError):
    """A row that can be neither trained on nor graded; says why."""


def whole_number(text: str) -> str:
    """033 → 33 and 27.0 → 27, the answers of AIME and AMC; other text as it is."""
    match = re.fullmatch(r"([+-]?\d+)(\.0*)?", text)
    return str(int(match[1])) if match else text


def from_python(text: str) -> str:
    r"""4.5e33 → 4.5 \times 10^{33} and np.arcsin(x) → \arcsin(x): Minerva's answers are Python in places, where
    math-verify takes the e for Euler's number."""
    return re.sub(r"^([+-]?\d*\.?\d+)e\+?(-?\d+)$", r"\1 \\times 10^{\2}", text).replace("np.", "\\")


@dataclass(frozen=True)
class Source:
    """Where a data set is published, and how.

    Attributes:
        hub: its name on the Hugging Face hub, with `config`, `revision` (None: the newest) and `split`.
        rows: the numbers of rows it is published with.
        answer: columns of the answer; the first that is there counts. In `solution` it is the last box.
        subject, level: columns that become extra_info's, where there are any.
        quirk: what is done to an answer's text, beside taking the `$` away.
        evaluated: how many of the rows the paper evaluates, if not all.
    """

    hub: str
    split: str
    revision: str | None
    rows: tuple[int, ...]
    config: str | None = None
    answer: tuple[str, ...] = ("answer",)
    subject: str = ""
    level: str = ""
    quirk: Callable[[str], str] = str
    evaluated: int | None = None


SOURCES = {
    "deepmath": Source(
        "zwhe99/DeepMath-103K", "train", "5cf055d1fe3d7a2eb19719ac020211469736ae44", (103_022,),
        answer=("final_answer",), subject="topic", level="difficulty",
    ),
    "math500": Source(
        "HuggingFaceH4/MATH-500", "test", "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be", (500,),
        subject="subject", level="level",
    ),
    "aime24": Source(
        "HuggingFaceH4/aime_2024", "train", "2fe88a2f1091d5048c0f36abc874fb997b3dd99a", (30,),
        answer=("answer", "solution"), quirk=whole_number,
    ),
    "amc23": Source(
        "math-ai/amc23", "test", "80815d37005feb82cd7f8fbc6901d5d3eff43057", (40,), quirk=whole_number
    ),
    "minerva_math": Source(
        "math-ai/minervamath", "test", "ee46ddc498933b1977577953250ca5c66be64f96", (272,),
        answer=("answer", "solution"), subject="type", quirk=from_python,
    ),
    "college_math": Source(  # a copy of MWPBench's test file
        "di-zhang-fdu/College_Math_Test", "test", None, (2818,), subject="data_topic", evaluated=200
    ),
    "olympiadbench": Source(
        "Hothan/OlympiadBench", "train", "91184b52131e7fc9455fef848035173aea8cc01a", (674, 675),
        config="OE_TO_maths_en_COMP", answer=("final_answer", "answer"), subject="subfield", evaluated=200,
    ),
}  # fmt: skip


def prepare(name: str, out: Path, path: Path | None = None, rows: int | None = None) -> list[str]:
    """Writes OUT/NAME.parquet, and OUT/NAME.unusable.jsonl where there are unusable rows; all of it or nothing.

    Args:
        name: one of SOURCES.
        out: folder to write to; made if it is not there.
        path: file or folder to read; None for the hub.
        rows: how many rows the source has, where that is not a published number; all of them are then used.

    Returns:
        What there is to report, a sentence a line.

    Raises:
        CommandError: the source cannot be read, lacks a column, has another number of rows, or no usable one.
        OSError: the output cannot be written.
    """
    source, where = SOURCES[name], str(path or SOURCES[name].hub)
    wanted = {*QUESTION, *source.answer, *IMAGES, "context", source.subject, source.level}
    columns, table = _from_hub(source, wanted) if path is None else _from_files(path, wanted)
    if not table:
        raise CommandError(f"{where} has no rows")
    question, answer = (_first(names, columns, where) for names in (QUESTION, source.answer))
    _check_count(name, where, len(table), rows)

    problems, unusable = [], []
    for index, row in enumerate(tqdm(table, name, unit=" rows", delay=1, disable=None)):  # None: on a terminal only
        try:
            problems.append(_problem(name, index, row, question, answer))
        except UnusableRow as reason:
            unusable.append(
                {"index": index, "reason": str(reason), "question": row.get(question), "answer": row.get(answer)}
            )
    if not problems:
        raise CommandError(f"{where} has no usable row: {_some(unusable)}")

    report, usable = [], len(problems)
    if rows is None and len(table) in source.rows and source.evaluated:
        size = min(source.evaluated, usable)
        problems = [problems[k * usable // size] for k in range(size)]
        report.append(f"{name}: {size} of {usable} usable rows are taken, at equal distances")
    repeated = len(problems) - len({problem["prompt"][0]["content"] for problem in problems})
    written, apart = _write(name, out, problems, unusable)
    report.append(f"{name}: {len(problems)} problems in {written}")
    if unusable:
        report.append(f"{name}: {len(unusable)} of {len(table)} rows are unusable, kept in {apart}: {_some(unusable)}")
    if repeated:
        report.append(f"{name}: {repeated} of the problems repeat an earlier question (they are kept)")
    return report


def _problem(name: str, index: int, row: dict, question: str, answer: str) -> dict:
    source, text = SOURCES[name], row.get(question)
    if not isinstance(text, str) or not text.strip():
        raise UnusableRow(f"no {question}")
    context = row.get("context")
    if isinstance(context, str) and context.strip():
        text = f"{context}\n{text}"
    if _IMAGE_MARK.search(text) or any(_is_image(row.get(column)) for column in IMAGES):
        raise UnusableRow("needs an image")
    truth = _last_box(row.get(answer)) if answer == "solution" else _plain(row.get(answer))
    if not truth:
        raise UnusableRow(f"no {answer}")
    return {
        "data_source": name,
        "prompt": [{"role": "user", "content": text + SUFFIX}],
        "official_prompt": [{"role": "user", "content": text + OFFICIAL_SUFFIX}],
        "reward_model": {"style": "rule", "ground_truth": source.quirk(truth)},
        "extra_info": {
            "index": index,
            "split": source.split,
            "subject": _plain(row.get(source.subject)) or None,
            "level": _plain(row.get(source.level)) or None,
        },
    }


def _plain(value: object) -> str:
    """A value as text: 27.0 is 27, ["$2$", "$3$"] is 2, 3, and None or NaN nothing.

    Raises:
        UnusableRow: it is neither text nor a number, nor a list of them.
    """
    if value is None or value != value:
        return ""
    if isinstance(value, list):
        return ", ".join(filter(None, map(_plain, value)))
    if not isinstance(value, str | int | float):
        raise UnusableRow(f"a {type(value).__name__} where text or a number was expected")
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        value = int(value)
    text = str(value)
    if len(_DOLLAR.findall(text)) % 2 == 0:  # a single one is a currency
        text = _DOLLAR.sub("", text)
    return text.strip()


def _last_box(solution: object) -> str:
    text = solution.encode() if isinstance(solution, str) else b""
    boxes = complete_boxes(text)
    if not boxes:
        raise UnusableRow(r"no complete \boxed{} in solution")
    _, left, right = max(boxes)
    return _plain(text[left + 1 : right].decode())


def _is_image(value: object) -> bool:
    return any(value.values()) if isinstance(value, dict) else bool(value)


def _check_count(name: str, where: str, count: int, rows: int | None) -> None:
    source = SOURCES[name]
    if rows is not None and count != rows:
        raise CommandError(f"{where} has {count:,} rows, --rows says {rows:,}")
    if rows is None and count not in (*source.rows, source.evaluated):
        expected = " or ".join(f"{number:,}" for number in source.rows)
        subset = f" (or the {source.evaluated} evaluated)" if source.evaluated else ""
        raise CommandError(
            f"{where} has {count:,} rows, {name} is published with {expected}{subset}; is it complete? "
            f"For a file of your own of this size: --rows {count}"
        )


def _first(names: tuple[str, ...], columns: list[str], where: str) -> str:
    for name in names:
        if name in columns:
            return name
    raise CommandError(f"{where} has no column {' or '.join(names)}; it has {', '.join(columns)}")


def _some(unusable: list[dict], limit: int = 5) -> str:
    told = "; ".join(f"row {row['index']}: {row['reason']}" for row in unusable[:limit])
    return told + (f"; and {len(unusable) - limit} more" if len(unusable) > limit else "")


def _from_hub(source: Source, wanted: set[str]) -> tuple[list[str], list[dict]]:
    from datasets import load_dataset  # a second and more, which local files need not wait for

    try:
        table = load_dataset(source.hub, source.config, split=source.split, revision=source.revision)
    except (OSError, ValueError) as error:
        raise CommandError(
            f"{source.hub} cannot be loaded from the hub: {error}; a copy on this machine is read with --source"
        ) from error
    columns = table.column_names
    return columns, table.select_columns([column for column in columns if column in wanted]).to_list()


def _from_files(path: Path, wanted: set[str]) -> tuple[list[str], list[dict]]:
    """All columns that there are, and the rows with the wanted ones."""
    if not path.exists():
        raise CommandError(f"{path} does not exist")
    files = [path]
    if path.is_dir():  # what is hidden below it belongs to git or to a download's cache
        below = sorted(path.rglob("*"))
        files = [file for file in below if file.suffix in READERS and "/." not in f"/{file.relative_to(path)}"]
    kinds = {file.suffix for file in files}
    if len(kinds) != 1 or not kinds <= READERS.keys():
        found = ", ".join(sorted(kinds)) or "none"
        raise CommandError(f"{path} must be, or hold, files of one of the kinds {', '.join(READERS)}; found: {found}")
    columns, table = {}, []
    for file in files:
        names, rows = READERS[file.suffix](file, wanted)
        columns |= dict.fromkeys(names)
        table += rows
    return list(columns), table


def _read_parquet(file: Path, wanted: set[str]) -> tuple[list[str], list[dict]]:
    try:
        content = pq.ParquetFile(file)
        names = content.schema_arrow.names
        return names, content.read([name for name in names if name in wanted]).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise CommandError(f"{file} is no complete parquet file: {error}") from error


def _read_json(file: Path, wanted: set[str]) -> tuple[list[str], list[dict]]:
    names, rows = {}, []
    try:
        with file.open(encoding="utf-8-sig") as lines:
            for row in _objects(lines):
                names |= dict.fromkeys(row)
                rows.append({name: row[name] for name in wanted & row.keys()})
    except ValueError as error:  # not JSON, not UTF-8
        raise CommandError(f"{file} is not one JSON object per line, nor a list of them: {error}") from error
    return list(names), rows


def _objects(lines: TextIO) -> Iterator[dict]:
    """By hand, as pyarrow and pandas read numbers and dates into answers, and do not say which line is broken."""
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            is_list = number == 1 and line.lstrip().startswith("[")
            for row in json.loads(line + lines.read()) if is_list else [json.loads(line)]:
                if not isinstance(row, dict):
                    raise ValueError(f"a {type(row).__name__} where an object was expected")
                yield row
        except ValueError as error:
            raise ValueError(str(error) if is_list else f"line {number}: {error}") from error


READERS = {".parquet": _read_parquet, ".jsonl": _read_json, ".json": _read_json}


def _write(name: str, out: Path, problems: list[dict], unusable: list[dict]) -> tuple[Path, Path]:
    out.mkdir(parents=True, exist_ok=True)
    written, apart = out / f"{name}.parquet", out / f"{name}.unusable.jsonl"
    # Complete in a folder beside them first: whatever ends this before, the files of an earlier run stay.
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=out) as folder:
        new = Path(folder, written.name)
        pq.write_table(pa.Table.from_pylist(problems, SCHEMA), new)
        if unusable:
            lines = Path(folder, apart.name)
            lines.write_text("".join(json.dumps(row, default=str) + "\n" for row in unusable), encoding="utf-8")
            os.replace(lines, apart)
        else:
            apart.unlink(missing_ok=True)
        os.replace(new, written)
    return written, apart


def _published() -> str:
    lines = ["published as:"]
    for name, source in SOURCES.items():
        rows = " or ".join(f"{number:,}" for number in source.rows)
        lines.append(f"  {name:14} {source.hub}{f', {source.config}' if source.config else ''}, {source.split}")
        lines.append(f"  {'':14} {rows} rows; {' or '.join(QUESTION)}; {' or '.join(source.answer)}")
    return "\n".join(lines)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.epilog = __doc__, _published()
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("name", choices=SOURCES, metavar="NAME", help=", ".join(SOURCES))
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for NAME.parquet")
    parser.add_argument("--source", type=Path, metavar="PATH", help="local file or folder; without it, the hub")
    parser.add_argument(
        "--rows", type=int, metavar="N",
        help="the source has N rows, not the published number; all of them are used (no selection of 200)",
    )  # fmt: skip


def run(options: argparse.Namespace) -> None:
    """Raises CommandError: see `prepare`."""
    with mendable(OSError):
        report = prepare(options.name, options.out, options.source, options.rows)
    print(printable("\n".join(report)))
