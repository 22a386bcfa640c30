"""Error values of spreadsheets are told from sentences."""

import pytest

from stance.corpus import error_values


@pytest.mark.parametrize(
    "text",
    [
        "#REF!",
        "#ref!",
        "#N/A",
        "#SPILL!",
        "#ERROR!",
        "Err:509",
        "#WERT!",
        "#NV",
        "#NOM?",
        "#¿NOMBRE?",
        "#Н/Д",
    ],
)
def test_an_error_value(text):
    assert error_values.is_error(text)


@pytest.mark.parametrize(
    "text", ["", "#metoo", "#MAGA!", "I saw #REF! in a cell.", "Error: none", "Err", "#"]
)
def test_a_text_is_no_error_value(text):
    assert not error_values.is_error(text)
