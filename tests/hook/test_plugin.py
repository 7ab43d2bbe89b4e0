"""How verl finds the plugin, what it does to a config before Ray starts, and the estimator against GRPO."""

import dataclasses
import os
import pickle
import subprocess
import sys
from types import ModuleType, SimpleNamespace

import cloudpickle
import numpy as np
import pytest
import torch
import verl  # noqa: F401  loads the plugin
from composed import composed
from hydra import compose, initialize_config_dir
from hypothesis import given, settings
from hypothesis import strategies as st
from legacy import LEGACY
from omegaconf import OmegaConf
from strategies import strategies
from verl.protocol import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import RayPPOTrainer, compute_advantage
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.utils import compute_advantage_for_multi_trajectories
from verl.utils import tensordict_utils as tu
from verl.workers.engine_workers import TrainingWorker

from grail_verl import GrailConfig, register_weights
from grail_verl.credit.rule import Rule
from grail_verl.credit.weights import WEIGHTS
from grail_verl.hook.launch import prepare
from grail_verl.hook.worker import GrailTrainingWorker, actor_worker_class
from grail_verl.plugin import SUPPORTED
from hydra_plugins.grail_verl import ASKS


def test_hydra_finds_the_presets_and_overrides_win():
    config = composed("+grail=[paper,cpu]", "algorithm.grail.std=0.25")
    prepare(config)
    assert config.algorithm.adv_estimator == "grail" and config.trainer.device == "cpu"
    assert config.algorithm.grail.std == 0.25 and config.algorithm.grail.occurrence == "first"


def test_a_preset_beats_a_file_of_ones_own(tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "defaults: [ppo_trainer, _self_]\nhydra: {searchpath: [pkg://verl.trainer.config]}\n"
        "actor_rollout_ref: {actor: {ppo_epochs: 2, shuffle: true}}\n"
    )
    with initialize_config_dir(str(tmp_path), version_base=None):
        alone, preset, beaten = (
            compose("mine", overrides).actor_rollout_ref.actor
            for overrides in ([], ["+grail=paper"], ["+grail=paper", "actor_rollout_ref.actor.ppo_epochs=3"])
        )
    assert [actor.ppo_epochs for actor in (alone, preset, beaten)] == [2, 4, 3]
    assert alone.shuffle and preset.shuffle and beaten.shuffle


def test_the_last_choice_of_presets_counts():
    """So the quick start, which chooses the CPU's, takes further ones behind its own."""
    config = composed("+grail=cpu", "+grail=[cpu,high_entropy]")
    assert config.trainer.device == "cpu" and config.algorithm.grail.score == "entropy"


def options_in_the_worker(config) -> dict | None:
    """Of the actor that verl builds out of a section of the config that Ray has pickled; None: it is verl's own."""
    section = pickle.loads(cloudpickle.dumps(config.actor_rollout_ref))
    actor = actor_worker_class(SimpleNamespace(config=section))
    if actor is TrainingWorker:
        return None
    assert actor.func is GrailTrainingWorker
    return dataclasses.asdict(actor.keywords["grail"])


def test_scores_that_multiply_come_from_a_preset_and_reach_the_workers():
    config = composed("+grail=carried", "algorithm.grail.hops=2")
    prepare(config)
    options = GrailConfig(score=["saliency", "surprise"], hops=2, weights="proportional")
    assert options_in_the_worker(config) == dataclasses.asdict(options)
    assert Rule(options).names.startswith("algorithm.grail.score=[saliency,surprise] and ")
    assert composed("+grail=surprise").algorithm.grail.score == "surprise"


def test_a_prepared_config_holds_every_option_where_logger_and_workers_look():
    config = composed("algorithm.adv_estimator=grail", "+algorithm.grail.std=0.3")
    prepare(config)
    prepare(config)  # the legacy trainer validates a second time, in another process
    expected = dataclasses.asdict(GrailConfig(std=0.3))
    assert OmegaConf.to_container(config, resolve=True)["algorithm"]["grail"] == expected
    assert options_in_the_worker(config) == expected


