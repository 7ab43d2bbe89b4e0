"""`algorithm.grail.dump_dir`: the records hold what the hook made of a batch, of as many responses as asked for."""

import dataclasses
import math
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import harness
import pytest
import ranks
import test_matrix
import tiny
import torch
from harness import Case
from hypothesis import given
from hypothesis import strategies as st
from tensordict import NonTensorData, NonTensorStack

from grail_verl.credit.answer import AnswerLocator
from grail_verl.hook.claim import Claim
from grail_verl.hook.dump import spread, with_siblings
from grail_verl.look import records

OFF = Case("tied", "fsdp2")
ULYSSES = test_matrix.CASES["Ulysses, fsdp2"]
RIGHT = 7 / 15  # of them; eight have a reward, one of which wrote nothing
DUMPED = 5  # of the 15 responses with a token that both ranks have


def into(case: Case, folder, count: int = DUMPED) -> Case:
    return dataclasses.replace(case, options={**case.options, "dump_dir": str(folder), "dump_responses": count})


def rollout(rank: int):
    """With what verl's trainers hand over beside harness.rollout: rewards, here 1 of every second response."""
    data = harness.rollout(rank)
    rewards = [torch.zeros(len(row)) for row in data["responses"].unbind()]
    for row in rewards[::2]:
        if len(row):
            row[-1] = 1.0
    data["rm_scores"] = torch.nested.as_nested_tensor(rewards, layout=torch.jagged)
    names = ["shared" if row in (2, 3) else f"of rank {rank}, {row}" for row in range(len(rewards))]
    data["uid"] = NonTensorStack(*map(NonTensorData, names))
    for name, change in (("rollout_log_probs", -0.25), ("entropy", 4.0)):
        rows = [row + change for row in data["old_log_probs"].unbind()]
        data[name] = torch.nested.as_nested_tensor(rows, layout=torch.jagged)
    return data


def session(rank: int, folders: dict, folder: str) -> list[dict]:
    """Two updates: what the hook made of each batch, and its metrics."""
    from verl.utils import tensordict_utils as tu

    worker = into(OFF, folder).actor(folders, "grail")
    seen = []
    for _ in range(2):
        data = rollout(rank)
        output = worker.train_mini_batch(data)
        seen.append(
            {
                "advantages": [row.tolist() for row in data["advantages"].unbind()],
                "metrics": {name: value for name, value in tu.get(output, "metrics").items() if "grail" in name},
            }
        )
    return seen


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict:
    paths = {name: str(tmp_path_factory.mktemp(name)) for name in ("tied", "untied")}
    for name, path in paths.items():
        tiny.save_policy(path, tied=name == "tied")
    return paths


@pytest.fixture(scope="module")
def dumped(folders, tmp_path_factory) -> tuple[records.Records, list[list[dict]], Path]:
    folder = tmp_path_factory.mktemp("run") / "not there" / "records"
    seen = ranks.on_ranks(session, 2, folders, str(folder))
    return records.read(folder), seen, folder


def source(record: dict) -> int:
    """The row of its rank's batch that a record is of: no two have the same response."""
    texts = [pair[record["rank"]] for pair in harness.TEXTS]
    return texts.index("".join(record["tokens"]))


def test_so_many_responses_a_step_over_all_ranks(dumped):
    found, _, _ = dumped
    assert Counter(response["step"] for response in found.responses) == {1: DUMPED, 2: DUMPED}
    assert {response["rank"] for response in found.responses} == {0, 1}
    for step in (1, 2):
        advantages = [response["advantage"] for response in found.responses if response["step"] == step]
        assert min(advantages) < 0 < max(advantages)


def test_weights_and_advantages_are_those_of_the_update(dumped):
    found, seen, _ = dumped
    compared = 0
    for record in found.responses:
        row, data = source(record), rollout(record["rank"])
        before = data["advantages"][row].tolist()
        after = seen[record["rank"]][record["step"] - 1]["advantages"][row]
        assert record["advantage"] == harness.ADVANTAGES[row][record["rank"]]
        assert record["mask"] == data["response_mask"][row].tolist()
        assert record["reward"] == float(row % 2 == 0)
        for weight, was, became in zip(record["weight"], before, after, strict=True):
            assert weight * was == pytest.approx(became, rel=1e-5)
            compared += was != became
    assert compared > 10  # it did weigh something


