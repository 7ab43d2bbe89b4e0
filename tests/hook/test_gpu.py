"""The hook's cases on the devices that verl finds, in a lane of their own (docs/gpu.md): on CUDA devices, or on a CPU
what of it a CPU runs, so that the lane is seen to pass before there is a GPU.

    bash tests/run.sh -m gpu
    VERL_PLATFORM=cpu bash tests/run.sh -m gpu

Cases of test_matrix.py and those that need a GPU; each on as many ranks as it says, or as there are devices. All run in
the same processes, in the background, and each test waits for its own: what is done is told, and an interrupt (Ctrl-C,
SIGINT) leaves the table of it.
"""

import multiprocessing
import os
import shutil
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import harness
import pytest
import runs
import test_matrix
from harness import Case
from packaging.version import Version
from test_matrix import BF16, CARRIED, CHECKPOINTED, FSDP, FUSED, HOPS, LONG, MODEL, PADDED, PLAIN, ROUGH, TRITON
from verl.utils.device import get_device_id, get_device_name, get_torch_device

pytestmark = pytest.mark.gpu

OFFLOADED = [FSDP + "param_offload=True", FSDP + "optimizer_offload=True"]
OFFLOAD_POLICY = FSDP + "offload_policy=True"
ACTIVATIONS_OFFLOADED = MODEL + "enable_activation_offload=True"
LIGER = MODEL + "use_liger=True"
FUSED_BY_LIGER = [override.replace("=torch", "=liger") for override in FUSED]
FLASH = MODEL + "override_config.attn_implementation=flash_attention_2"
A_GPU, TWO_GPUS, FOUR_GPUS = ("a GPU",), ("two GPUs",), ("four GPUs",)
A_KERNEL = ("Triton",)  # but on a CPU, where something else is in its place
NO_OLD_LIGER = ("no old liger-kernel",)
BY_LIGER, BY_FLASH = ("a GPU", "Triton", "liger-kernel"), ("a GPU", "flash-attn")


def _on_a_cpu() -> bool:
    return get_device_name() == "cpu"


def _triton_compiles() -> bool:
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return bool(find_spec("triton") and compiler and Path(sysconfig.get_path("include"), "Python.h").exists())


def _liger_kernel_is_new() -> bool | None:
    """So that it has all that verl imports from it; None without one."""
    return Version(version("liger-kernel")) >= Version("0.8.2") if find_spec("liger_kernel") else None


# What a case may need: (whether it is there, what to say where it is not).
NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "a GPU": (lambda: not _on_a_cpu(), "needs a GPU"),
    "two GPUs": (lambda: get_torch_device().device_count() >= 2, "needs two GPUs"),
    "four GPUs": (lambda: get_torch_device().device_count() >= 4, "needs four GPUs"),
    "Triton": (lambda: _on_a_cpu() or _triton_compiles(), "needs Triton, and for it a C compiler and Python.h"),
    "flash-attn": (lambda: find_spec("flash_attn") is not None, "needs flash-attn, which is not installed"),
    "liger-kernel": (lambda: _liger_kernel_is_new() is True, "needs liger-kernel, 0.8.2 or later"),
    "no old liger-kernel": (
        lambda: _liger_kernel_is_new() is not False,
        "an installed liger-kernel before 0.8.2 breaks verl's fused kernels",
    ),
}


def on_the_device(rank: int):
    """As a trainer may hand it over that does not bring batches back to the CPU."""
    return harness.rollout(rank).to(get_device_id())


def short_of_memory():
    """From here on every block is recomputed."""
    from grail_verl.hook import engine_pass

    engine_pass._memory_is_short = lambda: lambda: True


def of_matrix(*names: str, needs: tuple[str, ...] = ()) -> dict[str, Case]:
    return {name: replace(test_matrix.CASES[name], needs=needs) for name in names}