def test_a_prepared_config_that_is_switched_to_another_estimator_trains_that_one():
    config = composed("algorithm.adv_estimator=grail", "+algorithm.grail.std=0.3")
    prepare(config)
    config.algorithm.adv_estimator = "grpo"
    assert options_in_the_worker(config) is None  # whoever starts the trainer without validating again
    prepare(config)
    assert options_in_the_worker(config) is None
    config.algorithm.adv_estimator = "grail"
    prepare(config)
    assert options_in_the_worker(config)["std"] == 0.3


@pytest.mark.parametrize(("changes", "std"), [({}, 0.3), ({"std": 0.4}, 0.4), ({"rollouts": "all"}, 0.3)])
def test_a_prepared_config_that_was_saved_can_be_loaded_changed_switched_and_switched_back(tmp_path, changes, std):
    config = composed("algorithm.adv_estimator=grail", "+algorithm.grail.std=0.3")
    prepare(config)
    OmegaConf.save(config, tmp_path / "config.yaml", resolve=True)
    config = OmegaConf.load(tmp_path / "config.yaml")
    config.algorithm.adv_estimator = "grpo"
    prepare(config)
    assert options_in_the_worker(config) is None
    config.algorithm.adv_estimator = "grail"
    config.algorithm.grail.update(changes)
    prepare(config)
    assert options_in_the_worker(config) == dataclasses.asdict(GrailConfig(**{"std": std, **changes}))
    config.algorithm.grail = {**config.algorithm.grail, "share": 0.4}
    with pytest.raises(ValueError, match=r"grail\.share=0\.4 has no effect with"):
        prepare(config)


@pytest.mark.parametrize("lacking", ["hops", "dump_dir"])
def test_a_prepared_config_that_lacks_an_option_can_be_loaded(tmp_path, lacking):
    """Saved by a version without it, or with a line taken out."""
    config = composed("algorithm.adv_estimator=grail", "+algorithm.grail.std=0.3")
    prepare(config)
    config = OmegaConf.create(OmegaConf.to_yaml(config, resolve=True))
    del config.algorithm.grail[lacking]
    prepare(config)
    assert options_in_the_worker(config) == dataclasses.asdict(GrailConfig(std=0.3))


def test_a_prepared_config_can_be_changed_where_it_stands(tmp_path, monkeypatch):
    """As in a notebook, which starts one run after another."""
    monkeypatch.chdir(tmp_path)
    config = composed("algorithm.adv_estimator=grail", "+algorithm.grail.std=0.3")
    prepare(config)
    config.algorithm.grail.std = 0.4
    config = OmegaConf.merge(config, {"algorithm": {"grail": {"rollouts": "all", "dump_dir": "records"}}})
    prepare(config)
    expected = GrailConfig(std=0.4, rollouts="all", dump_dir=f"{tmp_path}/records")
    assert options_in_the_worker(config) == dataclasses.asdict(expected)
    config.algorithm.grail.hops = 9
    with pytest.raises(ValueError, match=r"grail\.hops=9 is not allowed"):
        prepare(config)


