"""The places where verl has no extension point: every monkeypatch of the plugin, each with its reason.

Each is installed right after its module was imported, checks that what it replaces still has the shape it
knows, and fails the import loudly when it has not. With another estimator than `grail`, or
another reward than grail_verl.reward, each one passes its call through untouched. (What a CPU needs beyond this is in
cpu/patches.py.)
"""

import functools
import inspect
from collections.abc import Callable
from types import ModuleType

from grail_verl.hook.launch import ESTIMATOR, from_section, prepare, require_prepared, require_weighted
from grail_verl.hook.reward import is_graded_here, prepare_reward


def _replace(module: ModuleType, name: str, parameters: set[str], wrap: Callable) -> None:
    original = getattr(module, name, None)
    known = set(inspect.signature(original).parameters) if callable(original) else set()
    if not parameters <= known:
        raise ImportError(
            f"grail-verl does not know this verl: {module.__name__}.{name} should take "
            f"{', '.join(sorted(parameters))}; grail-verl is built for verl 0.9.1"
        )
    setattr(module, name, functools.wraps(original)(wrap(original)))


def validate_config(module: ModuleType) -> None:
    """verl.utils.config.validate_config: the one call between the composed config and ray.init. Hydra has
    no hook there, and a wrong option has to stop the command within seconds."""
    _replace(module, "validate_config", {"config"}, _prepared)


def run_ppo(module: ModuleType) -> None:
    """verl.trainer.main_ppo.run_ppo: what other entry points import from there and call before they validate the
    config, or without doing so. (main_ppo itself is __main__, which is not imported.)"""
    _replace(module, "run_ppo", {"config", "task_runner_class"}, _prepared)


def _prepared(original: Callable) -> Callable:
    def prepared(config, *args, **kwargs):
        prepare(config)
        prepare_reward(config)
        return original(config, *args, **kwargs)

    return prepared


def agent_loop(module: ModuleType) -> None:
    """verl.experimental.agent_loop.agent_loop.AgentLoopWorker._compute_score: it sends a response to the reward worker
    without its mask. The mask goes with the fields of the agent loop, for the time of the call."""

    def wrap(original):
        async def compute_score(self, outputs, kwargs):
            if not is_graded_here(self.config):
                return await original(self, outputs, kwargs)
            from grail_verl.hook.truncation import written
            from grail_verl.reward.manager import MASK  # needs math-verify

            for output in outputs:
                output.extra_fields[MASK] = list(written(output.response_mask))
            try:
                return await original(self, outputs, kwargs)
            finally:
                for output in outputs:
                    output.extra_fields.pop(MASK, None)

        return compute_score

    _replace(module.AgentLoopWorker, "_compute_score", {"outputs", "kwargs"}, wrap)


def tracking(module: ModuleType) -> None:
    """verl.utils.tracking.Tracking: all that a trainer hands its backends of a step are numbers. It is made with the
    whole config, and its `log` knows a step's number and comes when its records are written."""

    def made(original):
        signature = inspect.signature(original)

        def make(self, *args, **kwargs):
            original(self, *args, **kwargs)
            from grail_verl.hook.pictures import pictures_of

            config = signature.bind(self, *args, **kwargs).arguments.get("config")
            self.grail_pictures = pictures_of(config, self.logger)

        return make

    def logged(original):
        def log(self, data, step, *args, **kwargs):
            original(self, data, step, *args, **kwargs)
            if self.grail_pictures is not None:
                self.grail_pictures.log(data, step)

        return log

    _replace(module.Tracking, "__init__", {"default_backend", "config"}, made)
    _replace(module.Tracking, "log", {"data", "step"}, logged)


def multi_trajectory_advantage(module: ModuleType) -> None:
    """verl.trainer.ppo.v1.utils.compute_advantage_for_multi_trajectories: it gives sessions with several
    outputs GRPO's treatment (statistics over final outputs, then broadcast) only if the estimator's name
    is "grpo". `grail` must have the same, so verl is told "grpo" for that call."""

    def wrap(original):
        def compute(data, *args, adv_estimator, norm_adv_by_std_in_grpo=True, **kwargs):
            if adv_estimator != ESTIMATOR:
                settings = {"adv_estimator": adv_estimator, "norm_adv_by_std_in_grpo": norm_adv_by_std_in_grpo}
                return original(data, *args, **settings, **kwargs)
            from grail_verl.hook.estimator import without_rounding

            def grpo(by_std: bool):
                done = original(data, *args, adv_estimator="grpo", norm_adv_by_std_in_grpo=by_std, **kwargs)
                return done.batch["advantages"]

            require_prepared(kwargs["config"])
            centred_BT, advantages_BT = grpo(False), grpo(norm_adv_by_std_in_grpo)
            rewards_BT, groups = data.batch["token_level_rewards"], data.non_tensor_batch["uid"]
            advantages_BT = without_rounding(advantages_BT, centred_BT, rewards_BT, groups)
            data.batch["advantages"] = data.batch["returns"] = advantages_BT
            return data

        return compute

    _replace(module, "compute_advantage_for_multi_trajectories", {"adv_estimator", "config"}, wrap)


def rollout_correction(module: ModuleType) -> None:
    """verl.trainer.ppo.rollout_corr_helper.compute_rollout_correction_and_add_to_batch: it takes rejected tokens out of
    the response mask, the only one that the legacy trainer has, and there they look like a tool's."""

    def wrap(original):
        def compute(batch, rollout_corr_config):
            written = batch.batch["response_mask"]
            batch, metrics = original(batch, rollout_corr_config)
            if from_section(rollout_corr_config, "..adv_estimator") == ESTIMATOR:
                from grail_verl.hook.batch import WRITTEN

                batch.batch[WRITTEN] = written
            return batch, metrics

        return compute

    parameters = {"batch", "rollout_corr_config"}
    _replace(module, "compute_rollout_correction_and_add_to_batch", parameters, wrap)


def trainer(module: ModuleType) -> None:
    """verl.trainer.ppo.v1.trainer_base.PPOTrainer._update_actor: whose worker made an update, only its metrics tell
    the driver."""

    def wrap(original):
        def update_actor(self, batch, metrics):
            updated = original(self, batch, metrics)
            require_weighted(self.config, metrics)
            return updated

        return update_actor

    _replace(module.PPOTrainer, "_update_actor", {"batch", "metrics"}, wrap)


def legacy_trainer(module: ModuleType) -> None:
    """verl.trainer.ppo.ray_trainer.RayPPOTrainer._update_actor: the same."""

    def wrap(original):
        def update_actor(self, batch):
            output = original(self, batch)
            require_weighted(self.config, output.meta_info["metrics"])
            return output

        return update_actor

    _replace(module.RayPPOTrainer, "_update_actor", {"batch"}, wrap)
