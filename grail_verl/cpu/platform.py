"""The platform "cpu": what verl asks about its device, answered for a machine without an accelerator.

verl resolves the platform once per process, by VERL_PLATFORM or by asking each registered platform whether
it is there; this one is registered last and steps back when torch sees an accelerator.
"""

import os
import resource
from contextlib import contextmanager
from types import ModuleType

import psutil
import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry


class HostDevice(ModuleType):
    """`torch.cpu`, and beside it the functions of `torch.cuda` that verl calls without asking.

    Memory is counted in bytes. A process has no allocator statistics on the host, so "allocated" and
    "reserved" are both its resident memory.
    """

    def __getattr__(self, name):
        return getattr(torch.cpu, name)

    # The host is always usable, but verl reads True as "there is an accelerator with a cache to empty".
    def is_available(self) -> bool:
        return False

    def max_memory_allocated(self, device=None) -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def memory_allocated(self, device=None) -> int:
        return psutil.Process().memory_info().rss

    max_memory_reserved, memory_reserved = max_memory_allocated, memory_allocated

    def mem_get_info(self, device=None) -> tuple[int, int]:
        page = os.sysconf("SC_PAGE_SIZE")
        return os.sysconf("SC_AVPHYS_PAGES") * page, os.sysconf("SC_PHYS_PAGES") * page

    def get_device_name(self, device=None) -> str:
        return "CPU"

    def get_rng_state(self, device=None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device=None) -> None:
        torch.set_rng_state(state)

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def empty_cache(self) -> None:
        pass

    ipc_collect = empty_cache


HOST = HostDevice("grail_verl.cpu.host")


@PlatformRegistry.register(platform="cpu")
class PlatformCPU(PlatformBase):
    device_name = "cpu"
    vendor_name = "cpu"
    device_module = HOST

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check=False) -> bool:
        return not torch.accelerator.is_available()

    def current_device(self) -> str:
        # Not an index: verl hands it to `tensor.to`, where 0 would mean the first GPU.
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index) -> None:
        pass

    def synchronize(self, device_index=None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    manual_seed_all = manual_seed

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index=0) -> tuple[None, None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    def ray_resource_name(self) -> str:
        # verl counts the GPUs and NPUs of a Ray cluster and nothing else, so each worker process takes one
        # of Ray's logical GPUs: ray.init(num_gpus=...) says how many there are.
        return "GPU"

    def ray_noset_envvars(self) -> list[str]:
        return []

    def is_ipc_supported(self) -> bool:
        return False

    def rollout_env_vars(self) -> dict[str, str]:
        # vLLM's own processes start without verl, so that nothing else tells them (vllm_rollout/distribution.py);
        # bound to cores, all replicas of a machine would be bound to the same ones.
        return {"VLLM_TARGET_DEVICE": "cpu", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}

    @contextmanager
    def nvtx_range(self, msg: str):
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def cudart(self) -> None:
        return None