def test_a_prepared_config_is_checked_again_when_it_is_validated_again():
    config = composed("algorithm.adv_estimator=grail")
    prepare(config)
    config.actor_rollout_ref.actor.policy_loss.loss_mode = "geo_mean"
    with pytest.raises(ValueError, match="geo_mean"):
        prepare(config)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("+grail.std=0.3", "grail.std=0.3 would be read by nobody; write +algorithm.grail.std=0.3"),
        ("+actor_rollout_ref.grail.std=0.3", "actor_rollout_ref.grail.std=0.3 would be read by nobody; write +algo"),
        ("+algorithm.grial.std=0.3", "algorithm.grial.std=0.3 would be read by nobody; write +algorithm.grail.std"),
        ("+algorithm.Grail.rollouts=all", "algorithm.Grail.rollouts='all' would be read by nobody"),
        ("+algorithm.std=0.3", "algorithm.std=0.3 would be read by nobody; write +algorithm.grail.std=0.3"),
        ("+algorithm.hops=3", "algorithm.hops=3 would be read by nobody; write +algorithm.grail.hops=3"),
        ("+actor_rollout_ref.actor.grail.std=0.3", "actor_rollout_ref.actor.grail.std=0.3 would be read by nobody"),
    ],
)
def test_options_in_a_place_where_nobody_reads_them_are_refused(override, says):
    config = composed("algorithm.adv_estimator=grail", override)
    with pytest.raises(ValueError) as error:
        prepare(config)
    assert says in str(error.value)
    config.algorithm.adv_estimator = "grpo"
    prepare(config)


def test_sections_of_like_names_are_no_options():
    prepare(composed("algorithm.adv_estimator=grail", "+data.trail.length=3", "+algorithm.train.epochs=1"))


@pytest.mark.parametrize("score", ["saliency", "entropy"])
def test_records_go_to_the_same_folder_wherever_a_worker_runs(tmp_path, monkeypatch, score):
    monkeypatch.chdir(tmp_path)
    options = [f"+algorithm.grail.score={score}", "+algorithm.grail.dump_responses=8"]
    config = composed("algorithm.adv_estimator=grail", *options, "+algorithm.grail.dump_dir=runs/records")
    prepare(config)
    grail = options_in_the_worker(config)
    assert grail["dump_dir"] == f"{tmp_path}/runs/records" and grail["dump_responses"] == 8
    assert not (tmp_path / "runs").exists()  # whoever writes makes it
    (tmp_path / "runs/records").mkdir(parents=True)  # as a run finds it that resumes
    config = composed("algorithm.adv_estimator=grail", f"+algorithm.grail.dump_dir={tmp_path}/runs/../runs/records")
    prepare(config)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["dump_dir=file"], "algorithm.grail.dump_dir='file' cannot be a folder: {here}/file is a file"),
        (["dump_dir=file/records"], "dump_dir='file/records' cannot be a folder: {here}/file is a file"),
        ([f"dump_dir={'a' * 300}"], "aaa' cannot be a folder: File name too long; allowed: a folder to write"),
        (["dump_dir='s3://bucket'"], "algorithm.grail.dump_dir='s3://bucket' is no folder"),
        (["dump_responses=32"], "algorithm.grail.dump_responses=32 has no effect without algorithm.grail.dump_dir"),
    ],
)
def test_records_that_could_not_be_written_are_refused(tmp_path, monkeypatch, options, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError) as error:
        prepare(composed("algorithm.adv_estimator=grail", *(f"+algorithm.grail.{option}" for option in options)))
    assert says.format(here=tmp_path) in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["trainer.use_v1=False"], "the legacy trainer (trainer.use_v1=False) does not hand over"),
        (["algorithm.rollout_correction.bypass_mode=True"], "rollout_correction.bypass_mode=True) does not hand over"),
        ([], None),
    ],
)
def test_a_rule_that_needs_what_its_trainer_lacks_is_refused(overrides, says):
    @register_weights("entropic")
    class Entropic(WEIGHTS.find("reshaped")):
        needs = frozenset({"entropy_BT"})

    config = composed("algorithm.adv_estimator=grail", "+algorithm.grail.weights=entropic", *overrides)
    if says is None:
        prepare(config)
        return
    with pytest.raises(ValueError) as error:
        prepare(config)
    assert "algorithm.grail.weights=entropic need RolloutBatch.entropy_BT, which" in str(error.value)
    assert says in str(error.value)


