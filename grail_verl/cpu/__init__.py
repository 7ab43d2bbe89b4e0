"""verl on a machine without an accelerator: everything `main_ppo +grail=cpu` needs beyond a GPU's verl.

`register` runs at `import verl` in every process, so it only writes names into verl's registries. What is
heavy waits for the verl module it belongs to:

    platform.py   where tensors live and what replaces the CUDA calls    at once
    engine.py     verl's FSDP engine for the device "cpu"                with verl.workers.engine
    veomni.py     its VeOmni engine                                      with that, where VeOmni is installed
    rollout.py    the rollout `transformers`: generation.py batches
                  requests, by attention.py and sampling.py              when it is asked for
    vllm_rollout  the rollout `vllm`, by verl's own classes              when it is asked for
    transfer.py   weights to a rollout that stands alone                 when verl reads the preset
    patches.py    what no registry can reach                             with the module that is patched
    launch.py     what is refused before Ray starts                      when a config is validated

The settings that go with it are in conf/grail/cpu.yaml and cpu_veomni.yaml.
"""

import importlib

from wrapt import when_imported

# actor_rollout_ref.rollout.name
ROLLOUT = "transformers"
VLLM = "vllm"


def register() -> None:
    """Make the CPU known to verl. An error in a postponed part is raised by the import that triggers it."""
    from grail_verl.cpu import platform  # noqa: F401  registers itself
    from grail_verl.cpu.vllm_rollout import distribution

    distribution.register()

    @when_imported("verl.workers.engine")
    def _engines(module):
        importlib.import_module("grail_verl.cpu.engine")
        if module.VeOmniEngine is not None:
            importlib.import_module("grail_verl.cpu.veomni")

    @when_imported("verl.workers.rollout.replica")
    def _server(module):
        module.RolloutReplicaRegistry.register(
            ROLLOUT, lambda: importlib.import_module("grail_verl.cpu.rollout").TransformersReplica
        )
        module.RolloutReplicaRegistry.register(
            VLLM, lambda: importlib.import_module("grail_verl.cpu.vllm_rollout.server").Replica
        )

    @when_imported("verl.workers.rollout.base")
    def _adapter(module):
        module._ROLLOUT_REGISTRY[(ROLLOUT, "async")] = "grail_verl.cpu.rollout.ServerAdapter"
        module._ROLLOUT_REGISTRY[(VLLM, "async")] = "grail_verl.cpu.vllm_rollout.adapter.Adapter"

    @when_imported("verl.utils.config")
    def _refusals(module):
        importlib.import_module("grail_verl.cpu.patches").refuse_first(module)

    @when_imported("verl.utils.distributed")
    def _process_group(module):
        importlib.import_module("grail_verl.cpu.patches").use_one_gloo_backend(module)

    @when_imported("verl.utils.fsdp_utils")
    def _saved(module):
        importlib.import_module("grail_verl.cpu.patches").save_copies(module)

    @when_imported("verl.trainer.ppo.v1.trainer_separate_async")
    def _log(module):
        importlib.import_module("grail_verl.cpu.patches").log_without_flush(module)

    @when_imported("verl.trainer.ppo.v1.replay_buffer")
    def _poll(module):
        importlib.import_module("grail_verl.cpu.patches").poll_often(module)
