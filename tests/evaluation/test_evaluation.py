"""What an evaluation is made of, without generating: problems, settings, models, notes on responses, results."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.protocol import DataProto
from verl.trainer.ppo.reward import get_custom_reward_fn, resolve_reward_manager_cls

from grail_verl.__main__ import main
from grail_verl.command import CommandError
from grail_verl.evaluation import results
from grail_verl.evaluation.data import SOURCES
from grail_verl.evaluation.problems import BENCHMARKS, Problem, find_files, read_problems
from grail_verl.evaluation.reward_manager import FIELD, EvaluationRewardManager
from grail_verl.evaluation.settings import Sampling, compose_config, with_preset
from grail_verl.model import find_model
from grail_verl.reward import compute_score


def row(benchmark="math500", index=0, **changes) -> dict:
    return {
        "data_source": benchmark,
        "prompt": [{"role": "user", "content": "3 + 4"}],
        "reward_model": {"style": "rule", "ground_truth": "7"},
        "extra_info": {"index": index},
        **changes,
    }


def write(path, *rows: dict):
    pd.DataFrame(rows).to_parquet(path)
    return path


# problems


def test_the_benchmarks_are_those_that_can_be_made():
    assert set(BENCHMARKS) == set(SOURCES) - {"deepmath"}


def test_of_a_folder_the_benchmarks_are_taken_and_a_file_as_it_is(tmp_path):
    for name in ("olympiadbench", "deepmath", "math500", "mine"):
        write(tmp_path / f"{name}.parquet", row(name), row(name, 1))
    files = find_files([tmp_path, tmp_path / "mine.parquet"])
    assert [file.stem for file in files] == ["math500", "olympiadbench", "mine"]
    problems = read_problems(files)
    assert [(problem.benchmark, problem.index) for problem in problems[:2]] == [("math500", 0), ("math500", 1)]
    assert problems[0] == Problem("math500", 0, [{"role": "user", "content": "3 + 4"}], "7")
    with pytest.raises(CommandError, match="verl's format .*official_prompt.*KeyError"):
        read_problems(files, "official_prompt")


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([row(), row()], "there twice, first math500 index 0"),
        ([row(extra_info={"split": "test"})], "not in verl's format"),
        ([{"question": "3 + 4", "answer": "7"}], "not in verl's format"),
        ([row(reward_model={"style": "rule", "ground_truth": None})], "has no ground truth"),
    ],
)
def test_files_that_are_no_problems_are_refused(rows, says, tmp_path):
    with pytest.raises(CommandError, match=says):
        read_problems([write(tmp_path / "file.parquet", *rows)])


def test_places_without_problems_are_refused(tmp_path):
    (tmp_path / "text.parquet").write_text("no parquet")
    write(tmp_path / "empty.parquet", row())
    pd.DataFrame([row()]).head(0).to_parquet(tmp_path / "empty.parquet")
    with pytest.raises(CommandError, match="holds none of math500.parquet"):
        find_files([tmp_path])
    with pytest.raises(CommandError, match="does not exist"):
        find_files([tmp_path / "nowhere"])
    with pytest.raises(CommandError, match="not in verl's format"):
        read_problems([tmp_path / "text.parquet"])
    with pytest.raises(CommandError, match="holds no problem"):
        read_problems([tmp_path / "empty.parquet"])


# settings


def test_the_preset_holds_the_published_settings():
    config = compose_config(with_preset([]))
    assert Sampling.of(config) == Sampling(
        samples=3, temperature=0.6, top_p=0.95, top_k=20, max_response_length=8192, chat_template={}
    )
    assert config.trainer.val_only and config.trainer.val_before_train
    assert config.actor_rollout_ref.rollout.response_length == 8192
    assert resolve_reward_manager_cls(config) is EvaluationRewardManager
    assert get_custom_reward_fn(config).args[0] is compute_score


def test_the_users_presets_and_overrides_come_behind():
    overrides = with_preset(
        ["trainer.n_gpus_per_node=2", "+grail=cpu", "+data.apply_chat_template_kwargs.enable_thinking=false",
         "actor_rollout_ref.rollout.val_kwargs.n=5"]
    )  # fmt: skip
    assert overrides[0] == "+grail=[evaluation,cpu]"
    config = compose_config(overrides)
    assert config.trainer.device == "cpu" and config.actor_rollout_ref.rollout.name == "transformers"
    sampling = Sampling.of(config)
    assert sampling.samples == 5 and sampling.top_k == 20 and sampling.chat_template == {"enable_thinking": False}
    assert with_preset(["+grail=[evaluation,cpu]"]) == ["+grail=[evaluation,cpu]"]


@pytest.mark.parametrize("override", ["trainer.n_gpu_per_node=2", "a b", "+grail=cup"])
def test_an_override_that_does_not_fit_is_refused(override):
    with pytest.raises(CommandError):
        compose_config(with_preset([override]))


def test_overrides_may_stand_anywhere(monkeypatch):
    asked = []
    monkeypatch.setattr("grail_verl.evaluation.evaluate.evaluate", lambda *given: asked.append(given))
    main(["evaluate", "policy", "--data", "a", "+grail=cpu", "--out", "/b", "trainer.nnodes=2", "--data", "c.parquet"])
    main(["evaluate", "--data", "a", "--data", "c.parquet", "--out", "/b", "policy", "+grail=cpu", "trainer.nnodes=2"])
    places = [Path("a"), Path("c.parquet")]
    assert asked == 2 * [("policy", places, Path("/b"), None, ["+grail=cpu", "trainer.nnodes=2"], False)]


# models


def checkpoint(folder):
    """global_step_1 as verl saves it, on one rank."""
    actor = folder / "global_step_1" / "actor"
    tiny.save_policy(actor / "huggingface")
    (actor / "huggingface" / "model.safetensors").unlink()
    torch.save(tiny.model(seed=7).state_dict(), actor / "model_world_size_1_rank_0.pt")
    (actor / "fsdp_config.json").write_text('{"FSDP_version": 2, "world_size": 1}')
    return actor


class Code:
    """Runs where it is loaded, and is a parameter afterwards."""

    def __init__(self, text: str, weight: torch.Tensor):
        self.text, self.weight = text, weight

    def __reduce__(self):
        return eval, (f"[{self.text}, __import__('torch').zeros({tuple(self.weight.shape)})][-1]",)


def test_a_checkpoint_is_merged_once_and_again_when_it_is_newer_and_its_code_runs_only_if_trusted(
    tmp_path, monkeypatch, capsys
):
    from transformers import AutoModelForCausalLM

    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")  # a user's, for other files
    actor, expected = checkpoint(tmp_path), tiny.model(seed=7).state_dict()
    merged = find_model(str(actor.parent))
    assert merged == str(actor.parent / "huggingface")
    for name, weight in AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32).state_dict().items():
        assert torch.equal(weight, expected[name].bfloat16().float())
    assert sorted(os.listdir(actor.parent)) == ["actor", "huggingface"]

    made = os.stat(merged).st_mtime_ns
    assert find_model(str(actor)) == merged and os.stat(merged).st_mtime_ns == made
    name, ran = list(expected)[-1], tmp_path / "it ran"
    code = f"__import__('pathlib').Path({str(ran)!r}).touch()"
    torch.save({**expected, name: Code(code, expected[name])}, actor / "model_world_size_1_rank_0.pt")
    os.utime(actor / "model_world_size_1_rank_0.pt", ns=(made + 10**9, made + 10**9))
    arguments = ["attribute", str(actor), "--prompt", "a", "--response", "b"]
    with pytest.raises(SystemExit) as end:
        main(arguments)
    said = str(end.value)
    assert f"could not merge {actor}" in said and "eval" in said and "if you trust who made them" in said
    assert said.endswith("--trust-checkpoint") and not ran.exists()
    assert os.stat(merged).st_mtime_ns == made
    assert sorted(os.listdir(actor.parent)) == ["actor", "huggingface"]
    main([*arguments, "--trust-checkpoint"])
    assert ran.exists() and "1 token without" in capsys.readouterr().out
    assert os.stat(merged).st_mtime_ns != made


@pytest.mark.parametrize("trust", [[], ["--trust-checkpoint"]])
def test_an_evaluation_hands_the_trust_on(trust, tmp_path, monkeypatch):
    asked = []

    def find(*given):
        asked.append(given)
        raise CommandError("that will do")

    monkeypatch.setattr("grail_verl.model.find_model", find)
    data = write(tmp_path / "math500.parquet", row())
    with pytest.raises(SystemExit, match="that will do"):
        main(["evaluate", "policy", "--data", str(data), "--out", str(tmp_path / "out"), "+grail=cpu", *trust])
    assert asked == [("policy", False, bool(trust))]


def test_models_that_cannot_be_loaded_are_refused(tmp_path):
    with pytest.raises(CommandError, match="neither a Hugging Face model nor"):
        find_model(str(tmp_path))
    with pytest.raises(CommandError, match="is no folder here"):
        find_model(str(tmp_path / "nowhere"))
    actor = checkpoint(tmp_path)
    (actor / "lora_train_meta.json").write_text("{}")
    with pytest.raises(CommandError, match="LoRA"):
        find_model(str(actor))
    (actor / "model_world_size_1_rank_0.pt").unlink()
    with pytest.raises(CommandError, match="interrupted save"):
        find_model(str(actor))


# notes on a response


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    folder = tmp_path_factory.mktemp("policy")
    tiny.save_policy(folder)
    return folder


@pytest.mark.parametrize(
    ("text", "ended", "limit", "longest", "truncated"),
    [
        (r"so \boxed{7}", True, 100, None, False),
        (r"so \boxed{7}", False, 100, None, False),  # ended in a way that is not known
        (r"so \boxed{7}", False, "its length", None, True),
        (r"so \boxed{7}", True, "its length", None, False),
        (r"so \boxed{7}", False, 100, "its length", True),
        ("", False, 100, None, False),
    ],
)
def test_what_is_noted_of_a_response(text, ended, limit, longest, truncated, policy):
    tokenizer = tiny.tokenizer()
    prompt, response = tokenizer.encode("3 + 4 ="), tokenizer.encode(text)
    response += [tokenizer.eos_token_id] if ended else []
    limit = len(response) if limit == "its length" else limit
    longest = len(prompt) + len(response) if longest == "its length" else longest
    config = OmegaConf.create(
        {
            "actor_rollout_ref": {
                "model": {"path": str(policy)},
                "rollout": {"response_length": limit, "max_model_len": longest},
            }
        }
    )
    batch = {
        "prompts": torch.tensor([prompt]),
        "responses": torch.tensor([response], dtype=torch.long),
        "attention_mask": torch.ones(1, len(prompt) + len(response), dtype=torch.long),
    }
    others = {
        "data_source": "math500",
        "reward_model": {"ground_truth": "7"},
        "extra_info": {"index": np.int64(4)},
        "session_id": 2,
    }
    data = DataProto(TensorDict(batch, batch_size=1), {name: np.array([other]) for name, other in others.items()})
    manager = EvaluationRewardManager(config, tokenizer, compute_score)
    graded = manager.loop.run_until_complete(manager.run_single(data))
    right = float(bool(text))
    assert graded["reward_score"] == right
    assert list(graded["reward_extra_info"]) == [FIELD]
    assert json.loads(graded["reward_extra_info"][FIELD]) == {
        "score": right, "acc": right, "answer_found": right, "grading_failed": 0.0, "benchmark": "math500",
        "index": 4, "sample": 2, "response_tokens": len(response), "truncated": truncated,
    }  # fmt: skip


# results

# (benchmark, index): for each sample acc, answer found, grading failed, tokens, truncated
WORKED = {
    ("math500", 0): [(1, 1, 0, 10, 0), (0, 1, 1, 20, 0), (1, 1, 0, 30, 0)],
    ("math500", 1): [(0, 0, 0, 40, 1), (0, 1, 0, 50, 0), (0, 0, 0, 60, 1)],
    ("aime24", "I-1"): [(0, 1, 0, 1, 0), (1, 1, 0, 2, 0), (1, 1, 0, 3, 0)],
}
PROBLEMS = [Problem(benchmark, index, [], "7") for benchmark, index in WORKED]
SAMPLES = [
    {
        "benchmark": benchmark, "index": index, "sample": sample, "output": "…", "acc": float(acc),
        "answer_found": float(found), "grading_failed": float(failed), "response_tokens": tokens,
        "truncated": bool(truncated), "score": float(acc),
    }
    for (benchmark, index), samples in WORKED.items()
    for sample, (acc, found, failed, tokens, truncated) in enumerate(samples)
]  # fmt: skip


def test_the_table_by_hand():
    table = results.summarise(results.collect(PROBLEMS, SAMPLES[::-1]))
    columns = [
        "problems", "samples", "accuracy", "pass@3", "response_tokens", "no_answer", "truncated", "grading_failed"
    ]  # fmt: skip
    expected = {
        "math500": [2, 6, 1 / 3, 1 / 2, 35, 1 / 3, 1 / 3, 1],
        "aime24": [1, 3, 2 / 3, 1, 2, 0, 0, 0],
        "average": [3, 9, 1 / 2, 3 / 4, 18.5, 1 / 6, 1 / 6, 1],
        "weighted": [3, 9, 4 / 9, 2 / 3, 24, 2 / 9, 2 / 9, 1],
    }
    expected = pd.DataFrame.from_dict(expected, orient="index", columns=columns).rename_axis("benchmark")
    pd.testing.assert_frame_equal(table, expected, check_dtype=False)
    assert all(table[column].dtype == int for column in results.COUNTS)


def test_files_say_what_the_table_says(tmp_path):
    responses = results.collect(PROBLEMS, SAMPLES)
    table = results.summarise(responses)
    results.write_responses(tmp_path, responses)
    results.require_unused(tmp_path)  # responses alone are no result
    with pytest.raises(CommandError, match="no finished evaluation"):
        results.read_evaluation(tmp_path)
    results.write_results(tmp_path, table, {"model": "policy", "sampling": {"samples": 3}})
    with pytest.raises(CommandError, match="holds a finished evaluation"):
        results.require_unused(tmp_path)

    read, again = results.read_evaluation(tmp_path)
    pd.testing.assert_frame_equal(again, responses)
    assert read["benchmarks"]["math500"] == table.loc["math500"].to_dict()
    assert read["averages"]["weighted"]["pass@3"] == pytest.approx(2 / 3)
    assert sorted(os.listdir(tmp_path)) == ["responses.jsonl", "results.csv", "results.json"]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "results.csv", index_col="benchmark"), table)
    first = json.loads((tmp_path / "responses.jsonl").read_text().splitlines()[0])
    assert list(first) == [
        "benchmark", "index", "sample", "ground_truth", "output", "acc", "answer_found", "grading_failed",
        "response_tokens", "truncated",
    ]  # fmt: skip
    assert first["acc"] == 1.0 and first["answer_found"] is True and first["truncated"] is False


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    results.write_whole(tmp_path / "results.json", "whole")
    monkeypatch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        results.write_whole(tmp_path / "results.json", "half")
    assert (tmp_path / "results.json").read_text() == "whole"


def test_missing_samples_are_no_result():
    for lost, counts in {
        (1,): "1 of 9 samples are missing (1 of math500)",
        (0, 1, 2, 8): "4 of 9 samples are missing (3 of math500, 1 of aime24)",
        tuple(range(9)): "9 of 9 samples are missing (6 of math500, 3 of aime24)",
    }.items():
        kept = [sample for number, sample in enumerate(SAMPLES) if number not in lost]
        with pytest.raises(CommandError) as error:
            results.require_complete(PROBLEMS, results.collect(PROBLEMS, kept), 3)
        assert str(error.value).startswith(counts)
    results.require_complete(PROBLEMS, results.collect(PROBLEMS, SAMPLES), 3)
    with pytest.raises(CommandError, match="10 samples came back of 9"):
        results.require_complete(PROBLEMS, results.collect(PROBLEMS, [*SAMPLES, SAMPLES[0]]), 3)


def test_a_score_function_that_says_too_little_is_refused():
    with pytest.raises(CommandError, match="gives no 'answer_found'"):
        results.collect(PROBLEMS, [{k: v for k, v in SAMPLES[0].items() if k != "answer_found"}])
    with pytest.raises(CommandError, match="gives acc=nan for math500 index"):  # which a mean would pass over
        results.collect(PROBLEMS, [*SAMPLES[:2], {**SAMPLES[2], "acc": float("nan")}])


# the command


def test_the_command_refuses_before_verl_starts(tmp_path, monkeypatch):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "results.json").write_text("{}")
    write(tmp_path / "math500.parquet", row())
    monkeypatch.setattr("subprocess.run", lambda *_, **__: pytest.fail("something was started"))
    monkeypatch.setattr("subprocess.Popen", lambda *_, **__: pytest.fail("something was started"))
    new = str(tmp_path / "new")
    for arguments, says in {
        ("policy", "--data", str(tmp_path), "--out", str(tmp_path / "used")): "holds a finished evaluation",
        ("policy", "--data", str(tmp_path / "nowhere"), "--out", new): "does not exist",
        (str(tmp_path / "nowhere"), "--data", str(tmp_path), "--out", new): "is no folder here",
        ("policy", "--data", str(tmp_path), "--out", new, "trainer.nodes=2"): "nodes",
        (
            "policy", "--data", str(tmp_path), "--out", new, "reward.custom_reward_function.path=nowhere.py",
        ): "no score function",
    }.items():
        with pytest.raises(SystemExit) as end:
            main(["evaluate", *arguments])
        assert str(end.value).startswith("grail-verl evaluate: ") and says in str(end.value)
    assert not (tmp_path / "new").exists()


def test_what_verl_left_out_ends_the_command_with_the_rest_kept(tmp_path, monkeypatch, policy):
    write(tmp_path / "math500.parquet", row(), row(index=1))
    done = [{**sample, "benchmark": "math500", "index": 1} for sample in SAMPLES[:3]]
    monkeypatch.setattr("grail_verl.evaluation.validation.validate", lambda *_: done)
    with pytest.raises(SystemExit, match=r"3 of 6 samples are missing \(3 of math500\)"):
        main(["evaluate", str(policy), "--data", str(tmp_path), "--out", str(tmp_path / "out")])
    assert os.listdir(tmp_path / "out") == ["responses.jsonl"]