def test_off_leaves_the_config_as_it_is():
    config = composed("algorithm.adv_estimator=grpo", "+algorithm.grail.std=-1")
    before = OmegaConf.to_container(config)
    prepare(config)
    assert OmegaConf.to_container(config) == before


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["+algorithm.grail.sdt=0.3"], "unknown option algorithm.grail.sdt=0.3; did you mean std?"),
        (["+algorithm.grail.score=surprize"], "grail.score='surprize' is not allowed; allowed: entropy | oar_g | sali"),
        (["+algorithm.grail.weights=top"], "algorithm.grail.weights='top' is not allowed; allowed: "),
        (
            ["+algorithm.grail.score=surprise", "+algorithm.grail.leaf=last"],
            "algorithm.grail.leaf='last' has no effect with algorithm.grail.score=surprise and algorithm.grail.weights="
            "standardised; allowed: dump_dir, dump_responses, log_pictures, mean, modules, occurrence, rollouts, sc",
        ),
        (
            ["+grail=high_entropy", "+algorithm.grail.occurrence=first"],
            "algorithm.grail.occurrence='first' has no effect with algorithm.grail.score=entropy and algorithm.grail.w",
        ),
        *(
            ([f"actor_rollout_ref.actor.strategy={name}"], f"strategy='{name}' is not allowed; allowed: fsdp | fsdp2 |")
            for name in sorted(strategies() - {"fsdp", "fsdp2", "veomni"})
        ),
        *(
            ([f"model_engine={name}"], f"strategy='{name}' is not allowed; allowed: fsdp | fsdp2 | veomni")
            for name in ("megatron", "torchtitan")  # with a section of their own in place of fsdp_config
        ),
        (["actor_rollout_ref.actor.strategy=veomni"], "without its section actor_rollout_ref.actor.veomni; allow"),
        (
            ["model_engine=veomni", "actor_rollout_ref.model.use_fused_kernels=True"],
            "actor_rollout_ref.model.use_fused_kernels=True is not allowed with algorithm.adv_estimator=grail and "
            "actor_rollout_ref.actor.strategy='veomni', whose fused head has not been tried; allowed: False",
        ),
        (
            ["model_engine=veomni", "actor_rollout_ref.actor.veomni.expert_parallel_size=2"],
            "actor_rollout_ref.actor.veomni.expert_parallel_size=2 is not allowed with algorithm.adv_estimator=grail a",
        ),
        *(
            (["model_engine=veomni", f"actor_rollout_ref.model.{option}"], f"model.{option} is not allowed with")
            for option in ("lora_rank=8", "lora.rank=8", "lora_adapter_path=adapter")
        ),
        (["+rollout.nnodes=1"], "not served by verl's experimental trainers"),  # a section only their configs have
    ],
)
def test_what_grail_cannot_serve_is_refused(overrides, says):
    with pytest.raises(ValueError) as error:
        prepare(composed("algorithm.adv_estimator=grail", *overrides))
    assert says in str(error.value)


def test_what_veomni_is_refused_with_grail_passes_with_grpo_and_the_rest_with_grail():
    wide = ["actor_rollout_ref.model.use_fused_kernels=True", "actor_rollout_ref.actor.veomni.expert_parallel_size=2"]
    prepare(composed("model_engine=veomni", "algorithm.adv_estimator=grpo", *wide))
    prepare(composed("model_engine=veomni", "algorithm.adv_estimator=grail"))


@pytest.mark.parametrize(
    ("module", "override", "says"),
    [
        (
            "verl.trainer.main_ppo", "+algorithm.grail.leaf=second",
            "algorithm.grail.leaf='second' is not allowed; allowed: embeddings | first | middle | last",
        ),
        # Its own config holds the section `rollout`; that of one_step_off_policy is found in verl's checkout only.
        (
            "verl.experimental.fully_async_policy.fully_async_main", "rollout.nnodes=1",
            "not served by verl's experimental trainers (one_step_off_policy, fully_async_policy)",
        ),
    ],
)
def test_a_wrong_start_stops_the_command_before_ray_starts(tmp_path, module, override, says):
    run = subprocess.run(
        [sys.executable, "-m", module, "+grail=cpu", "algorithm.adv_estimator=grail", override],
        capture_output=True, text=True, cwd=tmp_path, timeout=120,
    )
    assert run.returncode != 0 and says in run.stderr
    assert "Started a local Ray instance" not in run.stdout + run.stderr


