"""One run of the study: one policy, trained in one process by verl's own worker, engine and loss.

    python -m recipes.study.train chains grail --lr 1e-4 --seed 0      # results in outputs/study/run.json

verl's ActorRolloutRefWorker, with the plugin's hook in it, takes the step, and the plugin's generation server, which
`+grail=cpu` runs as a Ray actor, writes the responses; Ray, TransferQueue and nine processes' start-up are left out.
Config, order of the problems, random numbers of each response, reward and advantages are those of main_ppo with the
same overrides; main_ppo.py runs that and shows both curves. Simplification: the rollout's log-probs are the old ones,
where main_ppo computes them again.

Of the same seed, every method starts from the same policy and is given the same problems and random numbers.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from tensordict import TensorDict
from verl.utils.device import get_device_name

from recipes.study import truth
from recipes.study.annotate import annotate
from recipes.study.methods import METHODS
from recipes.study.policy import build
from recipes.study.reward import compute_score
from recipes.study.tasks import TASKS

PROBLEMS, TRIES = 2048, 3
KEPT = ("reward", "grad_norm", "grail/weight_mean", "grail/weight_std", "grail/advantage_scale_ratio")


@dataclass(frozen=True)
class Sizes:
    """Of a task's runs. A step has `prompts` problems of `samples` responses each, `rows` of them at a time in the
    actor; every so many steps, and before the first, the policy answers `held_out` problems."""

    steps: int = 40
    evaluate_every: int = 8
    prompts: int = 8
    samples: int = 8
    rows: int = 64
    held_out: int = 128


SIZES = {  # of other tasks: Sizes()
    "word_problems": Sizes(steps=16, evaluate_every=16, prompts=4, samples=4, rows=4, held_out=32),
    "language-sums": Sizes(steps=20, evaluate_every=10, rows=16),
    "language-sums-5": Sizes(steps=10, evaluate_every=10, prompts=2, rows=16, held_out=48),
}


@dataclass(frozen=True)
class Run:
    task: str
    method: str
    lr: float
    seed: int

    @property
    def sizes(self) -> Sizes:
        return SIZES.get(self.task, Sizes())


def policy_folder(task: str) -> Path:
    return Path("outputs/study", task, "policy")


def problems(task: str, count: int, validation: bool) -> list[str]:
    """The same for every run."""
    rng = random.Random(int(validation))
    return [TASKS[task].draw_problem(rng, validation) for _ in range(count)]


def overrides(run: Run) -> list[str]:
    """What a user would give to main_ppo."""
    sizes = run.sizes
    return [
        "+grail=cpu",
        f"data.seed={run.seed}",
        f"data.train_batch_size={sizes.prompts}",
        "data.max_prompt_length=96",
        f"data.max_response_length={TASKS[run.task].response_tokens}",
        f"actor_rollout_ref.model.path={policy_folder(run.task)}",
        "actor_rollout_ref.model.use_remove_padding=False",
        "actor_rollout_ref.model.enable_gradient_checkpointing=False",
        f"actor_rollout_ref.actor.optim.lr={run.lr}",
        f"actor_rollout_ref.actor.ppo_mini_batch_size={sizes.prompts}",
        f"actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu={sizes.rows}",
        f"actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu={sizes.rows}",
        f"actor_rollout_ref.rollout.n={sizes.samples}",
        f"actor_rollout_ref.rollout.seed={run.seed}",
        f"trainer.device={get_device_name()}",
        f"trainer.total_training_steps={sizes.steps}",
        *METHODS[run.method],
    ]


def area(evaluation: Sequence[dict], measure: str) -> float:
    """Mean of an accuracy over the run: the area under its curve, by trapezoids, over the number of steps."""
    steps = [point["step"] for point in evaluation]
    return float(np.trapezoid([point[measure] for point in evaluation], steps) / (steps[-1] - steps[0]))


def compose(given: Sequence[str]):
    """verl's config, checked by verl and the plugin as main_ppo does."""
    from hydra import compose, initialize_config_module
    from verl.utils.config import validate_config

    with initialize_config_module("verl.trainer.config", version_base=None):
        config = compose("ppo_trainer", list(given))
    validate_config(config, use_reference_policy=False, use_critic=False)
    return config


