"""The training study: its controls, its reward, one step of every method in verl's real worker, and its statistics."""

import asyncio
import itertools
import json

import numpy as np
import pytest
import ranks
import torch

from grail_verl import GrailConfig, RolloutBatch
from recipes.study import curves, headroom, policy, sweep, train, truth
from recipes.study.annotate import annotate
from recipes.study.document import DOCUMENTS, replace_block
from recipes.study.methods import BATCHED, CONTROLS, LOSSES
from recipes.study.reward import compute_score
from recipes.study.rules import EvenShares, InvertedShares, Moved, Shuffled, ShuffledShares
from recipes.study.sweep import FIRST_METHODS
from recipes.study.tasks import FIRST
from recipes.study.train import Run, Sizes


@pytest.fixture(scope="module")
def chains(tmp_path_factory):
    """A policy that has seen a few solutions."""
    folder = tmp_path_factory.mktemp("study") / "chains"
    policy.build("chains", folder, steps=30, hidden_size=32, layers=2)
    return folder


def batch() -> tuple[torch.Tensor, torch.Tensor, RolloutBatch]:
    """Scores and what is weighted, of two responses of 8 and 6 tokens."""
    generator = torch.Generator().manual_seed(0)
    mask_BT = torch.tensor([[1] * 8, [1] * 6 + [0] * 2]).bool()
    answer_BT, content_BT = torch.zeros(2, 8, dtype=torch.bool), torch.zeros(2, 8, dtype=torch.bool)
    answer_BT[0, 5:8] = answer_BT[1, 3:6] = True
    content_BT[0, 6] = content_BT[1, 4] = True
    advantages_BT = torch.tensor([[-1.0], [1.0]]) * mask_BT
    scores_BT = torch.rand(2, 8, generator=generator) * mask_BT
    return scores_BT, torch.tensor([True, False]), RolloutBatch(mask_BT, advantages_BT, answer_BT, content_BT)


def test_shuffled_weights_are_grails_in_other_places():
    torch.manual_seed(0)
    shuffled = Shuffled(GrailConfig())
    ordered = super(Shuffled, shuffled).token_weights(*batch())
    found = [shuffled.token_weights(*batch()) for _ in range(20)]
    for weights_BT in found:
        for got, grail, length in zip(weights_BT.tolist(), ordered.tolist(), (8, 6)):
            assert sorted(got[:length]) == sorted(grail[:length])
            assert got[length:] == grail[length:]  # padding stays
    places = {weights_BT[0].argmax().item() for weights_BT in found}  # of the answer's content
    assert len(places) > 4
    torch.manual_seed(0)
    assert torch.equal(Shuffled(GrailConfig()).token_weights(*batch()), found[0])


def test_moved_shares_keep_their_sum_and_only_they_move():
    torch.manual_seed(0)
    config = GrailConfig(weights="proportional", total=4.0)
    scores_BT, weighted_B, responses = batch()
    ordered_T = Moved.__mro__[1](config).token_weights(scores_BT, weighted_B, responses)[0].tolist()
    places = {
        InvertedShares: [sorted(ordered_T[:5])[4 - sorted(ordered_T[:5]).index(value)] for value in ordered_T[:5]],
        EvenShares: [0.8] * 5,
    }
    for rule in (ShuffledShares, InvertedShares, EvenShares):
        weights_BT = rule(config).token_weights(scores_BT, weighted_B, responses)
        if rule in places:
            assert weights_BT[0, :5].tolist() == pytest.approx(places[rule])
        else:
            assert sorted(weights_BT[0, :5].tolist()) == pytest.approx(sorted(ordered_T[:5]))
        assert weights_BT[0, 5:].tolist() == [0, 0, 0]  # the answer's
        assert weights_BT[1].tolist() == [1] * 8  # of a right response


PIECES = ["2", "+", "3", "=", "6", " hm", "*", "2", "=", "2", " \\boxed{", "2", "}"]  # 2 + 3 is 5; 6 * 2 is 2 mod 10


@pytest.mark.parametrize(
    ("method", "right", "weights"),
    [
        ("perfect", False, [0, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0]),
        ("perfect", True, [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1]),
        ("no_filler", False, [1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1]),
    ],
)
def test_truth_weighs_what_the_construction_says(method, right, weights):
    note = annotate("chains-5", "2+3*2", PIECES)
    assert truth.WEIGHTS[method](note, right, 0.5).tolist() == weights


