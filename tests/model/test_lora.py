"""LoRA: text untouched with scope `speech`, gradients, caches, checkpointing, every load path."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM, BitsAndBytesConfig

from blsp.errors import InputError
from blsp.model import (
    LlmOptions,
    LoraConfig,
    compose,
    load_checkpoint,
    save_checkpoint,
    warm_start,
)
from blsp.model.lora import is_lora, merge_lora
from tests.model.conftest import make_audio, save_llm

Pair = tuple[Any, Any]  # a model and its processor
TEXTS = ["a <|audio|> bc", "<|audio|>d"]
AUDIO = [make_audio(9_000), make_audio(16_000, 1)]
GREEDY = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}


def quantised(bits: int, compute: torch.dtype = torch.float32) -> LlmOptions:
    if bits == 8:
        return LlmOptions(
            quantization_config=BitsAndBytesConfig(load_in_8bit=True), dtype=torch.bfloat16
        )
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )
    return LlmOptions(quantization_config=nf4, dtype=compute)


OPTIONS = {
    "fp32": LlmOptions(dtype=torch.float32),
    "bf16": LlmOptions(dtype=torch.bfloat16),
    "nf4-fp32": quantised(4),
    "nf4-bf16": quantised(4, torch.bfloat16),
    "int8": quantised(8),
}


@pytest.fixture(scope="module")
def small_llm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Blocks of 64 weights fit its sizes."""
    folder = tmp_path_factory.mktemp("llms")

    def make(kind: str) -> Path:
        path = folder / kind
        return path if path.exists() else save_llm(path, kind, intermediate_size=128)

    return make


def build(llm: Path, whisper: Path, options: str = "fp32", **changes: Any) -> Pair:
    """A model with LoRA that does something: its second matrix begins at random, not at zero."""
    torch.manual_seed(3)
    lora = LoraConfig(**{"scope": "speech", "rank": 4, "alpha": 8, **changes})
    model, processor = compose(llm=llm, encoder=whisper, lora=lora, options=OPTIONS[options])
    stir(model)
    return model, processor


def stir(model: Any) -> None:
    for name, parameter in model.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.5)


@pytest.fixture
def plora(small_llm: Callable[[str], Path], whisper: Path) -> Pair:
    return build(small_llm("qwen3"), whisper)


def text_inputs(processor: Any) -> dict[str, Tensor]:
    return dict(processor(text=["some words", "others, and more of them"]))


def heard_inputs(processor: Any, **options: Any) -> dict[str, Tensor]:
    return dict(processor(text=TEXTS, audio=AUDIO, **options))


def loss_of(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] > 255, -100)
    return model(**inputs, labels=labels).loss


def lora_gradients(model: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    model.train().zero_grad()
    loss_of(model, inputs).backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if is_lora(n)}


# --- what LoRA touches, and what it does not ------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        *itertools.product(["qwen3", "qwen2", "llama"], ["fp32", "bf16", "nf4-fp32", "nf4-bf16"]),
        ("qwen3", "int8"),
    ],
)
def test_text_is_bit_identical_to_the_base_and_speech_is_not(
    kind: str, options: str, small_llm: Callable[[str], Path], whisper: Path
) -> None:
    torch.manual_seed(3)
    base, processor = compose(llm=small_llm(kind), encoder=whisper, options=OPTIONS[options])
    model, _ = build(small_llm(kind), whisper, options)
    model.model.adapter.load_state_dict(base.model.adapter.state_dict())
    text, heard = text_inputs(processor), heard_inputs(processor)
    with torch.no_grad():
        for mode in (True, False):
            assert torch.equal(model.train(mode)(**text).logits, base.train(mode)(**text).logits)
        spoken, plain = model.eval()(**heard).logits, base.eval()(**heard).logits
        with model.model.without_lora():
            assert torch.equal(model(**heard).logits, plain)
    assert not torch.allclose(spoken, plain, atol=0.05)


