"""Over 2,000 responses, honest and hostile, through verl's own reward worker: all graded, the honest ones rightly."""

import random
import time

import numpy as np
import pytest
import tiny
import torch

pytest.importorskip("math_verify")

pytestmark = pytest.mark.end_to_end

SEED = 0
RIGHT, WRONG, HOSTILE = "right", "wrong", "hostile"


def honest(draw: random.Random):
    """A truth, an answer that is right and one that is wrong; another spelling, so that few are equal as text."""
    n, m, k = draw.randint(2, 99), draw.randint(2, 99), draw.randint(1, 9)
    return draw.choice([
        (f"{n}", f"{n}", f"{n + k}"),
        (f"{n}", f"{n}.0", f"{n}.5"),
        (f"{1000 * n}", f"{n}{{,}}000", f"{n}{{,}}001"),
        (rf"\frac{{{n}}}{{{m}}}", f"{n * k}/{m * k}", f"{n * m + 1}/{m * m}"),
        (f"{n}.5", rf"{n}\frac{{1}}{{2}}", rf"{n}\frac{{1}}{{3}}"),
        (rf"{n}\%", f"{n / 100}", f"{n / 1000}"),
        (f"({n}, {m})", rf"\left({n}.0, {m}\right)", f"({n}, {m + k})"),
        (rf"\{{{n}, {n + m}\}}", rf"\{{{n + m}, {n}\}}", rf"\{{{n}, {n + m + 1}\}}"),
        (f"[{n}, {n + m})", f"[{n}, {n + m}.0)", f"[{n}, {n + m}]"),
        (f"x^2+{n + m}x+{n * m}", f"(x+{n})(x+{m})", f"(x+{n})(x+{m + k})"),
        (rf"{n}\sqrt{{{m}}}", rf"\sqrt{{{n * n * m}}}", rf"\sqrt{{{n * n * m + k}}}"),
        (f"x = {n}", f"{n}.0", f"y = {n}"),
        (f"{k}.5e{n}", rf"{k}.5 \times 10^{{{n}}}", rf"{k}.5 \times 10^{{{n + 1}}}"),
        (r"\text{Evelyn}", "Evelyn", r"\text{Carla}"),
        ("C", r"\text{(C)}", "D"),
    ])  # fmt: skip


# What ends at once: too long, not LaTeX, or nothing that the grammar takes.
QUICK = [
    lambda draw, n: "9" * (n * 20),
    lambda draw, n: "{" * n + "}" * n,
    lambda draw, n: "".join(draw.choices("{}", k=n)),
    lambda draw, n: "".join(draw.choices(r"\{}$^_&%#~ 0123456789abcxyz()[],.+-*/=<>|!", k=n)),
    lambda draw, n: bytes(draw.choices(range(256), k=n)).decode("latin-1"),
    lambda draw, n: "\0" * n,
    lambda draw, n: "".join(map(chr, draw.choices([0xFFFD, 0x202E, 0x200B, 0x1D7D8, 0x0661, 0x2075, 0xE000], k=n))),
    lambda draw, n: "$" * n,
    lambda draw, n: r"\frac" * n,
    lambda draw, n: r"\sqrt{" * (n * 3) + "2" + "}" * (n * 3),
    lambda draw, n: r"\begin{pmatrix}" + r"\\".join("&".join("12" * 9) for _ in range(n)),
    lambda draw, n: r"\{" + ",".join(str(i) for i in range(n)) + r"\}",
    lambda draw, n: r"\left(" * n,
    lambda draw, n: r"\sin(" * (n + 9) + "7" + ")" * (n + 9),
    lambda draw, n: r"\boxed{" * n + "-1",
    lambda draw, n: r"\boxed{-1" + " " * (n * 100),
    lambda draw, n: r"\text{__import__('os').system('touch grail_verl_was_here')}",
    lambda draw, n: "__import__('os').system('touch grail_verl_was_here')",
    lambda draw, n: f"exec(chr({n}))+open('/dev/zero').read()",
    lambda draw, n: r"\variable{" + "a" * n + "}",
    lambda draw, n: r"\input{/etc/passwd}" + r"\write18{yes}" * (n % 3),
    lambda draw, n: r"\def\x{\x\x}\x" + "x" * n,
    lambda draw, n: "1" + r"\pm 1" * (n % 12),
    lambda draw, n: r"\frac{1}{0}" + "+0" * (n % 12),
    lambda draw, n: "0^{-1}" if n % 2 else r"\infty-\infty",
]

# What does not end, or not in time; a few seconds each.
SLOW = [
    "9^{9^{9^{9}}}",
    r"10^{10^{10^{10}}}",
    "99999999!",
    "((9!)!)!",
    r"\binom{99999999999}{9999999}",
    r"\prod_{n=1}^{999999} n",
    r"\sum_{n=1}^{99999999} \frac{1}{n^2}",
    r"\int_0^1 e^{x^{x^x}} dx",
    r"\operatorname{eye}(99999)",
    r"\operatorname{zeros}(9999, 99999)",
    "(x+y+z+w)^{500}",
    "x^{9999}+(x+1)^{99999}",
    r"\begin{pmatrix}" + r"\\".join("&".join("x^{9}" for _ in range(12)) for _ in range(12)) + r"\end{pmatrix}",
    r"\det\begin{pmatrix}" + r"\\".join("&".join(f"x^{i + j}" for i in range(9)) for j in range(9)) + r"\end{pmatrix}",
]


