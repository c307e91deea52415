"""Tokenizers, built once."""

import pytest

from tests.evals import toy_tokenizers


@pytest.fixture(scope="session")
def tokenizer():
    return toy_tokenizers.suitable()


@pytest.fixture(scope="session")
def bytes_tokenizer():
    return toy_tokenizers.without_merges()