@pytest.mark.parametrize("model_type", ["qwen2_5_vl", "qwen3_vl", "gemma3", "qwen2_audio"])
def test_a_model_that_reads_more_than_text_is_refused(model_type):
    """By the worker, before it builds anything; of verl's config it looks at the model's alone."""
    from transformers import AutoConfig

    from grail_verl.hook.worker import GrailTrainingWorker

    model = SimpleNamespace(hf_config=AutoConfig.for_model(model_type), path="some/model")
    with pytest.raises(NotImplementedError, match=rf"model\.path='some/model' is a {model_type}"):
        GrailTrainingWorker(SimpleNamespace(model_config=model), GrailConfig())


PLUGIN = "import sys, verl; verl.__version__ = {version!r}; sys.argv[1:] = {arguments!r}; import grail_verl.plugin"


@pytest.mark.parametrize("version", ["0.8.0", "0.10.0.dev0"])
def test_another_verl_is_named_in_one_line_and_ends_a_command_that_asks_for_grail(version, monkeypatch):
    monkeypatch.setenv("VERL_USE_EXTERNAL_PLUGINS", "none")  # so that the plugin is loaded by hand, below
    asked, other = (
        subprocess.run(
            [sys.executable, "-c", PLUGIN.format(version=version, arguments=arguments)],
            capture_output=True, text=True, timeout=120,
        )
        for arguments in (["algorithm.adv_estimator=grail"], ["algorithm.adv_estimator=grpo"])
    )
    line = f"grail-verl is installed but not active: needs verl {SUPPORTED}; found verl {version}"
    assert asked.returncode == 1 and asked.stderr.strip().splitlines()[-1] == line
    assert other.returncode == 0 and other.stderr.strip().splitlines()[-1] == line


@pytest.mark.parametrize("module", ["worker", "estimator"])
def test_modules_that_verl_imports_late_can_be_imported_first(module):
    subprocess.run([sys.executable, "-c", f"import grail_verl.hook.{module}"], check=True, timeout=120)


PLATFORMS = """
import ray
ray.is_initialized = lambda: {in_ray}
import verl
from verl.plugin.platform import PlatformRegistry, get_platform
print("cpu" in PlatformRegistry.registered_names(), get_platform().device_name)
"""


@pytest.mark.parametrize(
    ("platform", "in_ray", "says"),
    [("", False, "True cpu"), ("cpu", True, "True cpu"), ("", True, "False cuda"), ("nvidia", False, "False cuda")],
)
def test_the_cpu_is_offered_where_it_is_meant(platform, in_ray, says):
    """A Ray process without a GPU may belong to a GPU cluster (the driver does): there verl decides alone."""
    run = subprocess.run(
        [sys.executable, "-c", PLATFORMS.format(in_ray=in_ray)], capture_output=True, text=True, timeout=120,
        env={**os.environ, "VERL_PLATFORM": platform},
    )
    assert run.stdout.strip().splitlines()[-1] == says, run.stderr


UNPICKLING = "import pickle, sys, verl; pickle.load(open(sys.argv[1], 'rb'))"


def test_a_worker_in_which_the_plugin_is_not_active_ends_when_it_is_given_the_options(tmp_path):
    config = composed("algorithm.adv_estimator=grail")
    prepare(config)
    (tmp_path / "section").write_bytes(cloudpickle.dumps(config.actor_rollout_ref))
    run = subprocess.run(
        [sys.executable, "-c", UNPICKLING, "section"], capture_output=True, text=True, timeout=120, cwd=tmp_path,
        env={**os.environ, "VERL_USE_EXTERNAL_PLUGINS": "none"},
    )
    assert run.returncode == 1 and "grail-verl is installed but not active on" in run.stderr
    assert "VERL_USE_EXTERNAL_PLUGINS='none'" in run.stderr