LONG = ["9", r"\boxed{", "{", "}", " "]  # a million of each


def cases() -> list[tuple[str, str, str, bytes]]:
    """(kind, truth, answer, what stands around the box)"""
    draw, rows = random.Random(SEED), []
    for _ in range(350):
        truth, right, wrong = honest(draw)
        rows += [(RIGHT, truth, right), (WRONG, truth, wrong)]
    for family in QUICK:
        rows += [(HOSTILE, honest(draw)[0], family(draw, draw.randint(1, 60))) for _ in range(52)]
    rows += [(HOSTILE, r"\sum_{n=1}^{3} n", answer) for answer in SLOW]  # next to a sum, sums are computed as well
    draw.shuffle(rows)
    return rows


@pytest.fixture(scope="module")
def worker(tmp_path_factory):
    """verl's reward worker as an actor of Ray's, built from main_ppo's own config."""
    ray = pytest.importorskip("ray")
    from hydra import compose, initialize_config_module
    from verl.experimental.reward_loop.reward_loop import RewardLoopWorker, migrate_legacy_reward_impl

    policy = tmp_path_factory.mktemp("policy")
    tiny.save_policy(policy)
    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose(
            "ppo_trainer",
            [
                f"actor_rollout_ref.model.path={policy}",
                "reward.custom_reward_function.path=pkg://grail_verl.reward",
                "reward.custom_reward_function.name=compute_score",
            ],
        )
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=True)
    actor = ray.remote(RewardLoopWorker).remote(migrate_legacy_reward_impl(config))
    yield lambda data: ray.get(actor.compute_score_batch.remote(data))
    ray.shutdown()


def batch(rows: list[tuple[str, list[int]]]):
    """Ground truths and response tokens as verl hands them to its reward workers."""
    from tensordict import TensorDict
    from verl.protocol import DataProto

    width = max(len(ids) for _, ids in rows)
    responses = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), 2 + width, dtype=torch.long)
    mask[:, :2] = 1
    for row, (_, ids) in enumerate(rows):
        responses[row, : len(ids)] = torch.tensor(ids)
        mask[row, 2 : 2 + len(ids)] = 1
    tensors = {"prompts": torch.ones(len(rows), 2, dtype=torch.long), "responses": responses, "attention_mask": mask}
    texts = {
        "data_source": ["hostile"] * len(rows),
        "reward_model": [{"style": "rule", "ground_truth": truth} for truth, _ in rows],
        "extra_info": [{"index": index} for index in range(len(rows))],
    }
    columns = {name: np.array(column, dtype=object) for name, column in texts.items()}
    return DataProto(TensorDict(tensors, len(rows)), columns)


def test_hostile_answers_through_verls_reward_worker(worker):
    tokenizer, draw, rows = tiny.tokenizer(), random.Random(SEED), cases()
    assert len(rows) > 2000
    invalid = tokenizer.convert_tokens_to_ids(["ð", "Ł", "ł"])  # lone bytes F0, 80 and 81: no UTF-8
    filler = [[], tokenizer.encode(r"First \boxed{0}. "), invalid * 20, tokenizer.encode(r"\boxed{ {{ ")]
    responses = []
    for _, truth, answer in rows:
        ids = draw.choice(filler) + tokenizer.encode(rf"so \boxed{{{answer}}}") + draw.choice([[], invalid, [1]])
        responses.append((truth, ids))
    for piece in LONG:
        rows.append((HOSTILE, "7", piece * 1_000_000))
        responses.append(("7", tokenizer.encode(rf"so \boxed{{{piece * 1_000_000}}}")))

    started, results = time.perf_counter(), []
    for first in range(0, len(rows) - len(LONG), 128):
        results += worker(batch(responses[first : min(first + 128, len(rows) - len(LONG))]))
    for response in responses[-len(LONG) :]:  # alone: a batch is padded to its longest
        results += worker(batch([response]))
    seconds = time.perf_counter() - started

    assert len(results) == len(rows)
    extra = [result["reward_extra_info"] for result in results]
    keys = ["score", "acc", "answer_found", "grading_failed"]
    assert all(list(info) == keys and result["reward_score"] == info["score"] for info, result in zip(extra, results))
    graded = [(*row, info["score"], info["grading_failed"]) for row, info in zip(rows, extra)]
    assert not [row for row in graded if row[0] == RIGHT and row[3:] != (1.0, 0.0)]
    assert not [row for row in graded if row[0] == WRONG and row[3:] != (0.0, 0.0)]
    assert not [row[:2] + (row[2][:200],) for row in graded if row[0] == HOSTILE and row[3] and row[2] != row[1]]
    failed = [row for row in graded if row[4]]
    print(f"{len(rows)} answers in {seconds:.0f} s, {len(failed)} failed:", sorted({row[2][:30] for row in failed}))
    assert len(SLOW) // 2 <= len(failed) <= 4 * len(SLOW)
