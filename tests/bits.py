"""Whether a change changes nothing: the hook's advantages in every case of the matrix, to the last bit.

    python tests/bits.py write before.json             # in the checkout before the change; two minutes
    python tests/bits.py write after.json              # after it
    python tests/bits.py compare before.json after.json
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parent / "hook")]


def advantages(rank: int, folders: dict, names: list[str]) -> dict:
    """What this rank's worker makes of each case's rollout batch: advantages and metrics, in hexadecimal."""
    import test_matrix

    found = {}
    for name in names:
        case = test_matrix.CASES[name]
        if case.setup is not None:
            case.setup()
        data = case.rollout(rank // case.sequence_parallel)
        metrics = case.actor(folders, "grail").reweight_advantages(data)
        found[name] = {
            "advantages": [[value.hex() for value in row.tolist()] for row in data["advantages"].unbind()],
            "metrics": {key: float(value).hex() for key, value in metrics.items() if "seconds" not in key},
        }
    return found


def write(path: Path) -> None:
    import harness
    import ranks
    import test_matrix

    cases: dict[str, list] = {}
    with tempfile.TemporaryDirectory() as folder:
        policies = (case.policy for case in test_matrix.CASES.values())
        folders = harness.save_policies(lambda name: Path(folder, name), policies)
        for count in sorted({case.ranks for case in test_matrix.CASES.values()}):
            names = [name for name, case in test_matrix.CASES.items() if case.ranks == count]
            of_ranks = ranks.on_ranks(advantages, count, folders, names)
            cases.update({name: [of_rank[name] for of_rank in of_ranks] for name in names})
    path.write_text(json.dumps(cases, indent=0))
    print(f"{len(cases)} cases are in {path}")


def compare(before: Path, after: Path) -> list[str]:
    """Prints how many are equal; returns the names of those that are not."""
    one, other = (json.loads(path.read_text()) for path in (before, after))
    both = one.keys() & other.keys()
    different = [name for name in one if name in both and one[name] != other[name]]
    print(f"{len(both) - len(different)} of {len(both)} cases are equal to the last bit")
    for what, names in (("differ", different), ("in one alone", sorted(one.keys() ^ other.keys()))):
        if names:
            print(f"{what}: {'; '.join(names)}")
    return different


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("write", "compare"))
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    given = parser.parse_args()
    if len(given.files) != (1 if given.what == "write" else 2):
        parser.error("needed: write FILE, or compare BEFORE AFTER")
    sys.exit(bool(write(*given.files) if given.what == "write" else compare(*given.files)))
