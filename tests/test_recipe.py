"""Recipes: what one is, what its header may claim, and that those we ship are right."""

from pathlib import Path

import pytest

from blsp.errors import InputError
from blsp.recipe import dump_recipe, load_recipe, parse_header

HEADER = """\
# small model hears English
# needs: 3 GB to download, 8 GB of GPU memory,
#   one hour; Apache-2.0
# command: blsp train small.yaml
# serves with: blsp serve, vLLM
# expected: not known
"""
BODY = """
data:
  train: [train.jsonl]
  dev: [dev.jsonl]
model:
  llm: some/llm
  encoder: some/whisper
  adapter:
    kind: stack
    stack_factor: 4
  template_variables: {date: "2026-01-31"}
loss:
  response_kl: 0.7
  response_ce: 0.3
  temperature: 2.0
training:
  output: runs/small
  learning_rate: 1e-4
  epochs: 1
"""


def write(tmp_path: Path, text: str = HEADER + BODY) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def refusal(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        load_recipe(write(tmp_path, text), overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_recipe_says_all_of_a_run(tmp_path: Path) -> None:
    recipe, header = load_recipe(write(tmp_path), ["training.seed=7", "model.init_from=old"])
    assert recipe.data.train == (Path("train.jsonl"),)
    assert recipe.model.adapter.to_dict()["stack_factor"] == 4
    assert recipe.model.template_variables == {"date": "2026-01-31"}
    assert (recipe.model.init_from, recipe.training.seed) == ("old", 7)
    assert (recipe.loss.response_ce, recipe.training.learning_rate) == (0.3, 1e-4)
    assert header.what == "small model hears English"
    assert header.needs == "3 GB to download, 8 GB of GPU memory, one hour; Apache-2.0"
    assert header.serves_with == "blsp serve, vLLM"


def test_a_written_out_recipe_is_the_same_recipe(tmp_path: Path) -> None:
    recipe, header = load_recipe(write(tmp_path))
    assert load_recipe(write(tmp_path, dump_recipe(recipe, header))) == (recipe, header)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("response_kl:", "response_kll:", "small.yaml:19: expected a key of 'loss', found 'resp"),
        ("stack_factor:", "stack_facto:", "did you mean 'stack_factor'?"),
        ("  epochs: 1\n", "", "expected either steps or epochs"),
        ("temperature: 2.0", "temperature: 0", "expected temperatures above 0"),
        ("  learning_rate: 1e-4\n", "", "expected the key 'training.learning_rate', found none"),
        ("kind: stack", "kind: conv", "expected the numbers of kind 'conv'"),
    ],
)
def test_what_cannot_work_is_refused_with_its_place(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert message in refusal(tmp_path, (HEADER + BODY).replace(old, new))


@pytest.mark.parametrize(
    "claim",
    [
        "not known",
        "published, arXiv 2309.00916 table 2, not reproduced",
        "WER 3.1 % on test-clean; measured with: blsp eval runs/small/checkpoint --task asr",
    ],
)
def test_a_header_may_claim(claim: str) -> None:
    text = HEADER.replace("expected: not known", f"expected: {claim}")
    assert parse_header(text, name="r.yaml").expected == claim


@pytest.mark.parametrize(
    "claim",
    [
        "WER 3.1 %",
        "about as good as Whisper; measured with: blsp eval",
        "published, not reproduced",
        "not known, but surely good",
    ],
)
def test_a_header_may_not_claim(claim: str) -> None:
    text = HEADER.replace("expected: not known", f"expected: {claim}")
    with pytest.raises(InputError, match="expected a result that is"):
        parse_header(text, name="r.yaml")


def test_a_header_says_all_it_must(tmp_path: Path) -> None:
    assert "found nothing of it; add the line `# command: ...`" in refusal(
        tmp_path, HEADER.replace("# command: blsp train small.yaml\n", "") + BODY
    )
    assert "expected a comment that says what is trained" in refusal(tmp_path, BODY)
    assert "found 'serve with'; did you mean 'serves with'?" in refusal(
        tmp_path, HEADER.replace("serves with", "serve with") + BODY
    )


def test_a_recipe_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: expected a recipe, found No such"):
        load_recipe(tmp_path / "nowhere.yaml")
