"""Every place where verl is changed from outside because no registry or subclass reaches it.

Five patches stay for the life of the process, five last for one call, inside engine.py, veomni.py and
vllm_rollout/adapter.py.
Each checks first that verl still has what it changes.
"""

import functools
import inspect
import logging
from contextlib import contextmanager
from unittest import mock

from grail_verl.cpu.launch import refuse_unserved

POLL_SECONDS = 0.1


def _check(there: bool, what: str) -> None:
    if not there:
        raise RuntimeError(
            f"grail-verl: this verl has no {what}; its CPU patches were written for verl 0.9.1"
        )


def refuse_first(config_module) -> None:
    """verl validates a config between composing it and starting Ray, and has no hook there; see launch.py."""
    original = config_module.validate_config
    _check("config" in inspect.signature(original).parameters, "validate_config(config)")

    @functools.wraps(original)
    def validate_config(config, *args, **kwargs):
        refuse_unserved(config)
        return original(config, *args, **kwargs)

    config_module.validate_config = validate_config


def use_one_gloo_backend(distributed) -> None:
    """verl names a backend per device, "cpu:gloo,<device>:<backend>"; torch refuses to hear "cpu" twice.

    A backend passed by the caller is used as it is, so the right one becomes the argument's default.
    """
    original = distributed.initialize_global_process_group_ray
    _check(
        "backend" in inspect.signature(original).parameters, "initialize_global_process_group_ray(backend)"
    )

    @functools.wraps(original)
    def initialize_global_process_group_ray(timeout_second=None, backend=None):
        return original(timeout_second=timeout_second, backend=backend or "cpu:gloo")

    distributed.initialize_global_process_group_ray = initialize_global_process_group_ray


def poll_often(replay_buffer) -> None:
    """The trainer looks for finished responses every two seconds: most of a tiny model's step.

    verl's own way to change that, trainer.v1.sampler.custom_sampler, would silently switch off
    algorithm.filter_groups.
    """
    original = replay_buffer.ReplayBuffer.__init__
    signature = inspect.signature(original)
    _check("poll_interval" in signature.parameters, "ReplayBuffer(poll_interval=)")

    @functools.wraps(original)
    def __init__(self, *args, **kwargs):
        if "poll_interval" not in signature.bind(self, *args, **kwargs).arguments:
            kwargs["poll_interval"] = POLL_SECONDS
        original(self, *args, **kwargs)

    replay_buffer.ReplayBuffer.__init__ = __init__


def save_copies(fsdp_utils) -> None:
    """V1 `separate_async` has the old policy saved to the CPU while the new one is trained; of a parameter that is on a
    CPU already verl saves the very tensor, which the update then changes."""
    original = fsdp_utils.fsdp2_sharded_save_to_cpu
    _check("model" in inspect.signature(original).parameters, "fsdp2_sharded_save_to_cpu(model)")

    @functools.wraps(original)
    def fsdp2_sharded_save_to_cpu(model):
        state, placement = original(model)
        return {name: (tensor.clone(), spec) for name, (tensor, spec) in state.items()}, placement

    fsdp_utils.fsdp2_sharded_save_to_cpu = fsdp2_sharded_save_to_cpu


def log_without_flush(trainer_separate_async) -> None:
    """With `hybrid_engine=False` verl logs with `flush=True`, which is print's: a TypeError at the default level."""
    original = getattr(trainer_separate_async, "logger", None)
    _check(isinstance(original, logging.Logger), "logger in its separate_async trainer")

    class WithoutFlush(logging.LoggerAdapter):
        def process(self, message, options):
            return message, {name: value for name, value in options.items() if name != "flush"}

    trainer_separate_async.logger = WithoutFlush(original)


@contextmanager
def every_rank_loads_weights(transformer_impl):
    """Within: `_build_module` loads the checkpoint on each rank, none starts from the meta device.

    verl lets the others wait for rank 0's weights, which FSDP1 sends while it wraps the model; that needs an
    accelerator.
    """
    name = "get_init_weight_context_manager"
    _check(hasattr(transformer_impl, name), name)
    original = getattr(transformer_impl, name)
    with mock.patch.object(
        transformer_impl, name, lambda **options: original(**options | {"use_meta_tensor": False})
    ):
        yield


@contextmanager
def no_weights_sent_while_wrapping(transformer_impl):
    """Within: FSDP1 is built without `sync_module_states`, which torch refuses for parameters on the CPU."""
    original = getattr(transformer_impl, "FSDP", None)
    _check(original is not None, "FSDP in its FSDP engine")

    class FullyShardedDataParallel(original):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **{**kwargs, "sync_module_states": False})

    with mock.patch.object(transformer_impl, "FSDP", FullyShardedDataParallel):
        yield


@contextmanager
def gathered_in(transformer_impl, dtype: str):
    """Within: VeOmni gathers parameters in this dtype. verl's engine names none, and VeOmni's own is bfloat16."""
    name = "MixedPrecisionConfig"
    _check(hasattr(transformer_impl, name), f"{name} in its VeOmni engine")
    original = getattr(transformer_impl, name)
    with mock.patch.object(transformer_impl, name, functools.partial(original, param_dtype=dtype)):
        yield


@contextmanager
def moe_params(transformer_impl, handler):
    """Within: the parameters of experts are handed out as `handler` makes them, whatever the model."""
    name = "get_moe_param_handler"
    _check(hasattr(transformer_impl, name), f"{name} in its VeOmni engine")
    with mock.patch.object(transformer_impl, name, lambda model_type, ep_enabled: handler):
        yield


@contextmanager
def sender(vllm_rollout, replacement):
    """Within: verl's vLLM adapter sends weights by `replacement`, a subclass of its BucketedWeightSender, which the
    adapter makes for itself."""
    _check(hasattr(vllm_rollout, "BucketedWeightSender"), "BucketedWeightSender in its vLLM adapter")
    with mock.patch.object(vllm_rollout, "BucketedWeightSender", replacement):
        yield
