"""The strict loader: what it accepts, and the line, the name and the advice of every refusal."""

from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal

import pytest

from blsp.config import DOTTED, dump_config, load_config, parse_config
from blsp.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Adapter:
    kind: Literal["conv", "stack"] = "conv"
    kernel_sizes: tuple[int, ...] = (5, 5, 5)
    dropout: float | None = None


@dataclass(frozen=True, kw_only=True)
class Data:
    manifest: Path
    max_seconds: float = 30.0
    span: tuple[int, float] = (1, 2.5)

    def __post_init__(self) -> None:
        if self.max_seconds <= 0:
            raise InputError(f"expected max_seconds above 0, found {self.max_seconds}; raise it")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    name: str
    data: Data
    adapter: Adapter = field(default_factory=Adapter)
    second_adapter: Adapter | None = None
    loss: dict[str, float] = field(default_factory=dict)
    steps: int = 100
    shuffle: bool = True
    corpora: list[Data] = field(default_factory=list)


SMALLEST = "name: a\ndata:\n  manifest: m.jsonl\n"


def parse(text: str, *overrides: str) -> Recipe:
    return parse_config(Recipe, dedent(text), name="r.yaml", overrides=overrides)


def refusal(text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        parse(text, *overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_whole_recipe_is_read() -> None:
    recipe = parse(
        """\
        name: first run
        data: {manifest: m.jsonl, max_seconds: 20, span: [3, 4]}
        adapter:
          kind: stack
          kernel_sizes: [3, 3]
          dropout: 0.1
        loss: {response_kl: 1, my_package.my_loss: 5e-1}
        steps: 1_000
        shuffle: false
        corpora: [{manifest: n.jsonl}]
        """
    )
    assert recipe == Recipe(
        name="first run",
        data=Data(manifest=Path("m.jsonl"), max_seconds=20.0, span=(3, 4.0)),
        adapter=Adapter(kind="stack", kernel_sizes=(3, 3), dropout=0.1),
        loss={"response_kl": 1.0, "my_package.my_loss": 0.5},
        steps=1000,
        shuffle=False,
        corpora=[Data(manifest=Path("n.jsonl"))],
    )
    assert isinstance(recipe.data.max_seconds, float)


def test_defaults_fill_what_is_not_written() -> None:
    assert parse(SMALLEST) == Recipe(name="a", data=Data(manifest=Path("m.jsonl")))


@pytest.mark.parametrize(
    ("written", "value"),
    [("1e-4", 1e-4), ("1E3", 1000.0), ("2", 2.0), ("-.5", -0.5), ("3.", 3.0), ("+1.5e+2", 150.0)],
)
def test_every_usual_spelling_of_a_number_is_one(written: str, value: float) -> None:
    assert parse(SMALLEST + f"loss: {{a: {written}}}").loss == {"a": value}


@pytest.mark.parametrize("written", ["null", "~", ""])
def test_null_is_none_where_none_is_allowed(written: str) -> None:
    assert parse(SMALLEST + f"second_adapter: {written}\n").second_adapter is None


def test_a_home_folder_is_expanded() -> None:
    recipe = parse("name: a\ndata: {manifest: ~/m.jsonl}")
    assert recipe.data.manifest == Path.home() / "m.jsonl"


REFUSALS: list[tuple[str, str]] = [
    (
        "stesp: 3",
        "r.yaml:4: expected a known key, found 'stesp'; did you mean 'steps'?",
    ),
    (
        "adapter:\n  knd: conv",
        "r.yaml:5: expected a key of 'adapter', found 'knd'; did you mean 'kind'?",
    ),
    (
        "adapter: {zzz: 1}",
        "r.yaml:4: expected a key of 'adapter', found 'zzz'; "
        "choose from dropout, kernel_sizes, kind",
    ),
    (
        "steps: many",
        "r.yaml:4: steps: expected a whole number, found the text 'many'; change it",
    ),
    (
        "steps: 1.5",
        "r.yaml:4: steps: expected a whole number, found the number '1.5'; change it",
    ),
    (
        "steps: '100'",
        "r.yaml:4: steps: expected a whole number, found the text '100'; "
        "remove the quotes if it is meant as a number",
    ),
    (
        "steps: true",
        "r.yaml:4: steps: expected a whole number, found the yes-or-no word 'true'; change it",
    ),
    (
        "steps:",
        "r.yaml:4: steps: expected a whole number, found nothing; change it",
    ),
    (
        "steps: 1:30",
        "r.yaml:4: steps: expected a whole number, found the number '1:30'; change it",
    ),
    (
        "steps: 010",
        "r.yaml:4: steps: expected a whole number, found the number '010'; change it",
    ),
    (
        "steps: 1__0",
        "r.yaml:4: steps: expected a whole number, found the number '1__0'; change it",
    ),
    (
        "loss: {a: 1e999}",
        "r.yaml:4: loss.a: expected a number, found the text '1e999'; change it",
    ),
    (
        "shuffle: 'true'",
        "r.yaml:4: shuffle: expected true or false, found the text 'true'; change it",
    ),
    (
        "shuffle: yes",
        "r.yaml:4: shuffle: expected true or false, found the yes-or-no word 'yes'; change it",
    ),
    (
        "adapter:\n  kind: convv",
        "r.yaml:5: adapter.kind: expected one of conv, stack, found the text 'convv'; "
        "did you mean 'conv'?",
    ),
    (
        "adapter:\n  kernel_sizes: 5",
        "r.yaml:5: adapter.kernel_sizes: expected a list, found the number '5'; "
        "write [first, second]",
    ),
    (
        "adapter:\n  kernel_sizes:\n  - 5\n  - x",
        "r.yaml:7: adapter.kernel_sizes[1]: expected a whole number, found the text 'x'; change it",
    ),
    (
        "adapter: conv",
        "r.yaml:4: adapter: expected a mapping of keys to values, found the text 'conv'; change it",
    ),
    (
        "loss:\n  a: 1\n  b: high",
        "r.yaml:6: loss.b: expected a number, found the text 'high'; change it",
    ),
    (
        "loss: {a: .nan}",
        "r.yaml:4: loss.a: expected a number, found the number '.nan'; change it",
    ),
    (
        "corpora:\n- manifest: a\n  span: [1, 2, 3]",
        "r.yaml:6: corpora[0].span: expected a list of 2, found a list of 3; change it",
    ),
    (
        "corpora:\n- {}",
        "r.yaml:5: expected the key 'corpora[0].manifest', found none; add it",
    ),
    (
        "loss: {no: 1}",
        "r.yaml:4: loss: expected a key, found the yes-or-no word 'no'; "
        "put it in quotes if it is meant as text",
    ),
    (
        "loss: &a {x: 1}\nadapter: *a",
        "r.yaml:5: expected every value written out, found an alias; copy the value here",
    ),
    (
        "steps: 1\nsteps: 2",
        "r.yaml:5: steps: expected the key once, found it at r.yaml:4 too; remove one",
    ),
    (
        "loss:\n  a: 1\n  a: 1",
        "r.yaml:6: loss.a: expected the key once, found it at r.yaml:5 too; remove one",
    ),
    (
        "adapter: {kind: [}",
        "r.yaml:4: expected YAML, found this: expected the node content, but found '}'; fix it",
    ),
]


@pytest.mark.parametrize(("added", "message"), REFUSALS)
def test_a_refusal_says_where_what_and_what_to_do(added: str, message: str) -> None:
    assert refusal(SMALLEST + added) == message


@pytest.mark.parametrize("word", ["no", "on", "2024-07-26", "1.0"])
def test_a_word_yaml_takes_for_something_else_is_no_text(word: str) -> None:
    message = refusal(f"data: {{manifest: m}}\nname: {word}")
    assert message.startswith("r.yaml:2: name: expected a text, found the ")
    assert message.endswith(f"{word!r}; put it in quotes if it is meant as text")
    assert parse(f"data: {{manifest: m}}\nname: '{word}'").name == word


def test_every_missing_key_is_named_at_once() -> None:
    assert refusal("steps: 1") == ("r.yaml:1: expected the key 'name', 'data', found none; add it")


def test_the_dataclass_has_the_last_word_and_the_line_is_added() -> None:
    assert refusal("name: a\ndata:\n  manifest: m\n  max_seconds: -1\n") == (
        "r.yaml:3: data: expected max_seconds above 0, found -1.0; raise it"
    )


def test_two_documents_are_refused() -> None:
    assert refusal(SMALLEST + "---\nname: b\n").startswith("r.yaml:4: expected YAML, found this: ")


def test_a_yaml_tag_constructs_nothing() -> None:
    message = refusal("name: !!python/object/apply:os.getcwd []\ndata: {manifest: m}")
    assert message.startswith("r.yaml:1: name: expected a text, found a list of 0")


@pytest.mark.parametrize("text", ["", "# only a comment\n"])
def test_an_empty_file_is_refused(text: str) -> None:
    assert refusal(text).startswith("r.yaml: expected a value, found nothing")


# --- overrides ---


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("steps=7", {"steps": 7}),
        ("name='no'", {"name": "no"}),
        ("adapter.kind=stack", {"adapter": Adapter(kind="stack")}),
        ("adapter.kernel_sizes=[1, 2]", {"adapter": Adapter(kernel_sizes=(1, 2))}),
        ("second_adapter.dropout=1e-1", {"second_adapter": Adapter(dropout=0.1)}),
        ("second_adapter={kind: stack}", {"second_adapter": Adapter(kind="stack")}),
        ("loss.my_package.my_loss=0.5", {"loss": {"my_package.my_loss": 0.5}}),
        ("data.manifest=x=y.jsonl", {"data": Data(manifest=Path("x=y.jsonl"))}),
    ],
)
def test_an_override_replaces_one_value(override: str, expected: dict[str, Any]) -> None:
    [(name, value)] = expected.items()
    assert getattr(parse(SMALLEST, override), name) == value


