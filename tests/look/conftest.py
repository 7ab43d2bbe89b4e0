"""A tiny policy to attribute with: its tokenizer, the model, and both as a folder."""

import pytest
import tiny


@pytest.fixture(scope="module")
def tokenizer():
    return tiny.tokenizer()


@pytest.fixture(scope="module")
def model():
    return tiny.model()


@pytest.fixture(scope="module")
def policy(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("policy")
    tiny.save_policy(folder)
    return str(folder)
