"""`algorithm.grail.log_pictures`: the figures of a step's records in verl's own loggers, at that step and no other."""

import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import report_records
import verl  # noqa: F401  loads the plugin
import wandb
from composed import composed
from omegaconf import OmegaConf
from pictures import drawn, in_tensorboard, pixels, same
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from verl.utils.tracking import Tracking

from grail_verl.credit.config import GrailConfig
from grail_verl.hook.launch import prepare

pytestmark = pytest.mark.fast

STEP = {"actor/grail/weight_mean": 1.0, "actor/lr": 1e-6}  # what a trainer logs of one
NAMES = {"actor/grail/histogram", "actor/grail/position"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Where a run is started, and its loggers write."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "events"))
    return tmp_path


def config(*overrides: str, loggers="[tensorboard]", every=2):
    config = composed(
        "algorithm.adv_estimator=grail", "+algorithm.grail.rollouts=all", "+algorithm.grail.dump_dir=records",
        f"+algorithm.grail.log_pictures={every}", f"trainer.logger={loggers}", *overrides,
    )  # fmt: skip
    prepare(config)
    return config


def tracking(config) -> Tracking:
    """As both of verl's trainers make it."""
    return Tracking(
        project_name="project",
        experiment_name="experiment",
        default_backend=config.trainer.logger,
        config=OmegaConf.to_container(config, resolve=True),
    )


def train(home, loggers: Tracking, steps=range(1, 6)) -> None:
    """The records of a step are written before it is logged; validation is logged, too."""
    loggers.log({"val-core/sums/acc/mean@1": 0.5}, step=0)
    for step in steps:
        report_records.write_run(home / "records", steps=[step], seed=step)
        loggers.log(STEP, step=step)
    loggers.finish()


def test_tensorboard_gets_them_once_in_so_many_steps_beside_its_numbers(home):
    train(home, tracking(config(loggers="[console,tensorboard]")))
    expected = drawn(home / "records", 2) | drawn(home / "records", 4)
    assert {name for name, _ in expected} == NAMES and same(in_tensorboard(home / "events"), expected)
    events = EventAccumulator(str(home / "events"))
    events.Reload()
    assert [number.step for number in events.Scalars("actor/grail/weight_mean")] == [1, 2, 3, 4, 5]


def test_wandb_gets_them_offline(home, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    train(home, tracking(config(loggers="wandb", every=3)), steps=range(1, 4))
    (run,) = (home / "wandb").glob("offline-run-*")
    kept = {path.name: pixels(path.read_bytes()) for path in (run / "files/media/images/actor/grail").glob("*.png")}
    expected = drawn(home / "records", 3)
    assert {name for name, _ in expected} == NAMES and len(kept) == len(NAMES)
    for (name, _), picture in expected.items():
        (file,) = (file for file, shown in kept.items() if np.array_equal(shown, picture))
        assert file.startswith(f"{name.rpartition('/')[2]}_3_")  # wandb's own step


def test_a_step_without_an_update_of_the_actor_has_none(home):
    """A critic's warm-up, or verl's validation alone: whatever lies in the folder is of another step."""
    loggers = tracking(config())
    report_records.write_run(home / "records", steps=[1])
    loggers.log({"critic/vf_loss": 0.1}, step=2)
    loggers.finish()
    assert in_tensorboard(home / "events") == {}


def test_without_records_here_a_run_goes_on_and_says_so(home, caplog):
    """As where the trainer's node does not see the folder that the workers write."""
    loggers = tracking(config(every=1))
    with caplog.at_level(logging.WARNING):
        loggers.log(STEP, step=1)
    loggers.finish()
    assert f"no pictures of step 1: ValueError: {home}/records holds no records" in caplog.text


@pytest.mark.parametrize(
    "overrides",
    [["algorithm.adv_estimator=grpo"], ["algorithm.adv_estimator=grail", "+algorithm.grail.dump_dir=records"]],
)
def test_off_by_default_and_with_any_other_estimator(home, overrides):
    off = composed(*overrides, "trainer.logger=[tensorboard]")
    prepare(off)
    train(home, tracking(off))
    events = EventAccumulator(str(home / "events"))
    events.Reload()
    assert in_tensorboard(home / "events") == {} and len(events.Scalars("actor/lr")) == 5


def test_what_fails_on_the_way_is_told_and_a_run_goes_on(home, monkeypatch, caplog):
    """Here wandb cannot keep an image, but numbers."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    loggers = tracking(config(loggers="[wandb]", every=1))
    (Path(wandb.run.dir) / "media").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        train(home, loggers, steps=[1])
    assert "no pictures of step 1: NotADirectoryError" in caplog.text


def test_an_entry_point_that_skips_the_check_hears_of_that_and_not_of_pictures(home):
    """By require_prepared, which is yet to come."""
    for overrides in ([], ["+algorithm.grail.std=0.3"], ["+algorithm.grail.log_pictures=1"]):
        tracking(composed("algorithm.adv_estimator=grail", "trainer.logger=[file]", *overrides)).finish()


@pytest.mark.parametrize("config", [None, {"algorithm": "ppo"}, SimpleNamespace(seed=1), GrailConfig()])
def test_a_user_of_tracking_without_verls_config_is_served_as_before(home, config):
    loggers = Tracking("project", "experiment", ["file"], config)
    loggers.log(STEP, step=1)
    loggers.finish()
    (line,) = (home / "project/experiment.jsonl").read_text().splitlines()
    assert json.loads(line) == {"step": 1, "data": STEP}


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        (["+algorithm.grail.log_pictures=3"], "log_pictures=3 has no effect without algorithm.grail.dump_dir"),
        (
            ["+algorithm.grail.log_pictures=3", "+algorithm.grail.dump_dir=records", "trainer.logger=[console,file]"],
            "algorithm.grail.log_pictures=3 has no effect with trainer.logger=['console', 'file'], none of which takes "
            "pictures; allowed: tensorboard or wandb among them",
        ),
        (
            ["+algorithm.grail.log_pictures=3", "+algorithm.grail.dump_dir=records", "trainer.logger=console"],
            "algorithm.grail.log_pictures=3 has no effect with trainer.logger=['console'], none of which",
        ),
        (
            ["+algorithm.grail.log_pictures=3", "+algorithm.grail.dump_dir=records", "trainer.logger=null"],
            "algorithm.grail.log_pictures=3 has no effect with trainer.logger=[], none of which",
        ),
    ],
)
def test_pictures_that_nobody_would_see_are_refused(home, overrides, says):
    with pytest.raises(ValueError) as error:
        prepare(composed("algorithm.adv_estimator=grail", *overrides))
    assert says in str(error.value)


def test_a_missing_matplotlib_is_told_before_anything_starts(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ValueError) as error:
        config()
    assert "algorithm.grail.log_pictures=2 needs matplotlib" in str(error.value)
    assert "pip install 'grail-verl[report]'" in str(error.value)