def test_saliency_is_the_plain_models_where_a_pass_was_run(dumped, folders):
    """Of the first step: the second is of an updated policy."""
    from grail_verl import answer_saliency

    found, _, _ = dumped
    model, locator, compared = harness.plain_model(folders["tied"]), AnswerLocator(tiny.tokenizer()), 0
    for record in found.responses:
        row, data = source(record), rollout(record["rank"])
        prompt, response = data["prompts"][row], data["responses"][row]
        assert record["prompt"] == tiny.tokenizer().decode(prompt)
        span = locator.locate(response.tolist(), data["response_mask"][row].tolist())
        assert record["answer"] == (None if span is None else dataclasses.asdict(span))
        assert record["weighted"] == (span is not None and record["advantage"] < 0)
        if not record["weighted"]:
            assert record["score"] == [None] * len(response)
        elif record["step"] == 1:
            answer = torch.zeros(1, len(response), dtype=torch.bool)
            answer[0, span.start : span.end] = True
            ids = torch.cat([prompt, response])[None]
            scores = answer_saliency(model, ids, torch.ones_like(ids), len(response), answer, temperature=0.8)
            assert record["score"] == pytest.approx(scores[0].tolist(), rel=1e-4, abs=1e-6)
            compared += 1
    assert compared > 1


def test_what_verl_knows_of_a_token_is_there(dumped):
    """Surprise, entropy, and the ratio to the rollout's own probability: e^0.25 throughout, as it was put in."""
    for record in dumped[0].responses:
        data, row = rollout(record["rank"]), source(record)
        own = data["response_mask"][row].tolist()
        old = data["old_log_probs"][row].tolist()
        expected = {
            "surprise": [-value for value in old],
            "ratio": [math.exp(0.25)] * len(old),
            "entropy": [value + 4 for value in old],
        }
        assert record["channels"].keys() == expected.keys()
        for name, values in expected.items():
            for found, value, mine in zip(record["channels"][name], values, own, strict=True):
                assert found == (pytest.approx(value, rel=1e-3) if mine else None)


def test_metrics_and_options_are_there_once(dumped):
    found, seen, _ = dumped
    assert list(found.metrics) == [1, 2]
    for step, metrics in found.metrics.items():
        # Every second response is right, of eight on each rank; of the empty one, a wrong one, nothing is counted.
        assert metrics["pass_rate"] == pytest.approx(RIGHT)
        logged = {f"grail/{name}": value for name, value in metrics.items() if name != "pass_rate"}
        assert logged == seen[0][step - 1]["metrics"]
    assert found.settings["options"]["std"] == 1.0 and found.settings["bounds"] == [0.0, 50.0]