@pytest.mark.parametrize("options", ["fp32", "nf4-fp32"])
def test_only_speech_rows_change_at_every_layer(
    options: str, small_llm: Callable[[str], Path], whisper: Path
) -> None:
    model, processor = build(small_llm("qwen3"), whisper, options)
    heard = heard_inputs(processor)
    is_speech = heard["input_ids"] == model.config.audio_token_id
    seen = 0

    def compare(module: Any, args: tuple[Tensor], output: Tensor) -> None:
        nonlocal seen
        differs = (output != module.base_layer(args[0])).any(-1)
        assert torch.equal(differs, is_speech)
        seen += 1

    for module in model.modules():
        if isinstance(module, LoraLayer):
            module.register_forward_hook(compare)  # type: ignore[union-attr]
    with torch.no_grad():
        model(**heard)
    assert seen == 2 * 7  # layers x projections


@pytest.mark.parametrize("options", ["fp32", "bf16", "nf4-fp32", "int8"])
def test_speech_gives_every_lora_weight_a_gradient_and_text_gives_zeros(
    options: str, small_llm: Callable[[str], Path], whisper: Path
) -> None:
    model, processor = build(small_llm("qwen3"), whisper, options)
    spoken = lora_gradients(model, heard_inputs(processor, padding_side="right"))
    assert len(spoken) == 2 * 14
    assert all(gradient.any() for gradient in spoken.values())
    read = lora_gradients(model, text_inputs(processor))
    assert not any(gradient.any() for gradient in read.values())


