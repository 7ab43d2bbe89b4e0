"""What the plugin adds to `import verl`, in CPU seconds of fresh processes.

verl imports the plugin in every process, whether GRAIL is on or off; what the plugin imports of its own waits for
the verl module it belongs to. So two figures, each beside what verl itself takes in the same process: the plugin
after a plain `import verl`; and everything of the package that any of verl's processes imports, after the modules
of a driver and of a worker.

    python benchmarks/import_cost.py
"""

import json
import os
import statistics
import subprocess
import sys

ROUNDS = 5
SCRIPT = """
import time
def seconds(*modules):
    began = time.process_time()
    for module in modules:
        __import__(module)
    return time.process_time() - began
verl = seconds("verl", *{verl})
print(verl, seconds("grail_verl.plugin", *{grail}))
"""
CASES = {
    "import verl": ((), ()),
    "driver and worker, GRAIL on": (
        ("verl.trainer.main_ppo", "verl.workers.engine_workers"),
        ("grail_verl.hook.launch", "grail_verl.hook.worker"),
    ),
}


def sample(verl: tuple[str, ...], grail: tuple[str, ...]) -> list[float]:
    environment = {**os.environ, "VERL_USE_EXTERNAL_PLUGINS": "none"}  # the plugin comes after, on the clock
    script = SCRIPT.format(verl=verl, grail=grail)
    output = subprocess.run(
        [sys.executable, "-c", script], env=environment, check=True, capture_output=True, text=True
    ).stdout
    return [float(word) for word in output.splitlines()[-1].split()]


def main() -> None:
    added = {}
    for name, modules in CASES.items():
        samples = [sample(*modules) for _ in range(ROUNDS)]
        verl, plugin = (statistics.median(column) for column in zip(*samples, strict=True))
        added[name] = plugin
        print(f"{name:30} verl {verl:7.2f} s   grail-verl {plugin:7.3f} s   {100 * plugin / verl:5.1f} %")
    seconds, everything = (round(value, 3) for value in added.values())
    print(json.dumps({"import_seconds": seconds, "everything_seconds": everything}))


if __name__ == "__main__":
    main()