def updated(trainer: type, estimator: str, metrics: dict) -> dict:
    """What a trainer's `_update_actor` makes of metrics that workers, stood in for here, have sent back."""
    config = composed(f"algorithm.adv_estimator={estimator}")
    output = tu.get_tensordict({}, non_tensor_dict={"metrics": {"mfu": 0.1, "loss": 0.5, **metrics}})
    actors = SimpleNamespace(update_actor=lambda batch: output)
    this = SimpleNamespace(config=config, actor_rollout_wg=actors, distillation_config=None)
    if trainer is RayPPOTrainer:
        ids = torch.ones(2, 4, dtype=torch.long)
        fields = {"input_ids": ids, "attention_mask": ids, "position_ids": ids, "response_mask": ids[:, 2:]}
        return trainer._update_actor(this, DataProto.from_dict(fields)).meta_info["metrics"]
    found: dict = {}
    trainer._update_actor(this, SimpleNamespace(extra_info={}), metrics=found)
    return found


@pytest.mark.parametrize("trainer", [PPOTrainer, pytest.param(RayPPOTrainer, marks=LEGACY)], ids=["V1", "V0"])
def test_an_update_without_grails_metrics_was_grpos_and_ends_the_run(trainer):
    """The class of another plugin, or of a subclass, stood where GRAIL's belongs."""
    with pytest.raises(RuntimeError, match=r"came back without actor/grail/\*.*, or it was given a copy of actor_"):
        updated(trainer, "grail", {})
    assert updated(trainer, "grail", {"grail/weight_mean": 1.0})["actor/grail/weight_mean"] == 1.0
    assert updated(trainer, "grpo", {})["actor/loss"] == 0.5


OLD_VERL = """
import sys, types
verl = types.ModuleType("verl")
verl.__version__ = "0.8.0"
sys.modules["verl"] = verl  # a version that loads no plugins
sys.argv[1:] = {arguments!r}
from hydra import compose, initialize_config_module
with initialize_config_module("grail_verl.conf", version_base=None):
    compose(overrides=["+x=1"])
print("and on it goes")
"""


def test_a_verl_that_loads_no_plugins_is_named_as_soon_as_hydra_starts():
    asked, other = (
        subprocess.run(
            [sys.executable, "-c", OLD_VERL.format(arguments=[f"algorithm.adv_estimator={name}", "x=/me/grail/"])],
            capture_output=True, text=True, timeout=60,
        )
        for name in ("grail", "grpo")
    )
    assert asked.returncode == 1
    assert "grail-verl is installed but not active: verl 0.8.0 has not loaded it" in asked.stderr
    assert f"needs verl {SUPPORTED} and" in asked.stderr
    assert other.returncode == 0 and "and on it goes" in other.stdout, other.stderr


@pytest.mark.parametrize(
    ("argument", "asks"),
    [
        ("algorithm.adv_estimator=grail", True), ("+algorithm.grail.std=0.3", True), ("+grail=[cpu,paper]", True),
        ("++algorithm.adv_estimator=grail", True), ("+grail.std=1", True), ("algorithm.adv_estimator=grpo", False),
        ("data.train_files=/me/grail/adv_estimator=grail", False), ("trainer.project_name=grail", False),
    ],
)
def test_what_asks_for_grail(argument, asks):
    assert bool(ASKS.match(argument)) == asks


