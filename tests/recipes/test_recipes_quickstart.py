"""The quick start's problems, its policy's folder, and the reading of its metrics."""

import json
import random
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from grail_verl.credit.answer import AnswerLocator
from grail_verl.reward import compute_score
from recipes.quickstart import data, plot
from recipes.quickstart.policy import build_tokenizer, demonstrations, save_whole


def steps_of(solution):
    """[(left operand, operator, right operand, result)] of `3+4=7*2=4 \\boxed{4}`."""
    chain, _ = solution.split(" ")
    first, *parts = chain.split("=")
    operands = [first[0], *(part[0] for part in parts)]
    operations = [first[1:], *(part[1:] for part in parts[:-1])]
    return [(a, *op, b) for a, op, b in zip(operands, operations, operands[1:])]


def is_right(left, operator, right, result):
    return eval(f"({left}{operator}{right}) % 10") == int(result)


def test_worked_solution_is_right_and_ends_in_its_last_result():
    rng = random.Random(1)
    for _ in range(200):
        problem = data.draw_problem(rng)
        solution = data.work_out(problem)
        steps = steps_of(solution)
        assert problem == steps[0][0] + "".join(operator + right for _, operator, right, _ in steps)
        assert all(is_right(*step) for step in steps)
        assert solution.endswith(f" \\boxed{{{steps[-1][3]}}}")
        assert data.right_answer(problem) == steps[-1][3]


def test_known_problem():
    assert data.work_out("3+4*2-9+1") == "3+4=7*2=4-9=5+1=6 \\boxed{6}"


def test_planted_mistakes_have_their_share_and_carry_on():
    rng = random.Random(1)
    right = {"hard": [], "easy": []}
    for _ in range(1000):
        solution = data.work_out(data.draw_problem(rng), mistakes=rng)
        steps = steps_of(solution)
        for step in steps:
            right["hard" if step[1] == "*" and step[2] in "789" else "easy"].append(is_right(*step))
        assert solution.endswith(f"={steps[-1][3]} \\boxed{{{steps[-1][3]}}}")
    assert {kind: sum(r) / len(r) for kind, r in right.items()} == pytest.approx({"hard": 0.4, "easy": 0.8}, abs=0.05)


def test_training_and_validation_share_no_problem():
    rng = random.Random(0)
    training = {row[0]["content"] for row in data.rows(2000, rng)["prompt"]}
    validation = {row[0]["content"] for row in data.rows(200, rng, validation=True)["prompt"]}
    assert len(training) == 2000 and len(validation) == 200
    assert not training & validation
    assert not any(data.is_validation(problem) for problem in training)


def test_verl_reads_the_rows(tmp_path):
    from omegaconf import OmegaConf
    from verl.utils.dataset.rl_dataset import RLHFDataset

    data.rows(4, random.Random(0)).to_parquet(tmp_path / "rows.parquet")
    config = OmegaConf.create({"cache_dir": str(tmp_path), "max_prompt_length": 16})
    tokenizer = build_tokenizer()
    dataset = RLHFDataset(str(tmp_path / "rows.parquet"), tokenizer, config)
    assert [dataset[i]["index"] for i in range(len(dataset))] == [0, 1, 2, 3]
    row = dataset[2]
    problem = row["raw_prompt"][0]["content"]
    prompt = tokenizer.apply_chat_template(row["raw_prompt"], add_generation_prompt=True, tokenize=False)
    assert prompt == f"<|user|>{problem}<|assistant|>"
    assert compute_score("", data.work_out(problem), row["reward_model"]["ground_truth"])["score"] == 1.0
    other = (int(row["reward_model"]["ground_truth"]) + 1) % 10
    assert compute_score("", f"1+1=2 \\boxed{{{other}}}", row["reward_model"]["ground_truth"])["score"] == 0.0


def test_tokenizer_survives_saving_and_the_answer_is_found_in_its_tokens(tmp_path):
    from transformers import AutoTokenizer

    build_tokenizer().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    text = data.work_out("3+4*2-9+1")
    ids = tokenizer.encode(text + "<|im_end|>")
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert ids[-1] == tokenizer.eos_token_id != tokenizer.pad_token_id
    span = AnswerLocator(tokenizer).locate(ids)
    assert tokenizer.decode(ids[span.start : span.end]) == " \\boxed{6}"
    assert tokenizer.decode(ids[span.content_start : span.content_end]) == "6"


def test_demonstrations_do_not_imitate_the_problem():
    tokenizer = build_tokenizer()
    inputs, _, labels = demonstrations(tokenizer, random.Random(0))
    first = tokenizer.decode(inputs[0][labels[0] == -100])
    assert first.startswith("<|user|>") and first.endswith("<|assistant|>")
    assert tokenizer.decode(labels[0][labels[0] != -100]).endswith("}<|im_end|>")


