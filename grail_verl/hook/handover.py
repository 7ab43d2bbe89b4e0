"""The options as workers are given them. Ray unpickles a config that holds them by importing this file, which ends
there unless the plugin is active: a node with other settings would train GRPO, or its ranks and those of the other
nodes would wait for each other.
"""

import os
import socket
from dataclasses import dataclass

from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY  # verl loads its plugins first

from grail_verl.credit.config import GrailConfig
from grail_verl.hook.launch import ESTIMATOR

if ESTIMATOR not in ADV_ESTIMATOR_REGISTRY:
    raise RuntimeError(
        f"algorithm.adv_estimator={ESTIMATOR}, but grail-verl is installed but not active on {socket.gethostname()}, "
        f"where VERL_USE_EXTERNAL_PLUGINS={os.environ.get('VERL_USE_EXTERNAL_PLUGINS', 'auto')!r}; "
        "a reason of its own stands on stderr of this process"
    )


@dataclass(frozen=True)
class HandedOver(GrailConfig):
    """Options that launch.prepare has checked."""
