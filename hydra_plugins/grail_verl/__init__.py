"""Adds the plugin's config groups to Hydra's search path, so that `main_ppo +grail=cpu` finds them, and ends a command
that asks for grail where verl does not load plugins: versions up to 0.8 load none, but this one Hydra finds.

Hydra imports every module of the namespace package `hydra_plugins` when it starts, and no sooner.
"""

import os
import re
import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

ASKS = re.compile(r"\+*(algorithm\.)?grail[.=]|\+*algorithm\.adv_estimator=grail$")


class GrailSearchPathPlugin(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        verl = sys.modules.get("verl")
        if verl is not None and "grail_verl.plugin" not in sys.modules and any(map(ASKS.match, sys.argv[1:])):
            policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
            sys.exit(
                f"grail-verl is installed but not active: verl {verl.__version__} has not loaded it "
                f"(VERL_USE_EXTERNAL_PLUGINS={policy!r}); needs verl >=0.9,<0.10 and its plugins loaded"
            )
        search_path.append(provider="grail-verl", path="pkg://grail_verl.conf")
