"""Adds the plugin's config groups to Hydra's search path, so that `main_ppo +grail=cpu` finds them.

Hydra imports every module of the namespace package `hydra_plugins` when it starts, and no sooner.
"""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class GrailSearchPathPlugin(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="grail-verl", path="pkg://grail_verl.conf")