@pytest.mark.parametrize(
    ("results", "right", "changes"),  # of the chance to be right, an eighth at first and doubled by each right result
    [("500", True, [1 / 8, 1 / 4, 1 / 2]), ("511", False, [1 / 8, -1 / 4, 0]), ("622", False, [-1 / 8, 0, 0])],
)
def test_results_weigh_what_they_change_of_the_chance_to_be_right(results, right, changes):
    pieces = ["2", "+", "3", "=", results[0], " hm", "*", "2", "=", results[1], " \\boxed{", results[2], "}"]
    weights = truth.by_value(annotate("chains-5", "2+3*2", pieces), right, 1 / 8)
    changed = {at: change / (right - 1 / 8) * truth.TOTAL for at, change in zip((4, 9, 11), changes, strict=True)}
    assert weights.tolist() == pytest.approx([changed.get(at, 0) for at in range(len(pieces))])
    assert weights.sum() == pytest.approx(truth.TOTAL)
    everywhere = truth.by_value(annotate("chains-5", "2+3*2", pieces), not right, 1 / 8)  # a reward by another measure
    assert everywhere.tolist() == [float(at != 5) for at in range(len(pieces))]


def test_blame_of_a_sum_is_at_the_first_sign_or_digit_that_departs():
    solution = "3-5=-2; -2-4=6; 6+1=7; \\boxed{7}"  # -6 it should be
    note = annotate("sums-10", "3-5-4+1", list(solution))
    weights = truth.perfect(note, False, 0.5)
    assert weights.tolist() == [truth.TOTAL * (at == solution.index("6")) for at in range(len(solution))]
    assert [solution[at] for at in note.tokens("step", result=True)] == ["-", "2", "6", "7"]
    assert annotate("sums-10", "3-5-4+1", list(solution.replace("-2-4", "-2-3"))) is None


def test_blame_of_a_wrong_answer_without_a_wrong_step_is_the_answers():
    note = annotate("chains-5", "2+3", ["2", "+", "3", "=", "5", " \\boxed{", "7", "}"])
    assert truth.perfect(note, False, 0.5).tolist() == [0, 0, 0, 0, 0, 0, 4, 0]


STORY = (
    "Anna has 14 coins. Ben has 3 boxes of 5 cards. Anna buys 2 bags of 6 coins. Clara has 2 packs of 4 books. "
    "Anna gives 5 coins away. How many coins does Anna have now? Answer in \\boxed{}."
)


@pytest.mark.parametrize(
    ("task", "problem", "response", "reward"),
    [
        ("chains", "3+4[5*6]-9+1*2+1", r"whatever \boxed{9}", 1.0),  # ((((3+4)-9)+1)*2)+1 = -1 = 9 mod 10
        ("chains", "3+4[5*6]-9+1*2+1", r"\boxed{9} or \boxed{8}", 0.0),
        ("chains", "3+4[5*6]-9+1*2+1", r"\boxed{9", 0.0),
        ("legs", "2 crabs, 3 cows?", r"\boxed{32}", 1.0),
        ("legs", "2 crabs, 3 cows?", r"\boxed{28}", 0.0),  # reasoning-gym's scorer gives it a part
        ("legs", "2 crabs, 3 cows?", r"\boxed{}", 0.0),
        ("word_problems", STORY, r"14 + 12 = 26, 26 - 5 = 21, \boxed{21}", 1.0),
        ("word_problems", STORY, r"\boxed{36}", 0.0),  # Ben's cards among Anna's coins
        ("word_problems", STORY, "21", 0.0),
    ],
)
def test_reward(task, problem, response, reward):
    assert compute_score(task, response, "", {"problem": problem}) == reward


