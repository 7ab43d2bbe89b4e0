"""Registers GRAIL with verl, and nothing else.

verl imports this module at `import verl`, in every process, through the entry point group `verl.plugins`,
and logs what goes wrong at DEBUG only. So nothing heavy happens here (registrations wait for the verl
module they belong to), and trouble is told on stderr; a command that asks for grail ends with it.
"""

import os
import sys

from packaging.specifiers import SpecifierSet
from wrapt import when_imported

# No pre-release of 0.10, by PEP 440: two of one number differ (docs/releases.md). hydra_plugins/ says it, too.
SUPPORTED = ">=0.9,<0.10"


def _register() -> None:
    import verl  # being imported right now: __version__ is set before plugins are loaded

    if not SpecifierSet(SUPPORTED).contains(verl.__version__, prereleases=True):
        raise ImportError(f"needs verl {SUPPORTED}; found verl {verl.__version__}")

    from grail_verl.hook import patches

    when_imported("verl.utils.config")(patches.validate_config)
    when_imported("verl.trainer.main_ppo")(patches.run_ppo)
    when_imported("verl.trainer.ppo.v1.utils")(patches.multi_trajectory_advantage)
    when_imported("verl.trainer.ppo.rollout_corr_helper")(patches.rollout_correction)
    when_imported("verl.trainer.ppo.v1.trainer_base")(patches.trainer)
    when_imported("verl.trainer.ppo.ray_trainer")(patches.legacy_trainer)
    when_imported("verl.utils.tracking")(patches.tracking)
    when_imported("verl.experimental.agent_loop.agent_loop")(patches.agent_loop)
    when_imported("verl.trainer.ppo.core_algos")(_register_estimator)
    when_imported("verl.workers.engine_workers")(_register_worker)
    when_imported("verl.experimental.agent_loop.single_turn_agent_loop")(_register_agent_loop)

    if _cpu_is_meant():
        from grail_verl import cpu

        cpu.register()


def _cpu_is_meant() -> bool:
    """VERL_PLATFORM=cpu, which the preset `+grail=cpu` gives to every Ray process, or nothing else to run on.

    In a Ray process only the variable counts: the driver of a GPU cluster sees no accelerator either.
    """
    import ray
    import torch

    named = os.environ.get("VERL_PLATFORM", "").strip().lower()
    return named == "cpu" if named else not (torch.accelerator.is_available() or ray.is_initialized())


def _register_estimator(core_algos) -> None:
    from grail_verl.hook.estimator import compute_grail_advantage
    from grail_verl.hook.launch import ESTIMATOR

    core_algos.register_adv_est(ESTIMATOR)(compute_grail_advantage)


def _register_agent_loop(single_turn_agent_loop) -> None:
    from grail_verl.hook import truncation  # noqa: F401  registers itself


def _register_worker(engine_workers) -> None:
    if not hasattr(engine_workers.ActorRolloutRefWorker, "actor_worker_cls"):
        raise ImportError(
            "grail-verl does not know this verl: ActorRolloutRefWorker has no actor_worker_cls; "
            f"grail-verl is built for verl {SUPPORTED}"
        )

    def actor_worker_cls(worker):
        from grail_verl.hook.worker import actor_worker_class  # needs engine_workers, which is complete by then

        return actor_worker_class(worker)

    engine_workers.ActorRolloutRefWorker.actor_worker_cls = property(actor_worker_cls)


try:
    _register()
except Exception as error:
    message = f"grail-verl is installed but not active: {error}"
    if any("grail" in argument for argument in sys.argv[1:]):
        sys.exit(message)  # SystemExit: verl's `except Exception` around plugins lets it pass
    print(message, file=sys.stderr)