def test_interrupted_save_leaves_no_folder(tmp_path):
    def first(folder):
        build_tokenizer().save_pretrained(folder)

    def second(folder):
        raise KeyboardInterrupt

    parts = [SimpleNamespace(save_pretrained=save) for save in (first, second)]
    with pytest.raises(KeyboardInterrupt):
        save_whole(tmp_path / "new" / "policy", *parts)
    assert list((tmp_path / "new").iterdir()) == []
    save_whole(tmp_path / "new" / "policy", parts[0])
    assert (tmp_path / "new" / "policy" / "tokenizer.json").exists()


def write_metrics(folder, start, entries, tail=""):
    (folder / "metrics").mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps({"step": step, "data": values}) + "\n" for step, values in entries)
    (folder / "metrics" / f"{start}.jsonl").write_text(lines + tail)


VALIDATION = "val-core/left_to_right_arithmetic/acc/mean@1"


def test_metrics_of_a_resumed_run_are_merged_by_step(tmp_path):
    before = [(0, {VALIDATION: 0.5}), *((step, {plot.SCORE: step / 10, "only": step}) for step in (1, 2, 3))]
    write_metrics(tmp_path, "20260101-000000", before, tail='{"step": 4, "da')
    write_metrics(tmp_path, "20260102-000000", [(2, {VALIDATION: 0.6}), (3, {plot.SCORE: 0.9})])
    steps = plot.read_metrics(tmp_path)
    assert steps == {
        0: {"validation": 0.5},
        1: {plot.SCORE: 0.1, "only": 1},
        2: {plot.SCORE: 0.2, "only": 2, "validation": 0.6},
        3: {plot.SCORE: 0.9, "only": 3},
    }
    assert plot.series(steps, "validation") == ([0, 2], [0.5, 0.6])


def test_no_metrics_is_said_clearly(tmp_path):
    with pytest.raises(SystemExit, match="no metrics in"):
        plot.read_metrics(tmp_path)


def test_table_and_picture_with_and_without_grail_metrics(tmp_path):
    plain = {plot.SCORE: 0.4, plot.SECONDS: 2.0}
    with_weights = {**plain, plot.MEAN: 1.0, plot.STD: 0.5, **dict.fromkeys(plot.RATES, 0.8)}
    for name, metrics in (("grpo", plain), ("grail", with_weights)):
        last = {**metrics, plot.SCORE: 0.6, VALIDATION: 0.75}
        write_metrics(tmp_path / name, "a", [(0, {VALIDATION: 0.5}), (1, metrics), (2, last)])
    runs = {name: plot.read_metrics(tmp_path / name) for name in ("grpo", "grail")}
    columns = [[column.header for column in plot.table(name, runs[name]).columns] for name in runs]
    assert columns[0] == ["step", "validation", "score", "s/step"]
    assert columns[1] == [
        "step", "validation", "score", "weight mean", "weight std", "answer found", "reweighted", "s/step"
    ]  # fmt: skip
    assert list(plot.table("grpo", runs["grpo"]).columns[2].cells) == ["", "0.50"]
    plot.draw(runs, tmp_path / "both.png")
    plot.draw({"grpo": runs["grpo"]}, tmp_path / "one.png")
    assert (tmp_path / "both.png").stat().st_size > (tmp_path / "one.png").stat().st_size > 0


def start(folder: Path, *arguments: str):
    """run_folder.sh, as the recipes source it."""
    script = 'set -euo pipefail; source recipes/run_folder.sh "$@"; echo "$VERL_FILE_LOGGER_PATH"'
    command = ["bash", "-c", script, "run", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])


def test_a_mistyped_command_can_be_corrected_and_a_run_that_began_is_not_mixed(tmp_path):
    assert start(tmp_path, "grail.score=surprize").returncode == 0  # verl then refuses the option
    begun = start(tmp_path, "grail.score=surprise")
    assert begun.returncode == 0
    Path(begun.stdout.strip()).write_text("{}\n")
    assert start(tmp_path, "grail.score=surprise").returncode == 0  # goes on
    other = start(tmp_path, "grail.score=entropy")
    assert other.returncode == 1 and "holds a run with other arguments: grail.score=surprise" in other.stderr


@pytest.mark.parametrize(
    ("argument", "says"),
    [
        ("trainer.logger=[console,tensorboard]", "allowed: file among them, as in '[console,file,tensorboard]'"),
        ("++trainer.logger=wandb", "++trainer.logger=wandb is not allowed"),
        ("+grail=carried", "name both: '+grail=[cpu,carried]'"),
    ],
)
def test_what_would_end_without_a_curve_is_refused_at_once(tmp_path, argument, says):
    refused = start(tmp_path / "run", "std=0.3", argument)
    assert refused.returncode == 1 and says in refused.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("argument", ["trainer.logger=[console,file,tensorboard]", "+grail=[cpu,carried]"])
def test_what_ends_with_one_is_taken(tmp_path, argument):
    assert start(tmp_path, argument).returncode == 0