def test_a_verl_changed_underneath_fails_loudly():
    from grail_verl.hook import patches

    changed = ModuleType("verl.utils.config")
    changed.validate_config = lambda settings: None
    with pytest.raises(ImportError, match=r"does not know this verl: verl\.utils\.config\.validate_config"):
        patches.validate_config(changed)
    with pytest.raises(ImportError, match=r"main_ppo\.run_ppo should take config, task_runner_class"):
        patches.run_ppo(ModuleType("verl.trainer.main_ppo"))
    with pytest.raises(ImportError, match="compute_advantage_for_multi_trajectories should take"):
        patches.multi_trajectory_advantage(ModuleType("verl.trainer.ppo.v1.utils"))
    with pytest.raises(ImportError, match="add_to_batch should take batch, rollout_corr_config"):
        patches.rollout_correction(ModuleType("verl.trainer.ppo.rollout_corr_helper"))
    changed.PPOTrainer = changed.RayPPOTrainer = type("Trainer", (), {"_update_actor": lambda self, data: None})
    for patch in (patches.trainer, patches.legacy_trainer):
        with pytest.raises(ImportError, match="Trainer._update_actor should take batch"):
            patch(changed)


@st.composite
def batches(draw):
    """Rewards of groups of 1 to 4 members, masks, and now and then a padding row with a uid of its own."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4))
    uids = [f"group{g}" for g, size in enumerate(sizes) for _ in range(size)]
    uids += [f"padding{p}" for p in range(draw(st.integers(0, 2)))]
    length = draw(st.integers(1, 5))
    rewards = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, -1.0]), min_size=len(uids), max_size=len(uids)))
    rows, masks = torch.zeros(len(uids), length), torch.zeros(len(uids), length, dtype=torch.long)
    for row, uid in enumerate(uids):
        if not uid.startswith("padding"):
            masks[row, : draw(st.integers(1, length))] = 1
            rows[row, 0] = rewards[row]
    return uids, rows, masks


def data_of(batch) -> DataProto:
    uids, rewards, mask = batch
    return DataProto.from_dict(
        tensors={"token_level_rewards": rewards.clone(), "response_mask": mask},
        non_tensors={"uid": np.array(uids, dtype=object)},
    )


def algorithm(estimator: str, norm: bool):
    config = composed(f"algorithm.adv_estimator={estimator}", f"algorithm.norm_adv_by_std_in_grpo={norm}")
    prepare(config)
    return config.algorithm


ALGORITHMS = {(name, norm): algorithm(name, norm) for name in ("grail", "grpo") for norm in (True, False)}


@settings(max_examples=60, deadline=None)
@given(batches(), st.booleans())
def test_the_estimator_is_grpo_to_the_last_bit(batch, norm):
    """Through verl's legacy dispatch, which hands a custom estimator no norm_adv_by_std_in_grpo."""
    results = []
    for name in ("grail", "grpo"):
        config = ALGORITHMS[name, norm]
        data = compute_advantage(
            data_of(batch), adv_estimator=name, norm_adv_by_std_in_grpo=config.norm_adv_by_std_in_grpo, config=config
        )
        results.append((data.batch["advantages"], data.batch["returns"]))
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@settings(max_examples=60, deadline=None)
@given(batches(), st.booleans(), st.data())
def test_sessions_with_several_outputs_get_grpos_treatment(batch, norm, draw):
    """Through the V1 trainer's call: statistics over each session's last output, then broadcast."""
    uids = batch[0]
    sessions = [draw.draw(st.integers(0, 1)) for _ in uids]
    keys = [f"{uid}_{session}_{row}" for row, (uid, session) in enumerate(zip(uids, sessions, strict=True))]
    results = []
    for name in ("grail", "grpo"):
        config = ALGORITHMS[name, norm]
        data = compute_advantage_for_multi_trajectories(
            data_of(batch),
            batch_keys=keys,
            adv_estimator=name,
            norm_adv_by_std_in_grpo=config.norm_adv_by_std_in_grpo,
            config=config,
        )
        results.append(data.batch["advantages"])
    assert torch.equal(*results)


