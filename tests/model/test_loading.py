"""Composition from what people have, and checkpoints that hold nothing but what was trained."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMultimodalLM,
    BertConfig,
    BertLMHeadModel,
    WhisperForConditionalGeneration,
)

from blsp.checkpoint import mark_complete
from blsp.errors import InputError
from blsp.model import (
    BlspForConditionalGeneration,
    BlspModel,
    LlmOptions,
    compose,
    load_checkpoint,
    save_checkpoint,
    warm_start,
)
from blsp.model.head import HeadTransform
from tests.model.conftest import build_tokenizer, make_audio, save_llm, save_whisper

Pair = tuple[Any, Any]  # a model and its processor
GREEDY = {"do_sample": False, "max_new_tokens": 8}


def refuse(**arguments: Any) -> str:
    with pytest.raises(InputError) as error:
        compose(**arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def copy(folder: Path, to: Path, **changes: Any) -> Path:
    """A copy of a model folder with another config.json."""
    shutil.copytree(folder, to)
    config = json.loads((to / "config.json").read_text()) | changes
    (to / "config.json").write_text(json.dumps(config))
    return to


# --- encoders -------------------------------------------------------------------------------------


def test_the_encoder_has_whispers_weights_bit_for_bit(pair: Pair, whisper: Path) -> None:
    theirs = WhisperForConditionalGeneration.from_pretrained(whisper).model.encoder.state_dict()
    ours = pair[0].model.audio_tower.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def to_openai(whisper: Path, path: Path) -> Path:
    """The same weights under the names and sizes of OpenAI's own package."""
    model = WhisperForConditionalGeneration.from_pretrained(whisper)
    names = {
        "embed_positions.weight": "positional_embedding",
        "layers.": "blocks.",
        "self_attn.q_proj": "attn.query",
        "self_attn.k_proj": "attn.key",
        "self_attn.v_proj": "attn.value",
        "self_attn.out_proj": "attn.out",
        "self_attn_layer_norm": "attn_ln",
        "final_layer_norm": "mlp_ln",
        "layer_norm.": "ln_post.",
        "fc1": "mlp.0",
        "fc2": "mlp.2",
    }
    weights = {"decoder.ln.weight": torch.ones(3)}
    for name, tensor in model.model.encoder.state_dict().items():
        renamed = name
        for ours, theirs in names.items():
            renamed = renamed.replace(ours, theirs)
        weights[f"encoder.{renamed}"] = tensor
    config = model.config
    dims = {
        "n_mels": config.num_mel_bins,
        "n_vocab": config.vocab_size,
        "n_audio_ctx": config.max_source_positions,
        "n_audio_state": config.d_model,
        "n_audio_head": config.encoder_attention_heads,
        "n_audio_layer": config.encoder_layers,
        "n_text_ctx": config.max_target_positions,
        "n_text_state": config.d_model,
        "n_text_head": config.decoder_attention_heads,
        "n_text_layer": config.decoder_layers,
    }
    torch.save({"dims": dims, "model_state_dict": weights}, path)
    return path


def test_an_openai_file_is_the_same_encoder(llm: Path, tmp_path: Path) -> None:
    folder = save_whisper(tmp_path / "whisper", encoder_ffn_dim=128, num_mel_bins=128)
    torch.manual_seed(0)
    model, processor = compose(llm=llm, encoder=folder)
    torch.manual_seed(0)
    other, other_processor = compose(llm=llm, encoder=to_openai(folder, tmp_path / "small.pt"))
    inputs = processor(text="<|audio|>", audio=[make_audio(9_000)])
    assert inputs["input_features"].shape[1] == 128
    theirs = other_processor(text="<|audio|>", audio=[make_audio(9_000)])
    assert torch.equal(model(**inputs).logits, other(**theirs).logits)
    ours, converted = model.config.bases, other.config.bases
    assert ours["encoder"]["fingerprint"] == converted["encoder"]["fingerprint"]  # type: ignore[index]


def test_a_file_that_is_no_whisper_is_refused(llm: Path, tmp_path: Path) -> None:
    torch.save({"weights": torch.ones(2)}, tmp_path / "a.pt")
    assert "expected an openai-whisper checkpoint" in refuse(llm=llm, encoder=tmp_path / "a.pt")
    assert "expected a Whisper model, found model_type 'qwen3'" in refuse(llm=llm, encoder=llm)


# --- language models ------------------------------------------------------------------------------


