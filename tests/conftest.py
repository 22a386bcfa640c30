"""What several test files use: the real Gemma-2 tokenizer, which is gated and so cannot travel with the repository."""

import os

import pytest


@pytest.fixture(scope="session")
def gemma_tokenizer():
    """The tokenizer in the folder that the environment variable GEMMA_TOKENIZER names; skips the test without it."""
    folder = os.environ.get("GEMMA_TOKENIZER")
    if not folder:
        pytest.skip("GEMMA_TOKENIZER is not set: give it the folder of google/gemma-2-9b-it's tokenizer files")
    import transformers  # seconds, and most tests do without

    return transformers.AutoTokenizer.from_pretrained(folder)