def test_a_language_model_is_trained_in_sizes_of_its_own(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = train.compose(train.overrides(Run("word_problems", "grail", 3e-5, seed=0)))
    actor, sizes = config.actor_rollout_ref.actor, train.SIZES["word_problems"]
    assert config.data.train_batch_size == actor.ppo_mini_batch_size == sizes.prompts  # one update a step
    assert sizes.prompts * sizes.samples % actor.ppo_micro_batch_size_per_gpu == 0
    assert config.actor_rollout_ref.rollout.n == sizes.samples and actor.ppo_micro_batch_size_per_gpu == sizes.rows
    assert sizes.steps % sizes.evaluate_every == 0  # the last policy is evaluated
    with pytest.raises(FileNotFoundError, match=r"\.imitate word_problems MODEL outputs/study/word_problems/policy"):
        policy.build("word_problems", train.policy_folder("word_problems"))
    assert Run("legs", "grpo", 3e-4, seed=0).sizes == train.Sizes()


def one_step(rank: int, folder: str) -> dict:
    """method → a run of a single step."""
    train.SIZES["chains"] = Sizes(steps=1, evaluate_every=1, prompts=2, rows=16, held_out=4)
    train.policy_folder = lambda task: folder
    found = {method: traced(train.Trainer(Run("chains", method, 1e-2, seed=0))) for method in FIRST_METHODS}
    found["perfect"] = truth_of_tokens(train.Trainer(Run("chains", "perfect", 1e-2, seed=0)))
    found["no truth"] = truth_of_tokens(train.Trainer(Run("chains", "grpo", 1e-2, seed=0)))
    found["by value"] = advantages_of_results(train.Trainer(Run("chains", "by_value", 1e-2, seed=0)))
    train.SIZES["chains"] = Sizes(steps=1, evaluate_every=1, prompts=4, rows=16, held_out=4)
    for method in ("grpo_two_groups", "grpo_mixed"):
        found[method] = problems_of_updates(train.Trainer(Run("chains", method, 1e-2, seed=0)))
    return found


def problems_of_updates(trainer) -> list[int]:
    """How many problems each update of a step has responses to."""
    found, train_batch = [], trainer.actor.train_batch

    def noted(batch):
        found.append(len({tuple(prompt.tolist()) for prompt in batch["prompts"].unbind()}))
        return train_batch(batch)

    trainer.actor.train_batch = noted
    asyncio.run(trainer.train())
    return found


def truth_of_tokens(trainer) -> dict:
    """text of a token → weight, of a wrong response; of one cut off before its end; of one that is no solution."""
    found = {}
    for name, text in {
        "wrong": "2+3=6 hm*2=2 \\boxed{2}<|im_end|>", "cut": "2+3=6 hm*2=2 \\boxed{2}", "other": "hm<|im_end|>"
    }.items():  # fmt: skip
        tokens = trainer.tokenizer(text).input_ids
        weights = trainer.truth("2+3*2", tokens, False, 0.5).tolist()
        found[name] = [
            (trainer.tokenizer.decode([token]), weight) for token, weight in zip(tokens, weights, strict=True)
        ]
    return found


SOLUTIONS = {  # of two problems, a right and a wrong one
    "2+3*2": ("2+3=5 hm*2=0 \\boxed{0}<|im_end|>", "2+3=5 hm*2=1 \\boxed{1}<|im_end|>"),
    "2+4": ("2+4=6 \\boxed{6}<|im_end|>", "2+4=7 \\boxed{7}<|im_end|>"),
}


def advantages_of_results(trainer) -> list[tuple]:
    """Of eight responses to each problem, in turn: what its results' tokens and all others are given."""
    asked, responses = [], []
    for row in range(8):
        for (problem, solutions), right in zip(SOLUTIONS.items(), (row < 1, row < 4), strict=True):
            tokens = trainer.tokenizer(solutions[not right]).input_ids
            asked.append(problem)
            responses.append((tokens, [0.0] * len(tokens), float(right)))
    found = []
    for (tokens, *_), advantages_T in zip(responses, trainer.batch(asked, responses)["advantages"].unbind()):
        before = [""] + [trainer.tokenizer.decode([token]) for token in tokens[:-1]]
        of = list(zip(before, advantages_T.tolist(), strict=True))
        found.append(([a for text, a in of if text in ("=", "{")], {a for text, a in of if text not in ("=", "{")}))
    return found


def traced(trainer) -> dict:
    before = [p.detach().clone() for p in trainer.actor.engine.module.parameters()]
    drawn = []
    respond, score = trainer.respond, trainer.score
    trainer.score = lambda problem, tokens: score(problem, tokens) or float(sum(tokens) % 2)  # some right, some wrong

    async def noted(asked):
        responses = await respond(asked)
        drawn.append([tokens for tokens, *_ in responses])
        return responses

    trainer.respond = noted
    found = asyncio.run(trainer.train())
    after = trainer.actor.engine.module.parameters()
    served = trainer.server.generator.model.state_dict()
    trained = {name: tensor.detach() for name, tensor in trainer.actor.engine.get_per_tensor_param()[0]}
    return {
        "curves": found,
        "drawn": drawn,
        "moved": any(not torch.equal(one, other) for one, other in zip(before, after)),
        "handed over": all(torch.equal(served[name], tensor) for name, tensor in trained.items()),
        "worker": type(trainer.actor).__name__,
        "rule": trainer.actor.rule.names if hasattr(trainer.actor, "rule") else "",
    }


@pytest.fixture(scope="module")
def steps(chains):
    return ranks.on_ranks(one_step, 1, str(chains))[0]


def test_advantages_are_multiplied_by_what_a_method_knows(steps):
    wrong, cut, other = (steps["perfect"][name] for name in ("wrong", "cut", "other"))
    assert [place for place, (_, weight) in enumerate(wrong) if weight] == [4] and wrong[4] == ("6", truth.TOTAL)
    assert cut == wrong[:-1] and wrong[-1] == ("<|im_end|>", 0.0)
    assert all(weight == 1 for of in (other, *steps["no truth"].values()) for _, weight in of)


def test_a_result_is_given_its_groups_advantage_times_what_it_changes(steps):
    # Of the first problem one response in eight is right, so that each of three results doubles the chance; of the
    # second every other one. GRPO divides by the deviation.
    half = 2**0.5 - 1  # of what two right results add, the first's: 0.5 → 0.71 → 1
    for row, ((first, rest), (second, others)) in enumerate(zip(*[iter(steps["by value"])] * 2, strict=True)):
        advantage = (float(row < 1) - 1 / 8) / (np.std([1] + [0] * 7, ddof=1) + 1e-6)
        changes = [1 / 7, 2 / 7, 4 / 7] if row < 1 else [-1, 2, 0]
        assert first == pytest.approx([advantage * change * truth.TOTAL for change in changes], abs=1e-5)
        advantage = (float(row < 4) - 1 / 2) / (np.std([1, 0] * 4, ddof=1) + 1e-6)
        changes = [half, 1 - half] if row < 4 else [1, 0]
        assert second == pytest.approx([advantage * change * truth.TOTAL for change in changes], abs=1e-5)
        assert rest == others == {0.0}


def test_an_update_is_of_two_groups_or_of_responses_from_all(steps):
    assert steps["grpo_two_groups"] == [2, 2]
    assert steps["grpo_mixed"] == [4, 4]


def test_overrides_of_controls_and_verls_losses_pass_verls_checks_and_the_plugins():
    for method in (CONTROLS | LOSSES | BATCHED).keys() - set(FIRST_METHODS):  # those are run
        train.compose(train.overrides(Run("chains-14", method, 1e-4, seed=0)))


def test_every_method_trains_verls_worker_from_the_same_responses(steps):
    for method in FIRST_METHODS:
        result = steps[method]
        assert result["moved"] and result["handed over"], method
        assert result["worker"] == ("TrainingWorker" if method == "grpo" else "GrailTrainingWorker")
        assert [point["step"] for point in result["curves"]["evaluation"]] == [0, 1]
        assert ("grail/weight_std" in result["curves"]["training"]) == (method != "grpo")
        # What was drawn before the first update: held-out problems, then the first prompts.
        assert result["drawn"][:2] == steps["grpo"]["drawn"][:2], method
    said = "algorithm.grail.score={} and algorithm.grail.weights={}"
    assert {method: steps[method]["rule"] for method in FIRST_METHODS if method != "grpo"} == {
        "grail": said.format("saliency", "standardised"),
        "oar_g": said.format("oar_g", "reshaped"),
        "shuffled": said.format("saliency", "shuffled"),
        "surprise": said.format("surprise", "standardised"),
    }
    ratios = {m: steps[m]["curves"]["training"]["grail/weight_mean"] for m in ("grail", "shuffled")}
    assert ratios["grail"] == pytest.approx(ratios["shuffled"])  # the same weights in other places


def test_area_is_the_mean_over_the_run():
    points = [{"step": 0, "greedy": 0.2}, {"step": 10, "greedy": 0.4}, {"step": 30, "greedy": 0.8}]
    assert train.area(points, "greedy") == pytest.approx((10 * 0.3 + 20 * 0.6) / 30)


def test_language_models_gain_is_told_by_rate_over_problems(tmp_path, monkeypatch):
    monkeypatch.setattr(curves, "RESULTS", tmp_path)

    def stored(kind: str, method: str, lr: float, seed: int, more: list[int], rewards: list[float]) -> None:
        points = [
            {"step": step, "sampled": sum(right) / 9, "greedy": 0.5, "pass@3": 0.75 + seed / 100, "right": right}
            for step, right in ((0, [0, 1, 2]), (4, [right + one for right, one in zip([0, 1, 2], more)]))
        ]
        run = {"run": {"method": method, "lr": lr, "seed": seed}, "evaluation": points, "seconds": 90 + 60 * seed}
        run["training"] = {"reward": rewards}
        file = tmp_path / kind / "word_problems" / f"{method}-{lr:g}-{seed}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(run))

    stored("runs", "grpo", 1e-5, 0, [0, 1, 1], [0.25] * 4)
    stored("runs", "grpo", 1e-5, 2, [2, 1, 1], [0.75] * 4)  # with the other, one more at every problem
    stored("runs", "grail", 1e-6, 0, [1, 1, 1], [0.0, 0.25, 0.5, 0.75])
    stored("tuning", "grpo", 1e-5, 7, [0, 0, 3], [0.5] * 4)
    *rows, lone = [line.split(" | ") for line in curves.language_table("word_problems").splitlines()[2:]][::-1]
    assert lone[:4] == ["| `grpo`", "1e-05", "7", "0.333 → 0.667"]
    assert lone[6] == "+0.333 (+0.000 to +1.000)"  # each of three problems may be drawn alone
    gain = "0.500 → 0.500 | 0.7{0} → 0.7{0} | +0.333 (+0.333 to +0.333)"
    assert [" | ".join(row) for row in rows] == [
        f"| `grpo` | 1e-05 | 0, 2 | 0.333 → 0.667 | {gain.format(60)} | 0.500 | 0.500 | 2 |",
        f"| `grail` | 1e-06 | 0 | 0.333 → 0.667 | {gain.format(50)} | 0.125 | 0.625 | 2 |",
    ]


def test_comparison_is_paired_by_seed_and_exact():
    values, others = [0.5, 0.7, 0.9, 0.61], [0.4, 0.65, 0.87, 0.62]
    result = curves.compared(values, others)
    differences = [a - b for a, b in zip(values, others)]
    means = [abs(sum(s * d for s, d in zip(signs, differences))) for signs in itertools.product((1, -1), repeat=4)]
    assert result["difference"] == pytest.approx(sum(differences) / 4)
    assert result["p"] == pytest.approx(sum(mean >= abs(sum(differences)) - 1e-12 for mean in means) / 16)
    assert result["interval"][0] <= result["difference"] <= result["interval"][1]
    assert curves.interval([0.25, 0.25]) == [0.25, 0.25]


def result(run: Run, sampled: float) -> dict:
    points = [{"step": step, "sampled": sampled * step / 2, "greedy": sampled, "pass@3": sampled} for step in range(3)]
    return {"run": vars(run), "evaluation": points, "training": {}}


def test_rate_and_results_come_from_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "RESULTS", tmp_path)
    monkeypatch.setattr(curves, "RESULTS", tmp_path)
    for place, lr in enumerate(sweep.PLANS["legs"].rates):
        for seed in sweep.PLANS["legs"].tuning_seeds:
            write(Run("legs", "grail", lr, seed), tuning=True, sampled=[0.3, 0.6, 0.5][place])
    assert sweep.chosen_rate("legs", "grail") == sweep.PLANS["legs"].rates[1]

    for place, method in enumerate(FIRST_METHODS):
        for seed in range(3 + place):  # GRPO has the fewest: only these seeds count
            write(Run("legs", method, 1e-3, seed), tuning=False, sampled=0.1 * seed + 0.05 * place)
    found = curves.numbers()
    assert found.keys() == {"legs"} and found["legs"]["seeds"] == [0, 1, 2]
    sampled = found["legs"]["measures"]["sampled"]
    assert sampled["final"]["grail"]["values"] == pytest.approx([0.05, 0.15, 0.25])
    assert sampled["area"]["grail"]["mean"] == pytest.approx(0.15 / 2)
    assert sampled["area"]["oar_g"]["against_grpo"]["difference"] == pytest.approx(0.1 / 2)
    assert sampled["area"]["grpo"]["against_shuffled"]["difference"] == pytest.approx(-0.15 / 2)
    assert np.allclose(curves.curve(curves.load("legs", "grpo"), "sampled")[1][2], [0, 0.1, 0.2])