CASES = {
    **of_matrix(
        *("fsdp packed", "fsdp padded", "fsdp padded, by rows", "fsdp packed, parameters as they were"),
        *("fsdp packed, bf16", "fsdp packed, fp16 with the gradient scaler", "fsdp packed, padded to a length"),
        *("fsdp2 packed", "fsdp2 packed, block", "fsdp2 packed, last block, not resharded", "fsdp2 packed, bf16"),
        *("fsdp2 padded, bf16", "fsdp2 packed, fp16 with the gradient scaler"),
        *("LoRA, fsdp packed", "LoRA, fsdp2 packed", "LoRA, fsdp2 padded"),
        *("mini-batches, epochs, shuffled", "padding rows", "per-sample temperature, packed", "turns, packed"),
        *("OAR-G, fsdp padded", "OAR-G, fsdp2 packed", "OAR-G, LoRA"),
        *("surprise, proportional", "saliency, proportional, turns"),
        *("entropy by a pass, fsdp packed", "entropy by a pass, proportional, turns"),
        *("hops, fsdp packed", "hops, fsdp2 packed", "hops, fsdp2 packed, not resharded", "hops, bf16, fsdp packed"),
        *("hops, bf16, fsdp2 padded", "hops, LoRA, fsdp packed", "hops × surprise, proportional, fsdp2"),
        "hops, fsdp packed, parameters as they were",
        *("hops × entropy by a pass, fsdp", "qwen2, fsdp2 packed", "gemma2, fsdp packed", "qwen3_moe, fsdp2 packed"),
    ),
    **of_matrix("fsdp, two times two ranks", "hops, fsdp2, two times two ranks", needs=FOUR_GPUS),
    **of_matrix("torch.compile", needs=A_KERNEL),
    "the batch on the device": Case("tied", "fsdp2", {"rollouts": "all"}, rollout=on_the_device),
    "the batch on the device, hops": Case("untied", "fsdp", CARRIED, [PADDED], rollout=on_the_device),
    "offloaded, fsdp packed": Case("tied", "fsdp", {}, [*OFFLOADED, CHECKPOINTED], needs=A_GPU),
    "offloaded, fsdp2 packed": Case("untied", "fsdp2", {}, [*OFFLOADED, CHECKPOINTED], needs=A_GPU),
    "offloaded, hops, fsdp2 padded, bf16": Case(
        "tied", "fsdp2", HOPS, [*OFFLOADED, PADDED, *BF16], tolerance=ROUGH, needs=A_GPU
    ),
    "offload_policy, fsdp2 packed": Case("untied", "fsdp2", {}, [OFFLOAD_POLICY, CHECKPOINTED], needs=A_GPU),
    "offload_policy, hops, fsdp2 packed, bf16": Case(
        "tied", "fsdp2", HOPS, [OFFLOAD_POLICY, *BF16], tolerance=ROUGH, needs=A_GPU
    ),
    # Not without gradient checkpointing, where verl's own update fails with sdpa or is wrong: docs/upstream.md.
    "activations offloaded, fsdp packed": Case("tied", "fsdp", {}, [ACTIVATIONS_OFFLOADED, CHECKPOINTED], needs=A_GPU),
    "activations offloaded, fsdp2 packed": Case(
        "untied", "fsdp2", {}, [ACTIVATIONS_OFFLOADED, CHECKPOINTED], needs=A_GPU
    ),
    "activations offloaded, hops, fsdp2 packed, bf16": Case(
        "tied", "fsdp2", HOPS, [ACTIVATIONS_OFFLOADED, CHECKPOINTED, *BF16], tolerance=ROUGH, needs=A_GPU
    ),
    "flash-attn, fsdp packed, bf16": Case(
        "tied", "fsdp", {}, [FLASH, CHECKPOINTED, *BF16], tolerance=ROUGH, needs=BY_FLASH
    ),
    "flash-attn, fsdp2 padded, bf16": Case(
        "untied", "fsdp2", {}, [FLASH, PADDED, *BF16], tolerance=ROUGH, needs=BY_FLASH
    ),
    "flash-attn, hops, fsdp2 packed, bf16": Case(
        "tied", "fsdp2", HOPS, [FLASH, *BF16], tolerance=ROUGH, needs=BY_FLASH
    ),
    "flash-attn, Ulysses, fsdp2, bf16": Case(
        "untied", "fsdp2", {}, [*test_matrix.ULYSSES[:2], FLASH, CHECKPOINTED, *BF16],
        sequence_parallel=2, tolerance=ROUGH, needs=BY_FLASH + TWO_GPUS,
    ),
    "flash-attn, Ulysses, hops, fsdp, bf16": Case(
        "tied", "fsdp", HOPS, [*test_matrix.ULYSSES[:2], FLASH, *BF16],
        sequence_parallel=2, tolerance=ROUGH, needs=BY_FLASH + TWO_GPUS,
    ),
    # Each with an architecture of its own from here on: verl and liger-kernel replace parts of the model's classes, for
    # good. Triton's kernels and liger's multiply float32 as TF32.
    **of_matrix("fused kernels, fsdp packed", needs=NO_OLD_LIGER),
    **{
        name: replace(case, tolerance=ROUGH if case.tolerance is None else case.tolerance)
        for name, case in of_matrix(
            "fused kernels by Triton, fsdp packed", "fused kernels by Triton, entropy by a pass", needs=A_KERNEL
        ).items()
    },
    "fused kernels by Triton, hops, bf16": Case(
        "wide_gemma3_text", "fsdp", HOPS, [PLAIN, *TRITON, *BF16], setup=test_matrix.triton_on_a_cpu, tolerance=ROUGH,
        needs=A_KERNEL,
    ),
    "fused kernels by liger-kernel": Case(
        "mistral", "fsdp", {}, [PLAIN, *FUSED_BY_LIGER], tolerance=ROUGH, needs=BY_LIGER
    ),
    "use_liger, fsdp packed, bf16": Case(
        "llama", "fsdp", {}, [LIGER, CHECKPOINTED, *BF16], tolerance=ROUGH, needs=BY_LIGER
    ),
    "use_liger, hops, fsdp2 padded": Case("qwen2", "fsdp2", HOPS, [LIGER, PADDED], needs=BY_LIGER),
    "blocks recomputed, fsdp packed": Case("phi", "fsdp", {}, setup=short_of_memory),
    "blocks recomputed, hops, fsdp2 packed": Case("phi", "fsdp2", HOPS, setup=short_of_memory),
    "blocks recomputed, hops, fsdp2 padded, bf16": Case(
        "phi", "fsdp2", HOPS, [PADDED, *BF16], setup=short_of_memory, tolerance=ROUGH
    ),
    "blocks recomputed, turns": Case(
        "phi", "fsdp2", {"rollouts": "all"}, LONG, rollout=test_matrix.turns, setup=short_of_memory
    ),
}


