"""What MODEL is: a Hugging Face folder or hub name, or a checkpoint of verl's, which is merged first.

For whoever loads one outside of training: look/attribute.py and evaluation/evaluate.py. verl saves a checkpoint by
pickle, and its merger runs whatever code a file names. Here torch lets it read weights alone, unless the user trusts
the file.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from transformers import AutoConfig

from grail_verl.command import CommandError

WEIGHTS_ONLY, NOT_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"  # torch.load reads them
SHARDS = "model_world_size_*_rank_*.pt"
MERGED = "huggingface"


def find_model(model: str, trust_remote_code: bool = False, trust_checkpoint: bool = False) -> str:
    """The folder or hub name to load.

    A checkpoint's shards are merged by verl's own command into global_step_N/huggingface, once: again only when
    the shards are newer. That folder is an ordinary one, for a server or for training on.

    Args:
        model: a folder of a Hugging Face model, global_step_N of verl's or its actor folder, or a hub name.
        trust_remote_code: as verl's actor_rollout_ref.model.trust_remote_code.
        trust_checkpoint: code that a checkpoint's shards hold may run.

    Raises:
        CommandError: no such model, a checkpoint that is not FSDP's, holds a LoRA adapter or more than weights, or a
            merge that failed.
    """
    folder = Path(model)
    actor = folder / "actor" if (folder / "actor").is_dir() else folder
    if (actor / "fsdp_config.json").is_file():
        return str(_merged(actor.resolve(), trust_remote_code, trust_checkpoint))
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise CommandError(f"{folder} holds neither a Hugging Face model nor an FSDP checkpoint of verl's")
    try:
        AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        where = "" if folder.is_dir() else " is no folder here, and under that name"
        raise CommandError(f"{model}{where}: {error}") from error
    return str(folder.resolve()) if folder.is_dir() else model


def _merged(actor: Path, trust_remote_code: bool, trust_checkpoint: bool) -> Path:
    shards = list(actor.glob(SHARDS))
    if not shards:
        raise CommandError(f"{actor} holds no {SHARDS}: an interrupted save?")
    if (actor / "lora_train_meta.json").is_file():
        raise CommandError(
            f"{actor} holds a LoRA adapter, which verl's merger puts beside the model it belongs to: merge it by "
            f"{WEIGHTS_ONLY}=1 python -m verl.model_merger merge --backend fsdp --local_dir {actor} --target_dir DIR, "
            "then evaluate DIR with actor_rollout_ref.model.lora_adapter_path=DIR/lora_adapter and "
            "actor_rollout_ref.model.lora_rank"
        )
    target = actor.parent / MERGED
    if target.is_dir() and target.stat().st_mtime >= max(shard.stat().st_mtime for shard in shards):
        return target
    print(f"merging {actor} into {target}", flush=True)
    # Beside the target, so that it appears there complete or not at all.
    with tempfile.TemporaryDirectory(dir=actor.parent, prefix=f"{MERGED}-") as place:
        partial = Path(place) / MERGED
        command = [
            sys.executable, "-m", "verl.model_merger", "merge", "--backend", "fsdp", "--local_dir", str(actor),
            "--target_dir", str(partial), *(["--trust-remote-code"] if trust_remote_code else []),
        ]
        environment = {**os.environ, WEIGHTS_ONLY: str(int(not trust_checkpoint))}
        environment.pop(NOT_ONLY, None)  # torch refuses both
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if refused := re.findall(r"WeightsUnpickler error: .*|Cannot use ``weights_only=True`` with .*", done.stdout):
            raise CommandError(
                f"verl could not merge {actor} from weights alone: {refused[-1]}\nIts files hold other Python objects, "
                "or are damaged. Loading them as they are runs whatever code they name; if you trust who made them, "
                "and who could change them since: --trust-checkpoint"
            )
        if done.returncode != 0:
            raise CommandError(f"verl could not merge {actor}:\n{done.stdout[-4000:]}")
        if target.is_dir():
            shutil.rmtree(target)
        os.utime(partial)
        partial.rename(target)
    return target