def test_an_override_can_give_what_the_file_lacks() -> None:
    assert parse("name: a", "data.manifest=m.jsonl") == parse(SMALLEST)


def test_later_overrides_win_and_others_stay() -> None:
    recipe = parse(SMALLEST + "loss: {a: 1, b: 2}", "loss.a=3", "loss.a=4")
    assert recipe.loss == {"a": 4.0, "b": 2.0}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "stesp=7",
            "command line: stesp=7: expected a known key, found 'stesp'; did you mean 'steps'?",
        ),
        (
            "adapter.knd=conv",
            "command line: adapter.knd=conv: expected a key of 'adapter', found 'knd'; "
            "did you mean 'kind'?",
        ),
        (
            "steps=many",
            "command line: steps=many: steps: expected a whole number, found the text 'many'; "
            "change it",
        ),
        (
            "steps.x=1",
            "command line: steps.x=1: steps: expected one value, found keys below it",
        ),
        (
            "steps",
            "command line: steps: expected key.path=value, found no '='; write key.path=value",
        ),
        (
            "steps=",
            "command line: steps=: expected a value, found nothing; write one (null for none)",
        ),
    ],
)
def test_a_refused_override_names_itself(override: str, message: str) -> None:
    assert refusal(SMALLEST, override) == message


def test_a_key_repeated_in_the_file_is_refused_even_when_overridden() -> None:
    assert "expected the key once" in refusal(SMALLEST + "steps: 1\nsteps: 2", "steps=3")