def test_no_rate_at_an_end_of_those_tried_is_chosen(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "RESULTS", tmp_path)

    def tried(*areas):  # of 4e-4, 8e-4 and so on, or before that
        for lr, sampled in areas:
            write(Run("chains-14", "grail", lr, 100), tuning=True, sampled=sampled)
        return sweep.untried_rates("chains-14", "grail")

    assert tried() == [4e-4, 8e-4] and tried((4e-4, 0.5)) == [8e-4]
    assert tried((8e-4, 0.4)) == [2e-4]
    write(Run("chains-14", "grail_all", 1e-4, 100), tuning=True, sampled=0.9)  # another method
    assert tried((2e-4, 0.45)) == [] and sweep.chosen_rate("chains-14", "grail") == 4e-4
    assert tried((8e-4, 0.6)) == [1.6e-3] and tried((1.6e-3, 0.7)) == [3.2e-3]
    assert tried((3.2e-3, 0.1)) == [] and sweep.chosen_rate("chains-14", "grail") == 1.6e-3


def test_a_result_of_another_rate_is_run_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "RESULTS", tmp_path)
    run = Run("chains-14", "grpo", 4e-4, 0)
    write(run, tuning=False, sampled=0.5)
    sweep.carry_out([(run, sweep.result_file(run, tuning=False))], 1, dry=True)
    other = Run("chains-14", "grpo", 8e-4, 0)
    sweep.carry_out([(other, sweep.result_file(other, tuning=False))], 1, dry=True)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["there:", "to"]