def test_the_formula(plora: Pair) -> None:
    """y = W x + [speech] (alpha / rank) B A x, written out."""
    model, _ = plora
    layer = model.model.language_model.model.layers[0].mlp.gate_proj
    first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x, is_speech = torch.randn(2, 5, 64), torch.rand(2, 5) > 0.5
    with model.model.lora_state.hearing(is_speech, training=False):
        found = layer(x)
    wanted = layer.base_layer(x) + is_speech[..., None] * (8 / 4) * (x @ first.T @ second.T)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_scope_all_is_ordinary_lora(
    small_llm: Callable[[str], Path], whisper: Path, tmp_path: Path
) -> None:
    """peft's own LoRA with the same weights gives the same, for text as well."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    model, processor = build(small_llm("qwen3"), whisper, scope="all")
    theirs: Any = get_peft_model(
        AutoModelForCausalLM.from_pretrained(small_llm("qwen3"), dtype=torch.float32),
        PeftLoraConfig(r=4, lora_alpha=8, target_modules="all-linear"),
    )
    weights = {n: p for n, p in model.model.language_model.named_parameters() if is_lora(n)}
    assert not theirs.base_model.model.load_state_dict(weights, strict=False).unexpected_keys
    text = text_inputs(processor)
    with torch.no_grad():
        assert torch.allclose(model(**text).logits, theirs(**text).logits, atol=1e-5)
        with model.model.without_lora(), theirs.disable_adapter():
            assert torch.equal(model(**text).logits, theirs(**text).logits)


def test_merged_weights_answer_as_lora_does(
    small_llm: Callable[[str], Path], whisper: Path
) -> None:
    model, processor = build(small_llm("gpt2"), whisper, scope="all")  # transposed weights
    heard = heard_inputs(processor)
    with torch.no_grad():
        before = model(**heard).logits
        merge_lora(model.model.language_model)
        assert torch.allclose(model(**heard).logits, before, atol=1e-4)
    assert not any(is_lora(name) for name, _ in model.named_parameters())


def test_dropout_is_of_training_alone(small_llm: Callable[[str], Path], whisper: Path) -> None:
    model, processor = build(small_llm("qwen3"), whisper, dropout=0.5)
    heard = heard_inputs(processor)
    with torch.no_grad():
        assert torch.equal(model(**heard).logits, model(**heard).logits)
        assert not torch.equal(model.train()(**heard).logits, model(**heard).logits)


# --- generation -----------------------------------------------------------------------------------


@pytest.mark.parametrize("beams", [1, 3])
def test_with_and_without_a_cache_the_same_is_written(plora: Pair, beams: int) -> None:
    model, processor = plora
    heard = heard_inputs(processor)
    kept = model.generate(**heard, **GREEDY, num_beams=beams)
    assert torch.equal(kept, model.generate(**heard, **GREEDY, num_beams=beams, use_cache=False))


def test_step_by_step_logits_are_those_of_one_pass(plora: Pair) -> None:
    model, processor = plora
    heard = heard_inputs(processor)
    out = model.generate(**heard, **GREEDY, output_logits=True, return_dict_in_generate=True)
    mask = torch.cat([heard["attention_mask"], torch.ones(2, 6, dtype=torch.long)], 1)
    with torch.no_grad():
        whole = model(**heard | {"input_ids": out.sequences, "attention_mask": mask}).logits
    steps = torch.stack(out.logits, 1)
    assert torch.allclose(whole[:, -7:-1], steps, atol=1e-4)


def test_a_second_turn_on_the_first_ones_cache_is_the_whole_conversation(plora: Pair) -> None:
    model, processor = plora
    first = processor(text="a <|audio|> b", audio=AUDIO[:1])
    second = processor(text=" c <|audio|> d", audio=AUDIO[1:])
    whole = processor(text="a <|audio|> b c <|audio|> d", audio=AUDIO)
    with torch.no_grad():
        cache = model(**first, use_cache=True).past_key_values
        mask = torch.cat([first["attention_mask"], second["attention_mask"]], 1)
        found = model(**dict(second) | {"attention_mask": mask}, past_key_values=cache).logits
        wanted = model(**whole).logits[:, -found.shape[1] :]
    assert torch.allclose(found, wanted, atol=1e-4)


def test_embeddings_need_to_say_where_speech_is(plora: Pair) -> None:
    model, processor = plora
    heard = heard_inputs(processor)
    ids, mask = heard["input_ids"], heard["attention_mask"]
    speech = {n: heard[n] for n in ("input_features", "input_features_mask")}
    with torch.no_grad():
        embeds = model.model.embed(ids, **speech)
        with pytest.raises(RuntimeError, match="expected to know which positions are speech"):
            model(inputs_embeds=embeds, attention_mask=mask)
        types = (ids == model.config.audio_token_id) * 3
        found = model(inputs_embeds=embeds, attention_mask=mask, mm_token_type_ids=types).logits
        assert torch.equal(found, model(**heard).logits)
    written = model.generate(
        inputs_embeds=embeds, attention_mask=mask, mm_token_type_ids=types, **GREEDY
    )
    assert torch.equal(written, model.generate(**heard, **GREEDY)[:, ids.shape[1] :])


def test_the_language_model_alone_must_say_that_it_reads(plora: Pair) -> None:
    model, processor = plora
    text = text_inputs(processor)
    with pytest.raises(RuntimeError, match="within `without_lora`"):
        model.model.language_model(**text)
    with torch.no_grad(), model.model.without_lora():
        assert torch.equal(model.model.language_model(**text).logits, model(**text).logits)


# --- gradient checkpointing -----------------------------------------------------------------------


@pytest.mark.parametrize("scope", ["speech", "all"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_gives_the_same_gradients_also_with_a_teacher_between(
    reentrant: bool, scope: str, small_llm: Callable[[str], Path], whisper: Path
) -> None:
    model, processor = build(small_llm("qwen3"), whisper, scope=scope)
    heard = heard_inputs(processor, padding_side="right")
    plain = lora_gradients(model, heard)
    model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    model.train().zero_grad()
    loss = loss_of(model, heard)
    with torch.no_grad(), model.model.without_lora():  # the teacher reads before the backward pass
        model(**text_inputs(processor))
    loss.backward()
    for name, parameter in model.named_parameters():
        if is_lora(name):
            assert torch.allclose(parameter.grad, plain[name], rtol=1e-6, atol=1e-7), name


# --- every way to load ----------------------------------------------------------------------------


@pytest.mark.parametrize("options", ["fp32", "nf4-fp32"])
@pytest.mark.parametrize("load", ["load_checkpoint", "from_pretrained", "auto"])
def test_what_is_loaded_knows_its_scope(
    load: str, options: str, small_llm: Callable[[str], Path], whisper: Path, tmp_path: Path
) -> None:
    model, processor = build(small_llm("qwen3"), whisper, options)
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    loads: dict[str, Callable[[Path], Any]] = {
        "load_checkpoint": lambda path: load_checkpoint(path)[0],
        "from_pretrained": type(model).from_pretrained,
        "auto": AutoModelForMultimodalLM.from_pretrained,
    }
    again = loads[load](tmp_path / "checkpoint").eval()
    heard, text = heard_inputs(processor), text_inputs(processor)
    with torch.no_grad():
        assert torch.equal(again(**heard).logits, model(**heard).logits)
        with model.model.without_lora():
            base = model(**text).logits
        assert torch.equal(again(**text).logits, base)


def test_a_whole_model_of_the_librarys_format_knows_its_scope(plora: Pair, tmp_path: Path) -> None:
    model, processor = plora
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path).eval()
    heard, text = heard_inputs(processor), text_inputs(processor)
    with torch.no_grad():
        assert torch.equal(again(**heard).logits, model(**heard).logits)
        assert torch.equal(again(**text).logits, model(**text).logits)


def test_a_checkpoint_holds_lora_and_refuses_to_lack_some_of_it(
    plora: Pair, tmp_path: Path
) -> None:
    model, processor = plora
    kept = model.delta_state
    assert sum(is_lora(name) for name in kept()) == 2 * 14
    assert not any(".base_layer." in name for name in kept())
    some = {name: tensor for name, tensor in kept().items() if "layers.1" not in name}
    model.delta_state = lambda: some
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    with pytest.raises(InputError, match=r"lora_A\.default\.weight is missing"):
        load_checkpoint(tmp_path / "checkpoint")


def test_lora_may_begin_where_an_adapter_alone_ended(
    plora: Pair, small_llm: Callable[[str], Path], whisper: Path, tmp_path: Path
) -> None:
    plain, processor = compose(llm=small_llm("qwen3"), encoder=whisper)
    save_checkpoint(plain, processor, tmp_path / "stage-1")
    model, _ = plora
    warm_start(model, tmp_path / "stage-1")
    adapters = (one.model.adapter.state_dict() for one in (model, plain))
    assert all(torch.equal(a, b) for a, b in zip(*(s.values() for s in adapters), strict=True))


# --- what is refused ------------------------------------------------------------------------------


def test_a_target_that_no_layer_has_is_refused(
    small_llm: Callable[[str], Path], whisper: Path
) -> None:
    with pytest.raises(InputError, match=r"expected names of linear layers of Qwen3ForCausalLM"):
        build(small_llm("qwen3"), whisper, targets=("query",))


@pytest.mark.parametrize(
    "numbers", [{"rank": 0}, {"alpha": 0}, {"dropout": 1.0}, {"scope": "speach"}]
)
def test_numbers_that_cannot_be_are_refused(numbers: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="lora"):
        LoraConfig(**numbers)


def test_rows_in_another_order_are_refused(plora: Pair) -> None:
    model, _ = plora
    layer = model.model.language_model.model.layers[0].mlp.gate_proj
    is_speech = torch.ones(2, 5, dtype=torch.bool)
    with (
        model.model.lora_state.hearing(is_speech, training=False),
        pytest.raises(RuntimeError, match=r"expected rows of shape \(2, 5\), found \(10,\)"),
    ):
        layer(torch.randn(10, 64))


def test_peft_cannot_merge_what_acts_at_speech_alone(plora: Pair) -> None:
    model, _ = plora
    layer = next(m for m in model.modules() if isinstance(m, LoraLayer))
    with pytest.raises(RuntimeError, match="cannot be merged"):
        layer.merge()  # type: ignore[operator]