# --- files and the way back ---


def test_a_file_is_named_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(SMALLEST + "steps: x\n")
    with pytest.raises(InputError, match=rf"{path}:4: steps: expected a whole number"):
        load_config(Recipe, path)


def test_a_missing_file_a_folder_and_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a YAML file, found No such file"):
        load_config(Recipe, tmp_path / "none.yaml")
    with pytest.raises(InputError, match="expected a YAML file, found Is a directory"):
        load_config(Recipe, tmp_path)
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(InputError, match="expected UTF-8 text, found invalid start byte"):
        load_config(Recipe, tmp_path / "bytes.yaml")
    (tmp_path / "control.yaml").write_bytes(b"name: \x07")
    with pytest.raises(InputError, match="expected YAML, found this: unacceptable character"):
        load_config(Recipe, tmp_path / "control.yaml")


def test_a_file_saved_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(SMALLEST, encoding="utf-8-sig")
    assert load_config(Recipe, path) == parse(SMALLEST)


def test_dump_then_parse_gives_the_same_config() -> None:
    recipe = Recipe(
        name="no",
        data=Data(manifest=Path("a b/ü.jsonl"), max_seconds=1e-5),
        adapter=Adapter(kernel_sizes=()),
        second_adapter=Adapter(kind="stack"),
        loss={"on": 1e22, "my_package.my_loss": 0.1},
        corpora=[Data(manifest=Path("1e3"))],
    )
    text = dump_config(recipe)
    assert parse(text) == recipe
    assert text.startswith("name: 'no'\ndata:\n  manifest: a b/ü.jsonl\n")