def test_a_sweep_runs_what_is_missing_and_says_what_failed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "RESULTS", tmp_path)
    built = []  # a policy takes minutes, a run too
    monkeypatch.setattr(sweep, "build", lambda *given: built.append(given))
    monkeypatch.setattr(sweep, "command", lambda run, out: ["-c", f"raise SystemExit({run.seed} > 1)"])
    three = [Run("chains-14", "grpo", 4e-4, seed) for seed in range(3)]
    runs = [(run, sweep.result_file(run, tuning=False)) for run in three]
    for run, _ in runs:
        write(run, tuning=False, sampled=0.5)
    sweep.carry_out(runs, 2, dry=False)
    assert not built and not capsys.readouterr().out
    for _, file in runs[1:]:
        file.unlink()
    with pytest.raises(SystemExit, match="some runs failed"):
        sweep.carry_out(runs, 2, dry=False)
    assert built == [("chains-14", train.policy_folder("chains-14"))]
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "done: python -c raise SystemExit(1 > 1)",
        "failed, see outputs/study/logs/runs/chains-14/grpo-2.log: python -c raise SystemExit(2 > 1)",
    ]


def test_share_of_the_headroom_is_paired_by_seed():
    grpo, perfect = [0.4, 0.5, 0.3], [0.6, 0.7, 0.5]
    even = headroom.share([0.5, 0.6, 0.4], [grpo, perfect])
    assert [even["share"], *even["interval"]] == pytest.approx([0.5] * 3)
    one_seed_won_it_all = headroom.share([0.4, 0.5, 0.6], [grpo, perfect])  # that seed is in none of 3 draws, or in all
    found = [one_seed_won_it_all["share"], *one_seed_won_it_all["interval"]]
    assert found == pytest.approx([0.5, 0.0, 1.5])