def lacking(case: Case) -> str | None:
    """Why this machine cannot run it."""
    return next((reason for there, reason in map(NEEDS.get, case.needs) if not there()), None)


@pytest.fixture(scope="module")
def result_of(request, tmp_path_factory) -> Iterator[Callable[[str], list[dict]]]:
    """name → what each rank saw, of the cases that were asked for and can run; returns when the case is done."""
    devices = get_torch_device().device_count()
    cases = {
        name: replace(case, ranks=min(case.ranks, devices))
        for name, case in harness.asked(CASES, request).items()
        if lacking(case) is None
    }
    folders = harness.save_policies(tmp_path_factory.mktemp, (case.policy for case in cases.values()))
    kept = tmp_path_factory.mktemp("results")
    over = threading.Event()  # the ranks end with this process; no others are to start then
    arguments = (cases, folders, kept, lambda: not over.is_set())
    running = threading.Thread(target=harness.run, args=arguments, daemon=True)
    running.start()
    ranks = min((case.ranks for case in cases.values()), default=0)
    while running.is_alive() and len(multiprocessing.active_children()) < ranks:
        time.sleep(0.01)  # what they print goes where this process's output goes now: pytest captures it

    def wait_for(name: str) -> list[dict]:
        alive = True
        while (result := harness.finished(kept, name, cases[name].ranks)) is None:
            assert alive, "the thread that runs the cases has failed"
            alive = running.is_alive()
            time.sleep(0.1)
        return result

    yield wait_for
    over.set()


@pytest.mark.parametrize("name", CASES)
def test_case(result_of, name, record_property):
    if reason := lacking(CASES[name]):
        pytest.skip(reason)
    result = result_of(name)
    record_property("seconds", result[0]["seconds"])
    if all("got" in of_rank for of_rank in result):
        record_property("departure", harness.departure(result))
    harness.check(CASES[name], result)


@pytest.mark.parametrize("rollout", ["vllm", "sglang"])
def test_main_ppo(rollout, tmp_path):
    """Its own engine on the GPU, with the weights of each update."""
    if _on_a_cpu():
        pytest.skip("needs a GPU")
    if find_spec(rollout) is None:
        pytest.skip(f"needs {rollout}, which is not installed")
    runs.boxing_policy(tmp_path / "policy", head_dim=64)
    runs.problems(tmp_path / "problems.parquet")
    metrics = runs.train(
        tmp_path, "log.jsonl", *runs.FSDP2, f"actor_rollout_ref.rollout.name={rollout}",
        f"trainer.n_gpus_per_node={min(2, get_torch_device().device_count())}", timeout=1200, on_a_gpu=True,
    )
    runs.check(metrics, probs_diff=0.1)