def test_missing_and_unknown_weights_are_refused(llm: Path, whisper: Path, tmp_path: Path) -> None:
    weights = load_file(llm / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    lacking, other = copy(llm, tmp_path / "lacking"), copy(llm, tmp_path / "other")
    save_file({k: v for k, v in weights.items() if k != name}, lacking / "model.safetensors")
    save_file(weights | {"model.extra.weight": torch.ones(2)}, other / "model.safetensors")
    assert f"found 1 missing ({name})" in refuse(llm=lacking, encoder=whisper)
    assert "found 1 not part of the model" in refuse(llm=other, encoder=whisper)


def test_what_cannot_work_is_refused(llm: Path, whisper: Path, tmp_path: Path) -> None:
    remote = copy(llm, tmp_path / "a", model_type="new", auto_map={"AutoConfig": "x.Config"})
    assert "found remote code; code from a model folder is never run" in refuse(
        llm=remote, encoder=whisper
    )
    unknown = copy(llm, tmp_path / "b", model_type="new")
    assert "found model_type 'new'" in refuse(llm=unknown, encoder=whisper)
    pairs = copy(llm, tmp_path / "c", model_type="t5", is_encoder_decoder=True)
    assert "found the encoder-decoder 't5'" in refuse(llm=pairs, encoder=whisper)
    seeing = copy(llm, tmp_path / "d", model_type="gemma3")
    assert "found 'gemma3', which has other inputs" in refuse(llm=seeing, encoder=whisper)
    hearing = copy(llm, tmp_path / "e", model_type="wav2vec2")
    assert "expected a causal language model, found 'wav2vec2'" in refuse(
        llm=hearing, encoder=whisper
    )
    assert "found no such folder" in refuse(llm=tmp_path / "none", encoder=whisper)


@pytest.mark.parametrize("method", ["gptq", "awq", "compressed-tensors"])
def test_quantised_weights_that_need_other_packages_are_refused(
    method: str, llm: Path, whisper: Path, tmp_path: Path
) -> None:
    settings = {"quant_method": method, "bits": 4, "group_size": 16, "zero_point": True}
    folder = copy(llm, tmp_path / "llm", quantization_config=settings)
    assert "expected weights that can be loaded here" in refuse(llm=folder, encoder=whisper)


def test_fp8_weights_work(make_llm: Callable[..., Path], whisper: Path, tmp_path: Path) -> None:
    settings = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    plain = make_llm("qwen3", tie_word_embeddings=False)
    folder = copy(plain, tmp_path / "llm", quantization_config=settings)
    stored = {}
    for name, weight in load_file(plain / "model.safetensors").items():
        stored[name] = weight
        if "_proj" in name:  # one block of 128 x 128 covers these matrices
            scale = weight.abs().max() / 448
            stored[name] = (weight / scale).to(torch.float8_e4m3fn)
            stored[f"{name}_scale_inv"] = scale.reshape(1, 1)
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    model, processor = compose(llm=folder, encoder=whisper)
    base = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = processor(text="hello")
    assert torch.equal(model(**inputs).logits, base(**inputs).logits)


def test_a_model_that_looks_ahead_is_refused(whisper: Path, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(vocab_size=288, intermediate_size=96, initializer_range=0.3, **sizes)
    BertLMHeadModel(config).save_pretrained(tmp_path / "bert")
    build_tokenizer().save_pretrained(tmp_path / "bert")
    assert "whose answers depend on later words" in refuse(llm=tmp_path / "bert", encoder=whisper)


@pytest.mark.parametrize("kind", ["mamba", "rwkv"])
def test_a_model_without_a_key_value_cache_is_refused(
    kind: str, make_llm: Callable[..., Path], whisper: Path
) -> None:
    assert "expected a language model" in refuse(llm=make_llm(kind), encoder=whisper)


def test_a_head_that_does_more_is_refused(
    make_llm: Callable[..., Path], whisper: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from blsp.model import modeling

    monkeypatch.setattr(modeling, "head_transform", lambda config: HeadTransform())
    assert "expected logits to be the head of the hidden states" in refuse(
        llm=make_llm("gemma2"), encoder=whisper
    )


def test_lora_weights_are_merged_first(llm: Path, whisper: Path, tmp_path: Path) -> None:
    base = AutoModelForCausalLM.from_pretrained(llm)
    lora = LoraConfig(target_modules=["q_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    tuned = get_peft_model(base, lora)  # type: ignore[arg-type]
    tuned.save_pretrained(str(tmp_path / "lora"))
    build_tokenizer().save_pretrained(tmp_path / "lora")
    model, processor = compose(llm=tmp_path / "lora", encoder=whisper)
    inputs = processor(text="hello")
    torch.testing.assert_close(model(**inputs).logits, tuned.eval()(**inputs).logits)
    assert not [name for name, _ in model.named_parameters() if "lora" in name]
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    again, _ = load_checkpoint(tmp_path / "checkpoint")
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


def test_half_precision_stays_where_it_was_put(llm: Path, whisper: Path, tmp_path: Path) -> None:
    options = LlmOptions(dtype=torch.bfloat16)
    model, processor = compose(
        llm=llm, encoder=whisper, options=options, encoder_dtype=torch.bfloat16
    )
    inputs = processor(text="<|audio|> a", audio=[make_audio(16_000)])
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    again, _ = load_checkpoint(tmp_path / "checkpoint")
    for one in (model, again):
        assert one.model.language_model.dtype == torch.bfloat16
        assert one.model.audio_tower.dtype == torch.bfloat16
        assert next(one.model.adapter.parameters()).dtype == torch.float32
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)


# --- checkpoints ----------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(pair: Pair, tmp_path: Path) -> Path:
    save_checkpoint(*pair, tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


def test_a_checkpoint_reloads_and_answers_the_same(pair: Pair, checkpoint: Path) -> None:
    model, processor = pair
    again, other = load_checkpoint(checkpoint)
    recordings = [make_audio(9_000), make_audio(16_000, 1)]
    ours = processor(text=["<|audio|> a", "<|audio|>"], audio=recordings)
    theirs = other(text=["<|audio|> a", "<|audio|>"], audio=recordings)
    assert torch.equal(model.generate(**ours, **GREEDY), again.generate(**theirs, **GREEDY))
    assert torch.equal(model(**ours).logits, again(**theirs).logits)


def test_a_checkpoint_holds_trained_weights_only(pair: Pair, checkpoint: Path) -> None:
    names = {name for name, _ in pair[0].named_parameters() if name.startswith("model.adapter.")}
    assert load_file(checkpoint / "delta.safetensors").keys() == names
    assert not list(checkpoint.glob("model*.safetensors"))


def test_trained_base_weights_come_along_and_stay_when_saved_again(
    pair: Pair, tmp_path: Path
) -> None:
    model, processor = pair
    changed = model.model.audio_tower.layers[0].fc1.weight
    changed.requires_grad_(True)
    with torch.no_grad():
        changed += 1.0
    save_checkpoint(model, processor, tmp_path / "a")
    again, processor = load_checkpoint(tmp_path / "a")
    save_checkpoint(again, processor, tmp_path / "b")
    last: Any = load_checkpoint(tmp_path / "b")[0]
    assert torch.equal(last.model.audio_tower.layers[0].fc1.weight, changed)
    assert "model.audio_tower.layers.0.fc1.weight" in load_file(tmp_path / "b/delta.safetensors")


@pytest.mark.parametrize(
    ("auto", "kind"),
    [(AutoModel, BlspModel), (AutoModelForMultimodalLM, BlspForConditionalGeneration)],
)
def test_auto_classes_load_a_checkpoint_with_its_bases(
    auto: Any, kind: type, pair: Pair, checkpoint: Path
) -> None:
    again = auto.from_pretrained(checkpoint)
    assert type(again) is kind
    ours = dict((pair[0] if kind is not BlspModel else pair[0].model).named_parameters())
    assert all(torch.equal(ours[name], weight) for name, weight in again.named_parameters())


def test_bases_may_lie_elsewhere_if_they_are_the_same(
    checkpoint: Path, llm: Path, whisper: Path, tmp_path: Path
) -> None:
    config = json.loads((checkpoint / "config.json").read_text())
    for role in ("llm", "encoder"):
        config["bases"][role]["source"] = str(tmp_path / "gone")
    (checkpoint / "config.json").write_text(json.dumps(config))
    mark_complete(checkpoint)
    with pytest.raises(InputError, match=r"found no such folder.*--llm PATH"):
        load_checkpoint(checkpoint)
    with pytest.raises(InputError, match=r"found no such folder.*--encoder PATH"):
        load_checkpoint(checkpoint, llm=llm)
    model, _ = load_checkpoint(checkpoint, llm=llm, encoder=whisper)
    assert model.config.bases["llm"]["source"] == str(llm)  # type: ignore[index]


def test_other_base_weights_are_refused(checkpoint: Path, whisper: Path, tmp_path: Path) -> None:
    torch.manual_seed(9)
    other = save_llm(tmp_path / "other", "qwen3", tie_word_embeddings=False, initializer_range=0.1)
    with pytest.raises(InputError, match="expected the llm this checkpoint was trained on"):
        load_checkpoint(checkpoint, llm=other)
    other = save_whisper(tmp_path / "whisper", init_std=0.1)
    with pytest.raises(InputError, match="expected the encoder this checkpoint was trained on"):
        load_checkpoint(checkpoint, encoder=other)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForMultimodalLM])
def test_a_checkpoint_is_never_random(auto: Any, checkpoint: Path) -> None:
    (checkpoint / "complete").unlink()
    with pytest.raises(InputError, match="expected a finished checkpoint"):
        auto.from_pretrained(checkpoint)
    (checkpoint / "delta.safetensors").unlink()
    with pytest.raises(OSError, match=r"model.safetensors"):
        auto.from_pretrained(checkpoint)


def test_a_processor_of_another_mode_is_refused(checkpoint: Path) -> None:
    path = checkpoint / "processor_config.json"
    path.write_text(
        path.read_text().replace('"audio_padding": "variable"', '"audio_padding": "max"')
    )
    with pytest.raises(
        InputError, match="expected the processor's audio_padding to be the model's"
    ):
        load_checkpoint(checkpoint)


def test_weights_of_another_adapter_are_refused(checkpoint: Path) -> None:
    path = checkpoint / "delta.safetensors"
    weights = load_file(path)
    save_file({k: v for k, v in weights.items() if "fc1" not in k}, path)
    mark_complete(checkpoint)
    with pytest.raises(InputError, match=r"found that model.adapter.fc1.weight is missing"):
        load_checkpoint(checkpoint)
    save_file(weights | {"model.adapter.fc1.weight": torch.ones(3, 3)}, path)
    mark_complete(checkpoint)
    with pytest.raises(InputError, match=r"found that model.adapter.fc1.weight does not fit"):
        load_checkpoint(checkpoint)


def test_saving_replaces_a_checkpoint_but_nothing_else(pair: Pair, checkpoint: Path) -> None:
    save_checkpoint(*pair, checkpoint)
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]
    (checkpoint.parent / "notes").mkdir()
    (checkpoint.parent / "notes/a.txt").write_text("mine")
    with pytest.raises(InputError, match="expected a new folder or an earlier checkpoint"):
        save_checkpoint(*pair, checkpoint.parent / "notes")


def test_a_failed_save_leaves_the_earlier_one(
    pair: Pair, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, processor = pair
    before = (checkpoint / "delta.safetensors").read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("killed")

    monkeypatch.setattr(processor, "save_pretrained", fail)
    with torch.no_grad():
        model.model.adapter.layer_norm.weight += 1.0
    with pytest.raises(RuntimeError, match="killed"):
        save_checkpoint(model, processor, checkpoint)
    assert (checkpoint / "delta.safetensors").read_bytes() == before
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint"]


def test_a_checkpoint_on_the_hub_is_joined_with_its_bases(
    pair: Pair, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "hub/models--someone--ears"  # as an earlier download leaves it
    shutil.copytree(checkpoint, cache / "snapshots/abc")
    (cache / "refs").mkdir()
    (cache / "refs/main").write_text("abc")
    for module in ("huggingface_hub.constants", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.HF_HUB_CACHE", str(tmp_path / "hub"), raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("transformers.utils.hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    again = AutoModelForMultimodalLM.from_pretrained("someone/ears")
    ours = dict(pair[0].named_parameters())
    assert all(torch.equal(ours[name], weight) for name, weight in again.named_parameters())


def test_training_may_start_from_a_checkpoint_on_another_language_model(
    pair: Pair, checkpoint: Path, make_llm: Callable[..., Path], whisper: Path
) -> None:
    model, _ = compose(llm=make_llm("llama"), encoder=whisper)
    warm_start(model, checkpoint)
    ours = pair[0].model.adapter.state_dict()
    assert all(torch.equal(ours[n], t) for n, t in model.model.adapter.state_dict().items())


def test_a_whole_model_saves_and_loads_as_transformers_does(pair: Pair, tmp_path: Path) -> None:
    model, processor = pair
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again, info = AutoModelForMultimodalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    inputs = processor(text="<|audio|> a", audio=[make_audio(9_000)])
    assert torch.equal(again(**inputs).logits, model(**inputs).logits)