def full_disk(rank: int, folders: dict, case: Case, folder: str, full: int) -> str:
    """For one rank, from the second update on: the file behind the link takes nothing."""
    if case.setup is not None:
        case.setup()
    worker = into(case, folder).actor(folders, "grail")
    worker.train_mini_batch(rollout(rank // case.sequence_parallel))
    if rank == full:
        file = Path(folder) / f"responses-{rank}.jsonl"
        file.unlink()
        file.symlink_to("/dev/full")
    try:
        worker.train_mini_batch(rollout(rank // case.sequence_parallel))
    except (OSError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


@pytest.mark.parametrize("name", ["ranks", "Ulysses"])
def test_a_full_disk_ends_every_rank(folders, tmp_path, name):
    """Of a Ulysses group one writes, the first; the process that holds the ranks' store goes with it."""
    case, full = (OFF, 1) if name == "ranks" else (ULYSSES, 0)
    results = ranks.on_ranks(full_disk, 2, folders, case, str(tmp_path), full)
    own, other = results[full], results[1 - full]
    reason = f"OSError: algorithm.grail.dump_dir='{tmp_path}' cannot be written: [Errno 28] No space left on device"
    assert own == reason
    assert other.startswith(f"RuntimeError: GRAIL's saliency pass failed on rank {full}")
    assert reason in other or "rank 0, which is gone" in other
    if name == "Ulysses":
        assert sorted(path.name for path in tmp_path.glob("responses*")) == ["responses-0.jsonl"]


def one_update(rank: int, folders: dict, folder: str, run: str | None, step: int) -> str:
    """Of a run with one rank that dumps two responses and whose checkpoint is of the step before."""
    run = [] if run is None else [f"trainer.default_local_dir={run}"]
    try:
        worker = dataclasses.replace(into(OFF, folder, 2), overrides=run).actor(folders, "grail")
        worker.engine.lr_scheduler.last_epoch = step - 1  # what verl's checkpoint brings back
        worker.train_mini_batch(rollout(rank))
    except (OSError, ValueError) as error:
        return str(error)
    return "well"


def resumed_without_its_step(folders: dict, folder: str) -> str:
    contents = "actor_rollout_ref.actor.checkpoint.load_contents=[model,optimizer]"
    worker = dataclasses.replace(into(OFF, folder), overrides=[contents]).actor(folders, "grail")
    try:
        worker.load_checkpoint("global_step_1/actor")
    except ValueError as error:
        return str(error)
    return "well"


def alone(rank: int, folders: dict, runs: dict[str, tuple]) -> tuple[list[str], list[str]]:
    """How an update into each folder ended; then what is opened for writing without one."""
    ended = [one_update(rank, folders, folder, *run) for folder, run in runs.items()]
    ended.append(resumed_without_its_step(folders, next(iter(runs))))
    worker, written = OFF.actor(folders, "grail"), []

    def note(event: str, arguments: tuple) -> None:
        if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(str(arguments[0]))

    sys.addaudithook(note)
    worker.reweight_advantages(rollout(rank))
    return ended, written


def test_a_folder_is_one_runs_and_without_one_nothing_is_written(dumped, folders, tmp_path):
    """Of two ranks, two steps and five responses: begun anew, or resumed, by one rank that writes two."""
    before, _, folder = dumped
    places = {name: tmp_path / name for name in ("anew", "resumed", "other", "at once")}
    for place in places.values():
        shutil.copytree(folder, place)
    runs = dict.fromkeys(places, (None, 1)) | {"resumed": (None, 2), "other": ("elsewhere", 1)}
    runs = {str(places[name]): run for name, run in runs.items()} | {"/proc/records": (None, 1)}
    theirs = Claim(places["at once"], "another job's", rank=0)
    (((*well, other, at_once, not_made, stepless), written),) = ranks.on_ranks(alone, 1, folders, runs)
    del theirs
    assert well == ["well", "well"] and written == []
    assert "holds records of a run with trainer.default_local_dir=" in other
    cannot = f"algorithm.grail.dump_dir='{places['at once']}' cannot be written: "
    assert at_once == f"{cannot}another run is writing there"
    assert stepless.startswith("actor_rollout_ref.actor.checkpoint.load_contents=['model', 'optimizer'] is not allowed")
    # As if root could make it.
    assert not_made.startswith("algorithm.grail.dump_dir='/proc/records' cannot be written: ")

    found = {name: records.read(place) for name, place in places.items()}
    for name in ("other", "at once"):  # as they were
        assert found[name].responses == before.responses and found[name].metrics == before.metrics
    assert [(one["step"], one["rank"], one["row"]) for one in found["anew"].responses] == [(1, 0, 0), (1, 0, 1)]
    assert list(found["anew"].metrics) == [1] and list(found["resumed"].metrics) == [1, 2]
    earlier = [one for one in before.responses if one["step"] == 1]
    assert found["resumed"].responses[: len(earlier)] == earlier
    later = found["resumed"].responses[len(earlier) :]
    assert [(one["step"], one["rank"], one["row"]) for one in later] == [(2, 0, 0), (2, 0, 1)]


def test_siblings_are_found_on_whatever_rank(dumped):
    """Of the one prompt that has several responses the lowest advantage is rank 0's, the highest rank 1's."""
    for step in (1, 2):
        places = {(one["rank"], source(one)) for one in dumped[0].responses if one["step"] == step}
        assert {(0, 2), (1, 2)} <= places


families = st.lists(st.tuples(st.sampled_from([-1.0, 0.5]), st.booleans(), st.sampled_from("abcd")), max_size=20)


@given(families, st.integers(0, 25), st.integers(0, 9))
def test_right_and_wrong_of_one_prompt_are_chosen_together(rows, count, turn):
    advantages, real, groups = ([row[kind] for row in rows] for kind in range(3))
    chosen = with_siblings(advantages, real, groups, count, turn)
    assert chosen == sorted(set(chosen)) and all(real[row] for row in chosen)
    assert len(chosen) == min(count, sum(real))
    both = {group for group in groups if len({advantages[row] for row in range(len(rows))
                                              if real[row] and groups[row] == group}) == 2}  # fmt: skip
    complete = {group for group in both if len({advantages[row] for row in chosen if groups[row] == group}) == 2}
    assert len(complete) >= min(len(both), count // 4)


rows = st.lists(st.tuples(st.sampled_from([-1.0, -0.5, 0.0, 0.5, 1.0]), st.booleans()), max_size=20)


@given(rows, st.integers(0, 25), st.integers(0, 9))
def test_the_rows_chosen_are_a_spread(rows, count, turn):
    advantages, real = [row[0] for row in rows], [row[1] for row in rows]
    chosen = spread(advantages, real, count, turn)
    assert chosen == sorted(set(chosen)) and all(real[row] for row in chosen)
    assert len(chosen) == min(count, sum(real))
    of_all = [advantage for advantage, counts in rows if counts]
    if len(chosen) > 1:
        of_chosen = [advantages[row] for row in chosen]
        assert (min(of_chosen), max(of_chosen)) == (min(of_all), max(of_all))
    elif chosen:
        assert advantages[chosen[0]] == (max if turn % 2 and len(of_all) > 1 else min)(of_all)