@dataclass(frozen=True, kw_only=True)
class Unsupported:
    value: int | str


def test_a_type_the_loader_does_not_know_is_our_bug_not_the_users() -> None:
    with pytest.raises(TypeError, match="one type or None"):
        parse_config(Unsupported, "value: 1", name="r.yaml")


@dataclass(frozen=True, kw_only=True)
class Template:
    variables: dict[str, Any] = field(default_factory=dict)


def test_a_value_of_any_kind_is_read_as_it_is_written() -> None:
    text = (
        "variables: {thinking: false, date: '2026-01-31', level: 2, share: 0.5, name: kind, "
        "schema: {enum: [a, 1, null], nested: {}}}"
    )
    template = parse_config(Template, text, name="r.yaml")
    assert template.variables == {
        "thinking": False,
        "date": "2026-01-31",
        "level": 2,
        "share": 0.5,
        "name": "kind",
        "schema": {"enum": ["a", 1, None], "nested": {}},
    }
    assert parse_config(Template, dump_config(template), name="r.yaml") == template


@pytest.mark.parametrize("value", ["no", "2026-01-31", "null", "[1, no]", "{y: no}"])
def test_a_value_of_any_kind_is_not_guessed_at(value: str) -> None:
    with pytest.raises(InputError, match=r"variables\.x.*: expected a text, found"):
        parse_config(Template, f"variables: {{x: {value}}}", name="r.yaml")


@dataclass(frozen=True)
class Weights:
    ours: float = 1.0
    class_: str | None = None
    others: dict[str, float] = field(default_factory=dict, metadata={DOTTED: True})


def test_keys_with_a_dot_go_to_the_field_that_takes_them() -> None:
    text = "ours: 2.0\nmy_package.my_loss: 0.5\nclass: a.B\n"
    found = parse_config(Weights, text, name="x", overrides=["a.b.c=3", "class=d.E"])
    assert found == Weights(2.0, "d.E", {"my_package.my_loss": 0.5, "a.b.c": 3.0})
    assert parse_config(Weights, dump_config(found), name="x") == found


@pytest.mark.parametrize("key", ["our", "others", "class_"])
def test_a_key_without_a_dot_must_be_known(key: str) -> None:
    with pytest.raises(InputError, match=f"expected a known key, found '{key}'"):
        parse_config(Weights, f"{key}: 1", name="x")
