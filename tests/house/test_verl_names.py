"""The installed verl has every name that the plugin relies on; and one that had not would be told."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.fast

VERL = Path(importlib.util.find_spec("verl").origin).parent
COMMAND = Path(__file__).parents[1] / "verl_names.py"

# For each kind of use: a file of verl's, what stands there, what a later release might have, and what is said of it.
CHANGES = {
    "an imported function": (
        "utils/fs.py", "def copy_to_local(", "def copy_here(",
        "hook/truncation.py:18: verl.utils.fs.copy_to_local is not there",
    ),
    "a module that is patched": (
        "trainer/ppo/rollout_corr_helper.py", "def compute_rollout_correction_and_add_to_batch(", "def correct(",
        "verl.trainer.ppo.rollout_corr_helper.compute_rollout_correction_and_add_to_batch is not there",
    ),
    "a parameter that a patch hands on": (
        "trainer/ppo/v1/trainer_base.py", "def _update_actor(self, batch: KVBatchMeta, metrics: dict)",
        "def _update_actor(self, batch: KVBatchMeta, logged: dict)",
        "verl.trainer.ppo.v1.trainer_base.PPOTrainer._update_actor takes no metrics",
    ),
    "a parameter that is passed by name": (
        "utils/ulysses.py", "gather_dim: int,", "dim: int,", "verl.utils.ulysses.gather_outputs_and_unpad takes no",
    ),
    "a method that is overridden": (
        "workers/engine_workers.py", "def train_mini_batch(", "def train_small_batch(",
        "verl.workers.engine_workers.TrainingWorker.train_mini_batch is not there",
    ),
    "an override that is given more": (
        "experimental/reward_loop/reward_manager/naive.py", "def run_single(self, data: DataProto)",
        "def run_single(self, data: DataProto, timeout: float)",
        "NaiveRewardManager.run_single takes timeout, which our override does not",
    ),
    "a method that has to be there": (
        "plugin/platform/platform_base.py", "    @staticmethod\n    def check_smi_command(",
        "    @abc.abstractmethod\n    def warm_up(self): ...\n\n    @staticmethod\n    def check_smi_command(",
        "PlatformBase has abstract methods that ours lacks: warm_up",
    ),
    "an attribute of the engine": (
        "workers/engine/fsdp/transformer_impl.py", "self.use_ulysses_sp", "self.splits_sequences",
        "FSDPEngineWithLMHead.use_ulysses_sp is not there",
    ),
    "a field of a config class, by a name made at run time": (
        "workers/config/engine.py", "infer_max_token_len_per_gpu", "max_tokens_without_gradient",
        "engine_config.infer_max_token_len_per_gpu is not there",
    ),
    "a method of ours that is called through Ray": (
        "workers/rollout/llm_server.py", "prompt_ids=prompt_ids", "prompt=prompt_ids",
        "verl.workers.rollout.llm_server: grail_verl.cpu.rollout.GenerationServer.generate takes no prompt",
    ),
    "a key of the config that is read": (
        "trainer/config/actor/actor.yaml", "loss_mode:", "loss_name:",
        "config.actor_rollout_ref.actor.policy_loss.loss_mode is no key of verl's config",
    ),
    "a key that a preset sets": (
        "trainer/config/ppo_trainer.yaml", "  resume_mode:", "  resume:",
        "conf/grail/evaluation.yaml: config.trainer.resume_mode is no key of verl's config",
    ),
    "a key that is set for several presets": (
        "trainer/config/data/legacy_data.yaml", "dataloader_num_workers:", "loader_workers:",
        "conf/grail/cpu/machine.yaml: config.data.dataloader_num_workers is no key of verl's config",
    ),
    "a key of data": (
        "trainer/ppo/v1/agent_loop_tq.py", '"loss_mask"', '"mask"',
        "verl.trainer.ppo.v1.agent_loop_tq says nothing of 'loss_mask'",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def of_a_changed_verl(tmp_path_factory) -> subprocess.CompletedProcess:
    """What the command makes of a copy of verl's source with every change in it."""
    folder = tmp_path_factory.mktemp("changed") / "verl"
    shutil.copytree(VERL, folder, ignore=shutil.ignore_patterns("*.pyc"))
    for file, old, new, _ in CHANGES.values():
        text = (folder / file).read_text()
        assert old in text, (file, old)
        (folder / file).write_text(text.replace(old, new))
    return subprocess.run([sys.executable, COMMAND, folder], capture_output=True, text=True, timeout=120)


def test_the_installed_verl_has_them_all_and_none_of_it_is_run():
    code = f"""
import runpy, sys
sys.path.insert(0, {str(COMMAND.parent)!r})
sys.argv = [{str(COMMAND)!r}]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as ended:
    print(ended.code, sorted({{"torch", "verl", "ray"}} & sys.modules.keys()))
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert run.stdout.splitlines()[-1:] == ["0 []"], run.stdout + run.stderr


@pytest.mark.parametrize("change", CHANGES)
def test_a_name_that_is_gone_or_changed_is_told(of_a_changed_verl, change):
    assert of_a_changed_verl.returncode == 1 and CHANGES[change][-1] in of_a_changed_verl.stdout