def test_hours_and_lengths_come_from_the_files(tmp_path, monkeypatch):
    monkeypatch.setattr(headroom, "RESULTS", tmp_path)
    for kind, seed, tokens in (("tuning", 100, {}), ("runs", 0, {"tokens": [61.0, 64.4, 70.0]}), ("runs", 1, {})):
        file = tmp_path / kind / "chains-14" / f"grpo-{seed}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        later = {"tokens": [1.0, 2.0, 3.0]}  # of what it has become
        file.write_text(json.dumps({"evaluation": [{"step": 0, **tokens}, {"step": 8, **later}], "seconds": 3000}))
    assert "| chains-14 | 61, 64, 70 | 3 | 2.5 |" in headroom.effort_table()


def test_headroom_comes_from_the_files(tmp_path, monkeypatch):
    for module in (sweep, curves, headroom):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    plan = sweep.PLANS["chains-14"]
    reached = {"grpo": 0.4, "perfect": 0.8, "carried": 0.7, "even_shares": 0.5}
    for method in plan.methods:
        for sampled, lr in zip((0.3, 0.6, 0.5), (*plan.rates, 1.6e-3), strict=True):
            for seed in plan.tuning_seeds:
                write(Run("chains-14", method, lr, seed), tuning=True, sampled=sampled)
        for seed in range(4):
            run = Run("chains-14", method, plan.rates[1], seed)
            more = 0.08 * (seed % 2) if method == "perfect" else 0
            write(run, tuning=False, sampled=reached.get(method, 0.6) + 0.02 * seed + more)
    sweep.result_file(Run("chains-14", "hops3", plan.rates[1], 0), tuning=False).unlink()
    found = headroom.numbers()
    assert found.keys() == {"chains-14"}
    room = found["chains-14"]["headroom"]
    assert (room["difference"], room["error"]) == pytest.approx((0.22, 0.02 / 3**0.5))  # 0.2 and 0.24, half the ends'
    assert headroom.has_room(found["chains-14"])
    assert not headroom.has_room({"headroom": {"difference": 0.22, "error": 0.08}})
    carried = found["chains-14"]["methods"]["carried"]
    assert (carried["rate"], carried["of_headroom"]["share"]) == (plan.rates[1], pytest.approx(0.15 / 0.22))
    assert carried["against_grpo"]["difference"] == pytest.approx(0.15)
    assert carried["against_even"]["difference"] == pytest.approx(0.1)
    assert found["chains-14"]["methods"]["perfect"]["against_even"]["difference"] == pytest.approx(0.17)
    assert "| chains-14 | `grpo` | 0.0004: 0.150 · **0.0008: 0.300** · 0.0016: 0.250 |" in headroom.tuning_table()
    assert "+0.150 (+0.150 to +0.150), p 0.125 | 0.68 (" in headroom.rules_table(found)
    final = "+0.300 (+0.300 to +0.300), p 0.125"  # of everything at the end, and of greedy accuracy throughout
    assert f"| chains-14 | `carried` | {' | '.join([final] * 4)} |" in headroom.measures_table(found)
    screened = headroom.screened_table(found)  # of seeds 0 and 1: 0.2 and 0.21 with GRPO, 0.4 and 0.45 at best
    assert "| chains-14 | `oar_g` | 0.0008 | 0.300 · 0.310 | 0.305 | 0.45 |" in screened
    assert "`hops3`" not in screened  # of which there is no seed 0
    assert "`oar_g`" not in headroom.rules_table(found)  # which is of what went to all seeds
    sweep.result_file(Run("chains-14", "grpo", plan.rates[1], 0), tuning=False).unlink()
    assert "chains-14" not in headroom.screened_table(headroom.numbers())  # until the ends are there


