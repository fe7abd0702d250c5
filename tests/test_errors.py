"""The one error class of the borders, and the names it offers."""

from blsp.errors import InputError, suggest


def test_input_error_is_a_value_error_that_prints_as_its_message() -> None:
    error = InputError("expected a, found b; do c")
    assert isinstance(error, ValueError)
    assert str(error) == "expected a, found b; do c"


def test_the_nearest_name_is_offered() -> None:
    assert suggest("trian", ["train", "eval"]) == "did you mean 'train'?"


def test_all_names_are_offered_where_none_is_near() -> None:
    assert suggest("xyz", ["train", "eval"]) == "choose from eval, train"


def test_no_name_to_offer() -> None:
    assert suggest("xyz", []) == "there is none to choose from"