class Trainer:
    """The parts of main_ppo that a run needs, in this process."""

    def __init__(self, run: Run):
        from verl.trainer.ppo.utils import create_rl_sampler
        from verl.utils.config import omega_conf_to_dataclass
        from verl.workers.engine_workers import ActorRolloutRefWorker

        from grail_verl.cpu.rollout import GenerationServer

        self.run, self.config = run, compose(overrides(run))
        worker = ActorRolloutRefWorker(self.config.actor_rollout_ref, role="actor")
        worker.init_model()
        self.actor = worker.actor
        self.tokenizer = self.actor.model_config.tokenizer
        self.server = GenerationServer(
            omega_conf_to_dataclass(self.config.actor_rollout_ref.rollout), self.actor.model_config, replica_rank=0
        )
        self.held_out = problems(run.task, run.sizes.held_out, validation=True)
        training = problems(run.task, PROBLEMS, validation=False)
        self.training = (training[index] for index in create_rl_sampler(self.config.data, training))

    def prompt(self, problem: str) -> list[int]:
        message = [{"role": "user", "content": problem}]
        return self.tokenizer.apply_chat_template(message, add_generation_prompt=True, return_dict=False)

    async def respond(self, asked: Sequence[tuple[str, float]]) -> list[tuple[list[int], list[float], float]]:
        """Tokens, log-probs and reward for problems and temperatures."""
        answers = await asyncio.gather(
            *[
                self.server.generate(self.prompt(problem), {"temperature": temperature, "logprobs": True}, "")
                for problem, temperature in asked
            ]
        )
        return [
            (answer.token_ids, answer.log_probs, self.score(problem, answer.token_ids))
            for (problem, _), answer in zip(asked, answers, strict=True)
        ]

    def score(self, problem: str, tokens: list[int]) -> float:
        text = self.tokenizer.decode(tokens, skip_special_tokens=True)
        return compute_score(self.run.task, text, "", {"problem": problem})

    async def hand_over(self, step: int) -> None:
        named, _ = self.actor.engine.get_per_tensor_param()
        weights = {name: tensor.detach().cpu().numpy() for name, tensor in named}
        await self.server.update_weights(weights, step, last=True)

    async def evaluate(self) -> dict:
        asked = [(problem, temperature) for problem in self.held_out for temperature in [1.0] * TRIES + [0.0]]
        responses = await self.respond(asked)
        scores = np.array([score for *_, score in responses]).reshape(-1, TRIES + 1)
        sampled, greedy = scores[:, :TRIES], scores[:, TRIES]
        print(f"held out: {sampled.mean():.3f} sampled, {greedy.mean():.3f} greedy", flush=True)
        return {
            "sampled": sampled.mean(),
            "greedy": greedy.mean(),
            "pass@3": sampled.max(axis=1).mean(),
            "right": sampled.sum(axis=1).astype(int).tolist(),  # of the tries at each problem
            "tokens": np.percentile([len(tokens) for tokens, *_ in responses], [0, 50, 100]).tolist(),
        }

    async def step(self) -> dict[str, float]:
        """One of verl's steps; the mean reward and the actor's metrics."""
        from verl.utils import tensordict_utils as tu

        drawn = [next(self.training) for _ in range(self.run.sizes.prompts)]
        asked = [problem for problem in drawn for _ in range(self.run.sizes.samples)]
        responses = await self.respond([(problem, 1.0) for problem in asked])
        output = self.actor.train_mini_batch(self.batch(asked, responses))
        metrics = {name: np.mean(value) for name, value in tu.get(output, "metrics").items()}
        return {"reward": np.mean([reward for *_, reward in responses]), **metrics}

    def batch(self, asked: Sequence[str], responses: Sequence[tuple[list[int], list[float], float]]) -> TensorDict:
        """What verl's trainer hands to the actor (V1's `_compute_advantage` and `_update_actor`)."""
        from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage
        from verl.utils import tensordict_utils as tu

        lengths = [len(tokens) for tokens, *_ in responses]
        mask_BT = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        rewards_BT = torch.zeros(mask_BT.shape)
        rewards_BT[:, 0] = torch.tensor([reward for *_, reward in responses])
        advantages_BT, _ = compute_grpo_outcome_advantage(
            rewards_BT,
            mask_BT.float(),
            np.array(asked),
            norm_adv_by_std_in_grpo=self.config.algorithm.norm_adv_by_std_in_grpo,
        )
        of_problem: dict[str, list[float]] = {}
        for problem, (*_, reward) in zip(asked, responses, strict=True):
            of_problem.setdefault(problem, []).append(reward)
        rows: dict[str, list] = {}
        for row, (problem, (tokens, log_probs, reward)) in enumerate(zip(asked, responses, strict=True)):
            prompt, response = torch.tensor(self.prompt(problem)), torch.tensor(tokens)
            ones = torch.ones_like(response)
            advantages = advantages_BT[row, : len(tokens)]
            for name, values in {
                "prompts": prompt,
                "responses": response,
                "input_ids": torch.cat([prompt, response]),
                "position_ids": torch.arange(len(prompt) + len(response)),
                "response_mask": ones,
                "loss_mask": ones,
                "advantages": advantages * self.truth(problem, tokens, reward == 1, np.mean(of_problem[problem])),
                "old_log_probs": torch.tensor(log_probs),
            }.items():
                rows.setdefault(name, []).append(values)
        actor = self.config.actor_rollout_ref.actor
        mini_batch = actor.ppo_mini_batch_size * self.run.sizes.samples
        settings = {
            "temperature": 1.0,
            "mini_batch_size": mini_batch,
            "global_batch_size": mini_batch,
            "epochs": actor.ppo_epochs,
            "seed": actor.data_loader_seed,
            "dataloader_kwargs": {"shuffle": actor.shuffle},
            "calculate_entropy": False,
            "pad_token_id": self.tokenizer.pad_token_id,
        }
        nested = {name: torch.nested.as_nested_tensor(values, layout=torch.jagged) for name, values in rows.items()}
        return tu.get_tensordict(nested, non_tensor_dict=settings)

    def truth(self, problem: str, tokens: list[int], right: bool, rate: float) -> torch.Tensor:
        """(tokens,) weights of a method that knows the truth, what ends a response as its last token before; 1 for any
        other method, and where a response leaves the task's form. `rate`: of right responses to the problem."""
        weights = torch.ones(len(tokens))
        if self.run.method in truth.WEIGHTS:
            ended = tokens[-1] == self.tokenizer.eos_token_id
            body = tokens[:-1] if ended else tokens
            pieces = [self.tokenizer.decode([token], skip_special_tokens=True) for token in body]
            note = annotate(self.run.task, problem, pieces)
            if note is not None:
                weights[: len(body)] = truth.WEIGHTS[self.run.method](note, right, rate)
                weights[len(body) :] = weights[len(body) - 1]
        return weights

    async def train(self) -> dict[str, list]:
        """The curves: training metrics at every step, evaluations before, between and after."""
        await self.hand_over(0)
        curves = {"training": {}, "evaluation": [{"step": 0, **await self.evaluate()}]}
        for step in range(1, self.run.sizes.steps + 1):
            metrics = await self.step()
            print(f"step {step} of {self.run.sizes.steps}: reward {metrics['reward']:.3f}", flush=True)
            for name, value in metrics.items():
                if name in KEPT:
                    curves["training"].setdefault(name, []).append(round(float(value), 5))
            await self.hand_over(step)
            if step % self.run.sizes.evaluate_every == 0:
                curves["evaluation"].append({"step": step, **await self.evaluate()})
        return curves


