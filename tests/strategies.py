"""Every value of verl's actor.strategy: the names by which its engines for language models are registered. Read off its
source, since most of them cannot be imported here."""

import ast
from importlib.util import find_spec
from pathlib import Path


def strategies() -> set[str]:
    found: set[str] = set()
    for file in (Path(find_spec("verl").origin).parent / "workers" / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "EngineRegistry.register":
                given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
                if given["model_type"] == "language_model":
                    found.update([given["backend"]] if isinstance(given["backend"], str) else given["backend"])
    return found