def test_all_methods_go_to_two_seeds_and_what_is_compared_to_all(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "RESULTS", tmp_path)
    plan = sweep.Plan(("grpo", "perfect", "oar_g", "grail"), ("grpo", "perfect"), seeds=range(4))
    monkeypatch.setitem(sweep.PLANS, "chains-14", plan)
    for method in plan.methods[:3]:
        for lr, sampled in ((2e-4, 0.1), (4e-4, 0.5), (8e-4, 0.4)):
            write(Run("chains-14", method, lr, 100), tuning=True, sampled=sampled)
    sweep.main(["chains-14"], parallel=1, dry=True)
    lines = capsys.readouterr().out.splitlines()
    assert all(line.startswith("to run: python -m recipes.study.train chains-14 ") for line in lines)
    found = sorted(tuple(line.split()[6:11]) for line in lines)
    seeds = {"grpo": range(4), "perfect": range(4), "oar_g": range(2)}
    assert found == sorted(
        [("grail", "--lr", lr, "--seed", "100") for lr in ("0.0004", "0.0008")]  # its rate is not chosen yet
        + [(method, "--lr", "0.0004", "--seed", str(seed)) for method in seeds for seed in seeds[method]]
    )


def test_stored_runs_are_what_their_names_say_at_the_rate_that_was_chosen():
    for task in headroom.STUDIED:
        for file in sorted((sweep.RESULTS / "runs" / task).glob("*.json")):
            stored = json.loads(file.read_text())
            run = Run(**stored["run"])
            assert file == sweep.result_file(run, tuning=False)
            assert stored["command"] == " ".join(["python", *sweep.command(run, file)[:-2]])
            assert run.lr == sweep.chosen_rate(task, run.method)
            every = range(0, run.sizes.steps + 1, run.sizes.evaluate_every)
            assert [point["step"] for point in stored["evaluation"]] == list(every)
            assert stored.get("sizes", vars(run.sizes)) == vars(run.sizes)  # older files have none


