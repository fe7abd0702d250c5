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
PLAIN = BODY.replace("  adapter:\n    kind: stack\n    stack_factor: 4\n", "")
"""With the adapter of the defaults."""


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


CFORMER = "model.adapter.kind=cformer"
EMOTIONS = "model.emotions=[happy, sad]"


@pytest.mark.parametrize(
    ("overrides", "first", "second"),
    [
        (["loss.input_kl=1"], "loss.input_kl", "model.adapter.kind: cformer"),
        (["loss.hidden_cosine=1"], "loss.hidden_cosine", "model.adapter.kind: cformer"),
        (["loss.cif_quantity=1"], "loss.cif_quantity", "model.adapter.kind: cformer"),
        (
            ["model.adapter.kind=qformer", "loss.input_kl=1"],
            "loss.input_kl",
            "qformer with length: tokens",
        ),
        ([CFORMER], "loss.cif_quantity", "model.adapter.kind: cformer"),
        (
            ["model.adapter.kind=qformer", "model.adapter.length=tokens"],
            "loss.cif_quantity",
            "model.adapter.kind: qformer",
        ),
        ([CFORMER, "loss.cif_quantity=1", "loss.ctc=1"], "loss.ctc", "model.adapter (cformer)"),
        (["loss.emotion_ce=1"], "loss.emotion_ce", "model.emotions"),
        (["loss.emotion_ce=1", "model.emotions=[sad]"], "loss.emotion_ce", "model.emotions"),
        ([EMOTIONS], "model.emotions", "loss.emotion_ce"),
        (
            ["loss.contrastive=1", "training.batch_examples=1"],
            "loss.contrastive",
            "training.batch_examples",
        ),
        (
            ["model.lora.scope=all", "loss.ctc=1", "loss.response_kl=0", "loss.response_ce=0"],
            "model.lora.scope",
            "objective of loss (ctc)",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused_by_both_names(
    tmp_path: Path, overrides: list[str], first: str, second: str
) -> None:
    told = refusal(tmp_path, HEADER + PLAIN, *overrides)
    assert f"{first}: expected" in told and second in told


@pytest.mark.parametrize(
    "overrides",
    [
        [CFORMER, "loss.cif_quantity=1", "loss.input_kl=1", "loss.hidden_cosine=0.1"],
        [CFORMER, "model.init_from=old"],  # it knows how many embeddings there are
        ["model.adapter.kind=qformer"],
        [EMOTIONS, "loss.emotion_ce=0.1"],
        ["loss.hidden_cosine_layers=[0.5]"],
        ["model.lora.scope=speech", "loss.ctc=1", "loss.pretraining_steps=10"],
    ],
)
def test_what_fits_together_is_a_recipe(tmp_path: Path, overrides: list[str]) -> None:
    load_recipe(write(tmp_path, HEADER + PLAIN), overrides)


def test_every_emotion_is_named_once(tmp_path: Path) -> None:
    overrides = "loss.emotion_ce=1", "model.emotions=[sad, happy, sad]"
    assert "found sad, happy, sad; name each once" in refusal(tmp_path, HEADER + PLAIN, *overrides)


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