def main(run: Run, out: Path, policy: Path | None = None) -> None:
    """Writes the run's results, and the trained policy where a folder is given for it."""
    started = time.perf_counter()
    build(run.task, policy_folder(run.task))
    torch.set_num_threads(1)
    torch.manual_seed(run.seed)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    trainer = Trainer(run)
    curves = asyncio.run(trainer.train())
    if policy is not None:
        from recipes.quickstart.policy import save_whole

        save_whole(policy, trainer.server.generator.model, trainer.tokenizer)
    result = {
        "run": vars(run),
        "sizes": vars(run.sizes),
        "command": f"python -m recipes.study.train {run.task} {run.method} --lr {run.lr:g} --seed {run.seed}",
        "versions": {"python": platform.python_version(), **{p: version(p) for p in ("grail-verl", "torch", "verl")}},
        "seconds": round(time.perf_counter() - started, 1),
        **curves,
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result, default=float) + "\n")
    unfinished.rename(out)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--lr", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, default=Path("outputs/study/run.json"), help="for the results: %(default)s")
    parser.add_argument("--policy", type=Path, help="folder for the trained policy")
    given = parser.parse_args()
    if given.lr <= 0:
        parser.error(f"--lr {given.lr:g}: a learning rate above 0")
    main(Run(given.task, given.method, given.lr, given.seed), given.out, given.policy)
