r"""The ground truths of a run's data files, checked before Ray starts.

In front of the data's way: *data files* → prompts → responses → reward. What is missing there is found within seconds
instead of in a step that trains on what is left. Every row must have a truth, text or a number. And from each the
grader should read something: from a page of prose it does not, and every answer to it would be graded 0. That is no
error, as such rows teach nothing and do no harm, but it is told. Of truths that differ in their digits alone one is
read, as a data set has a hundred thousand rows and few forms.
"""

import json
import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

from grail_verl.reward import truth_text
from grail_verl.reward.grader import are_read

SECONDS = 60.0  # for reading truths; a grading process reads some fifty a second
SHOWN = 3  # rows of each fault in a message


def check(files: list[str]) -> None:
    """Checks the column `reward_model.ground_truth` of the files that are here, and prints what it found.

    Args:
        files: parquet files, JSON lines or JSON, as verl's data.train_files and data.val_files name them. One that is
            not a local file is skipped, with a line that says so.

    Raises:
        ValueError: a truth is missing, or is neither text nor a number; with their number and the first rows.
    """
    places, rows, missing = {}, 0, []
    for file in dict.fromkeys(files):
        path = Path(file).expanduser()
        if not path.is_file():
            print(f"grail_verl.reward: {file} is no local file, its ground truths are not checked")
            continue
        for row, (truth, source) in enumerate(_rows(path)):
            rows += 1
            try:
                places.setdefault(truth_text(truth, source), f"{file} row {row}")
            except ValueError as error:
                missing.append(f"{file} row {row}: {error}")
    if missing:
        raise ValueError(
            f"{len(missing)} of {rows} rows of data.train_files and data.val_files have no ground truth to grade by "
            "(reward.custom_reward_function.path=pkg://grail_verl.reward needs text or a number in "
            "reward_model.ground_truth):\n  " + "\n  ".join(missing[:SHOWN])
        )
    forms = {_form(truth): truth for truth in reversed(places)}
    order = list(forms)
    random.Random(0).shuffle(order)  # where time is up, a fair sample was read
    print(
        f"grail_verl.reward: {rows} ground truths are there, {len(places)} distinct ones of {len(forms)} forms; "
        f"reading one of each, for up to {SECONDS:.0f} s",
        flush=True,
    )
    started = time.monotonic()
    verdicts = dict(zip(order, are_read([forms[form] for form in order], SECONDS), strict=True))
    unread = [truth for truth in places if verdicts[_form(truth)] is False]
    looked_at = sum(verdict is not None for verdict in verdicts.values())
    print(
        f"grail_verl.reward: read {looked_at} of {len(forms)} forms in {time.monotonic() - started:.1f} s; nothing is "
        f"read from {len(unread)} distinct truths, of which only the same text is right"
        + "".join(f"\n  {places[truth]}: {truth[:100]!r}" for truth in unread[:SHOWN]),
        flush=True,
    )


def _form(truth: str) -> str:
    return re.sub("[0-9]", "1", truth)


def _rows(path: Path) -> Iterator[tuple]:
    """Ground truth and data source of each row; None where the file has none."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        names = pyarrow.parquet.read_schema(path).names
        table = pyarrow.parquet.read_table(path, columns=[n for n in ("reward_model", "data_source") if n in names])
        rows = table.to_pylist()
    else:
        text = path.read_text()
        is_list = text.lstrip().startswith("[")
        rows = json.loads(text) if is_list else [json.loads(line) for line in text.splitlines() if line.strip()]
    for row in rows:
        yield (row.get("reward_model") or {}).get("ground_truth"), row.get("data_source")