def test_methods_with_a_presets_name_are_the_preset():
    for preset, method in {"surprise": "surprise_shares", "carried": "carried", "high_entropy": "high_entropy"}.items():
        given = train.overrides(Run("chains-14", method, 1e-4, seed=0))
        _, *others = (override for override in given if not override.lstrip("+").startswith("algorithm."))
        assert train.compose(given).algorithm == train.compose([f"+grail=[cpu,{preset}]", *others]).algorithm


def test_one_methods_rate_is_all_the_others(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "RESULTS", tmp_path)
    assert sweep.untried_rates("language-sums", "grail") == [5e-6, 1e-5, 2e-5]
    for lr, sampled in ((5e-6, 0.3), (1e-5, 0.2), (2e-5, 0.1)):
        write(Run("language-sums", "grpo", lr, 100), tuning=True, sampled=sampled)
    assert sweep.untried_rates("language-sums", "grail") == [] and sweep.chosen_rate("language-sums", "grail") == 5e-6


def write(run: Run, tuning: bool, sampled: float) -> None:
    file = sweep.result_file(run, tuning)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(result(run, sampled)))


def test_tables_go_where_the_page_marks_them(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table: one -->\nold\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n")
    replace_block(page, "one", r"| \1 |")
    assert page.read_text() == "a\n<!-- table: one -->\n| \\1 |\n<!-- end -->\nb\n<!-- table: two -->\n<!-- end -->\n"
    with pytest.raises(ValueError, match="0 blocks"):
        replace_block(page, "three", "")


def test_the_page_of_headroom_shows_the_results():
    page, found = headroom.PAGE.read_text(), headroom.numbers()
    stored = json.loads((headroom.RESULTS / "headroom.json").read_text())
    for numbers in (found, stored):
        for name, text in headroom.tables(numbers).items():
            assert f"<!-- table: {name} -->\n{text}\n<!-- end -->" in page


def test_readme_says_what_the_rules_win():
    readme = (DOCUMENTS.parents[1] / "README.md").read_text(encoding="utf-8")
    found = headroom.numbers()
    of_14, of_20 = (found[task]["methods"] for task in ("chains-14", "chains-20"))
    for beginning, text, of in (
        ("| `+grail=surprise`", "chains of 14: {}; of 20: ", of_14["surprise_shares"]),
        ("| `+grail=surprise`", "; of 20: {} |", of_20["surprise_shares"]),
        ("| `+grail=carried`", "| chains of 14: {}, p 0.07 |", of_14["carried"]),
        ("| GRAIL,", "; chains of 20: {} |", of_20["grail"]),
    ):
        against = of["against_grpo"]
        gain = "{:+.3f} ({:+.3f} to {:+.3f})".format(against["difference"], *against["interval"]).replace("-", "−")
        (row,) = (line for line in readme.splitlines() if line.startswith(beginning))
        assert text.format(gain) in row
    said = "GRPO's mean sampled accuracy over the run is {:.2f} and {:.2f}; perfect credit, worked out from the task, "
    said += "adds {:.2f} and {:.2f}, `surprise` {:.2f} and {:.2f} of that, "
    said += "its sum spread evenly nothing sure ({} seeds,"
    values = (
        *(of["grpo"]["mean"] for of in (of_14, of_20)),
        *(found[task]["headroom"]["difference"] for task in ("chains-14", "chains-20")),
        *(of["surprise_shares"]["of_headroom"]["share"] for of in (of_14, of_20)),
        len(of_14["perfect"]["seeds"]),
    )
    assert said.format(*values) in " ".join(readme.split())
    for of in (of_14, of_20):  # what "sure" means
        assert of["surprise_shares"]["of_headroom"]["interval"][0] > 0
        low, high = of["even_shares"]["against_grpo"]["interval"]
        assert low < 0 < high
    assert "With filler even shares may suffice." in " ".join(readme.split())
    assert found["chains-8-filler"]["methods"]["even_shares"]["of_headroom"]["interval"][1] > 1


def test_the_page_shows_the_results():
    page = (DOCUMENTS / "training.md").read_text()
    found = curves.numbers()
    assert {task: results["seeds"] for task, results in found.items()} == {t: list(sweep.PLANS[t].seeds) for t in FIRST}
    for name, text in curves.tables(found).items():
        assert f"<!-- table: {name} -->\n{text}\n<!-- end -->" in page