def test_by_hand_two_of_four_right():
    """Rewards 1, 1, 0, 0: mean 0.5; sample standard deviation sqrt(1/3) = 0.57735."""
    uids, mask = ["a"] * 4 + ["alone"], torch.ones(5, 2, dtype=torch.long)
    rewards = torch.tensor([[0.0, 1.0], [0.0, 1.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    estimate = core_algos.get_adv_estimator_fn("grail")
    for norm, size in ((True, 0.5 / (3**-0.5 + 1e-6)), (False, 0.5)):
        advantages, _ = estimate(
            token_level_rewards=rewards, response_mask=mask, index=np.array(uids), config=ALGORITHMS["grail", norm]
        )
        # A group of one has mean 0 and deviation 1 in verl: its advantage is its reward.
        alone = 1.0 / (1 + 1e-6) if norm else 1.0
        assert advantages[:, 0].tolist() == pytest.approx([size, size, -size, -size, alone], rel=1e-6)


def advantages_of(rewards: list[float], estimator: str, norm: bool, sessions: bool, spread=False) -> list[float]:
    """Of one group, through V0's dispatch or, as sessions, V1's; each reward on a token of its own, or on the last."""
    rows = torch.zeros(len(rewards), len(rewards))
    for row, reward in enumerate(rewards):
        rows[row, row if spread else -1] = reward
    data = data_of((["a"] * len(rewards), rows, torch.ones(rows.shape, dtype=torch.long)))
    settings = {"adv_estimator": estimator, "norm_adv_by_std_in_grpo": norm, "config": ALGORITHMS[estimator, norm]}
    if sessions:
        keys = [f"a_{row}_0" for row in range(len(rewards))]
        data = compute_advantage_for_multi_trajectories(data, batch_keys=keys, **settings)
    else:
        data = compute_advantage(data, **settings)
    assert torch.equal(data.batch["advantages"], data.batch["returns"])
    return data.batch["advantages"][:, 0].tolist()


@pytest.mark.parametrize("sessions", [False, True], ids=["V0", "V1"])
@pytest.mark.parametrize("norm", [True, False])
@pytest.mark.parametrize("reward", [0.3, 0.1, 0.7, 1 / 3, -0.3, 1e-3, 1e4 + 0.1, 1.0, 0.0])
def test_groups_of_one_mind_have_advantage_zero(reward, norm, sessions):
    """verl's mean of equal rewards is off by rounding, which its division by the deviation, also rounding, enlarges."""
    for count in (2, 3, 7, 8, 64):
        assert advantages_of([reward] * count, "grail", norm, sessions) == [0.0] * count
        assert advantages_of([reward] * count, "grail", norm, sessions, spread=True) == [0.0] * count


@pytest.mark.parametrize("sessions", [False, True], ids=["V0", "V1"])
@pytest.mark.parametrize("norm", [True, False])
def test_a_reward_in_the_middle_has_advantage_zero_and_the_others_grpos(norm, sessions):
    """In float32 the middle one is an ulp off their mean."""
    for rewards in ([0.1, 0.3, 0.5], [0.3, 0.6, 0.9]):
        got, plain = (advantages_of(rewards, name, norm, sessions) for name in ("grail", "grpo"))
        assert got == [plain[0], 0.0, plain[2]] and 0 not in plain


@pytest.mark.parametrize("norm", [True, False])
def test_small_differences_between_rewards_are_kept(norm):
    for rewards in ([1.0, 1.0 - 1e-5] * 4, [100.0, 100.01] * 4, [1e-8, 0.0], [0.5]):
        got = advantages_of(rewards, "grail", norm, True)
        assert 0 not in got and got == advantages_of(rewards, "grpo", norm, True)


def test_a_trainer_that_skipped_the_check_is_told_so():
    config = composed("algorithm.adv_estimator=grail").algorithm
    batch = (["a", "a"], torch.ones(2, 1), torch.ones(2, 1, dtype=torch.long))
    with pytest.raises(RuntimeError, match="did not call verl's validate_config"):
        compute_advantage(data_of(batch), adv_estimator="grail", config=config)
    with pytest.raises(RuntimeError, match="did not call verl's validate_config"):
        compute_advantage_for_multi_trajectories(
            data_of(batch), batch_keys=["a_0_0", "a_1_0"], adv_estimator="grail", config=config
        )
