"""Options: defaults as published, and errors that name the option, the value and what is allowed."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grail_verl import GrailConfig

pytestmark = pytest.mark.fast


def test_defaults_are_the_published_ones_except_occurrence():
    assert dataclasses.asdict(GrailConfig()) == {
        "score": "saliency",
        "weights": "standardised",
        "modules": [],
        "std": 0.5,
        "mean": 1.0,
        "w_min": 0.5,
        "w_max": 5.0,
        "leaf": "embeddings",
        "hops": 0,
        "rollouts": "wrong",
        "alignment": "predictor",
        "occurrence": "last",
        "statistics": "response",
        "total": 4.0,
        "share": 0.2,
        "dump_dir": None,  # nothing is written
        "dump_responses": 32,
        "log_pictures": 0,
    }


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sdt": 0.3}, ["algorithm.grail.sdt=0.3", "did you mean std?", "statistics"]),
        ({"std": -0.1}, ["algorithm.grail.std=-0.1", ">= 0"]),
        ({"std": "wide"}, ["algorithm.grail.std='wide'", "a finite number"]),
        ({"std": True}, ["algorithm.grail.std=True", "a finite number"]),
        ({"w_max": float("inf")}, ["algorithm.grail.w_max=inf", "a finite number"]),
        ({"w_max": 1e39}, ["algorithm.grail.w_max=1e+39", "<= 1e+12"]),
        ({"w_max": 10**400}, ["algorithm.grail.w_max=1000", "<= 1e+12"]),
        ({"std": 2e12}, ["algorithm.grail.std=2000000000000.0", "<= 1e+12"]),
        ({"total": 10**400}, ["algorithm.grail.total=1000", "<= 1e+12"]),
        ({"mean": -(10**400)}, ["algorithm.grail.mean=-1000", ">= 0"]),
        ({"w_min": 6.0}, ["algorithm.grail.w_max=5.0", ">= w_min (6.0)"]),
        ({"mean": 0.25}, ["algorithm.grail.mean=0.25", "0.5 to 5.0"]),
        ({"leaf": "second"}, ["algorithm.grail.leaf='second'", "embeddings | first | middle | last"]),
        ({"rollouts": "right"}, ["algorithm.grail.rollouts='right'", "wrong | correct | all"]),
        ({"alignment": None}, ["algorithm.grail.alignment=None", "predictor | token"]),
        ({"occurrence": "any"}, ["algorithm.grail.occurrence='any'", "last | first"]),
        ({"statistics": "all"}, ["algorithm.grail.statistics='all'", "response | reasoning"]),
        ({"weighting": "oar_g"}, ["algorithm.grail.weighting='oar_g'", "did you mean weights?"]),
        ({"score": ["saliency"]}, ["algorithm.grail.score=['saliency']", "a name"]),
        ({"total": 0.0}, ["algorithm.grail.total=0.0", "a number > 0"]),
        ({"total": float("inf")}, ["algorithm.grail.total=inf", "a finite number"]),
        ({"share": 0}, ["algorithm.grail.share=0", "a number > 0 and <= 1"]),
        ({"share": 1.1}, ["algorithm.grail.share=1.1", "a number > 0 and <= 1"]),
        ({"modules": "rules.py"}, ["algorithm.grail.modules='rules.py'", "a list", "[rules.py, pkg://my_package.rules]"]),
        ({"modules": [""]}, ["algorithm.grail.modules=['']", "a list"]),
        ({"dump_dir": ""}, ["algorithm.grail.dump_dir=''", "a folder"]),
        ({"dump_dir": "a\0b"}, [r"algorithm.grail.dump_dir='a\x00b'", "a folder"]),
        ({"dump_dir": "half \ud800"}, [r"algorithm.grail.dump_dir='half \ud800'", "a folder"]),
        ({"modules": ["a\0b.py"]}, [r"algorithm.grail.modules=['a\x00b.py']", "a list"]),
        ({"dump_dir": 3}, ["algorithm.grail.dump_dir=3", "a folder"]),
        ({"dump_responses": 0}, ["algorithm.grail.dump_responses=0", "a whole number >= 1"]),
        ({"dump_responses": True}, ["algorithm.grail.dump_responses=True", "a whole number >= 1"]),
        ({"dump_responses": 1.5}, ["algorithm.grail.dump_responses=1.5", "a whole number >= 1"]),
        ({"log_pictures": -1}, ["algorithm.grail.log_pictures=-1", "a whole number >= 0"]),
        ({"log_pictures": False}, ["algorithm.grail.log_pictures=False", "a whole number >= 0"]),
        (0.3, ["algorithm.grail=0.3", "not a section"]),
    ],
)
def test_wrong_options_are_refused(options, says):
    with pytest.raises(ValueError) as error:
        GrailConfig.from_options(options)
    for part in says:
        assert part in str(error.value)


bounds = st.floats(0, 100, allow_nan=False)


@given(bounds, bounds, bounds, bounds)
def test_every_order_of_bounds_is_taken_or_refused(std, w_min, mean, w_max):
    options = {"std": std, "w_min": w_min, "mean": mean, "w_max": w_max}
    if w_min <= mean <= w_max:
        assert dataclasses.asdict(GrailConfig.from_options(options)).items() >= options.items()
    else:
        with pytest.raises(ValueError, match="algorithm.grail"):
            GrailConfig.from_options(options)
