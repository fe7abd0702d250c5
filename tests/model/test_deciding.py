"""Adapters that decide how many embeddings a recording becomes: training, prompts, generate."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMultimodalLM, AutoProcessor, pipeline

from blsp.export import export_whole
from blsp.generation import GenerationConfig, answer_speech, stream_answer
from blsp.manifest import AudioPart
from blsp.model import BlspForConditionalGeneration, BlspProcessor, compose
from blsp.model.configuration import AdapterConfig
from blsp.model.loading import load_checkpoint, save_checkpoint
from blsp.model.placeholders import fit_placeholders, share_out
from blsp.prompts import build_renderer, build_speech_prompt, place_audio
from blsp.verify import answer_alone, verify
from tests.model.conftest import make_audio

KINDS = {
    "cformer": AdapterConfig(kind="cformer", pre_layers=1, post_layers=1),
    "qformer": AdapterConfig(kind="qformer", length="tokens", layers=1),
}
SECOND = 16_000
GREEDY = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
Pair = tuple[BlspForConditionalGeneration, BlspProcessor]


@pytest.fixture(scope="module", params=KINDS)
def pair(request: pytest.FixtureRequest, make_llm: Callable[..., Path], whisper: Path) -> Pair:
    """Over a language model with a sliding window, where masked places would count."""
    torch.manual_seed(3)
    model, processor = compose(
        llm=make_llm("mistral"), encoder=whisper, adapter=KINDS[request.param]
    )
    return model.eval(), processor


def features_of(inputs: Any) -> dict[str, Tensor]:
    return {name: inputs[name] for name in ("input_features", "input_features_mask")}


def test_as_many_embeddings_come_out_as_are_asked_for(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text="<|audio|><|audio|>", audio=[make_audio(SECOND), make_audio(9_000)])
    speech = model.get_audio_features(**features_of(inputs), speech_lengths=torch.tensor([5, 2]))
    assert speech.lengths.tolist() == [5, 2]  # type: ignore[union-attr]
    assert speech.pooler_output.shape == (7, 64)  # type: ignore[union-attr]
    assert speech.quantity.shape == (2,)  # type: ignore[union-attr]


def test_a_padded_batch_equals_each_alone(pair: Pair) -> None:
    adapter = pair[0].model.adapter
    torch.manual_seed(0)
    rows, lengths = torch.randn(3, 40, 32), torch.tensor([40, 1, 17])
    for row, length in enumerate(lengths):
        rows[row, length:] = 7.0
    embeds, counts, quantity = adapter(rows, lengths)
    for row, length in enumerate(lengths):
        alone, (count,), (some,) = adapter(rows[row : row + 1, :length], length[None])
        assert counts[row] == count == quantity[row].round().clamp(min=1)
        torch.testing.assert_close(quantity[row], some, rtol=0, atol=1e-5)
        torch.testing.assert_close(embeds[row, :count], alone[0], rtol=0, atol=1e-5)


def test_a_prompt_holds_one_placeholder_a_recording(pair: Pair) -> None:
    _, processor = pair
    ids = processor(text="<|audio|>?", audio=[make_audio(40 * SECOND)])["input_ids"]
    assert (ids == processor.audio_token_id).sum() == 1


def test_generate_returns_the_prompt_as_it_was_and_the_answer(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text=["<|audio|> a", "bcd"], audio=[make_audio(SECOND)])
    out = model.generate(**inputs, **GREEDY)
    width = inputs["input_ids"].shape[1]
    assert torch.equal(out[:, :width], inputs["input_ids"])
    assert out.shape[1] == width + 8


@torch.no_grad()
def by_hand(pair: Pair, text: str, audio: list[Any], **settings: Any) -> Tensor:
    """New tokens after a prompt whose embeddings are put together here."""
    model, processor = pair
    inputs = processor(text=text, audio=audio)
    ids, table = inputs["input_ids"][0], model.get_input_embeddings()
    speech = model.get_audio_features(**features_of(inputs))
    pieces, parts = list(speech.pooler_output.split(speech.lengths.tolist())), []  # type: ignore[union-attr]
    for token in ids:
        is_audio = token == processor.audio_token_id
        parts.append(pieces.pop(0) if is_audio else table(token[None]))
    embeds = torch.cat(parts)[None]
    mask = torch.ones(embeds.shape[:2], dtype=torch.long)
    return model.generate(inputs_embeds=embeds, attention_mask=mask, **(GREEDY | settings))


def test_the_answer_is_that_to_the_embeddings_themselves_in_any_batch(pair: Pair) -> None:
    model, processor = pair
    recordings = [make_audio(SECOND, 1), make_audio(9_000, 2), make_audio(20_000, 3)]
    prompts = ["one <|audio|> and <|audio|>", "no audio", "<|audio|>"]
    inputs = processor(text=prompts, audio=recordings)
    together = model.generate(**inputs, **GREEDY)[:, inputs["input_ids"].shape[1] :]
    alone = [by_hand(pair, prompts[0], recordings[:2]), by_hand(pair, prompts[2], recordings[2:])]
    assert torch.equal(together[[0, 2]], torch.cat(alone))


def test_the_speech_side_runs_once(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = pair
    calls, encode = [], model.model._encode
    monkeypatch.setattr(model.model, "_encode", lambda *a: calls.append(1) or encode(*a))
    inputs = processor(text="<|audio|>", audio=[make_audio(SECOND)])
    model.generate(**inputs, **GREEDY, num_beams=3)
    assert calls == [1]


def test_beams_and_several_answers_begin_with_the_prompt_too(pair: Pair) -> None:
    model, processor = pair
    audio = [make_audio(9_000, 1), make_audio(16_000, 3)]
    inputs = processor(text=["<|audio|> and", "<|audio|>!"], audio=audio)
    settings = {"num_beams": 4, "num_return_sequences": 2, "return_dict_in_generate": True}
    out = model.generate(**inputs, **GREEDY, **settings).sequences
    width = inputs["input_ids"].shape[1]
    assert torch.equal(out[:, :width], inputs["input_ids"].repeat_interleave(2, dim=0))
    alone = by_hand(pair, "<|audio|>!", audio[1:], num_beams=4, num_return_sequences=2)
    assert torch.equal(out[2:, width:], alone)


def test_caches_of_every_kind_give_the_same(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text=["<|audio|> a", "bcd"], audio=[make_audio(SECOND)])
    out = model.generate(**inputs, **GREEDY)
    assert torch.equal(model.generate(**inputs, **GREEDY, use_cache=False), out)
    assert torch.equal(model.generate(**inputs, **GREEDY, cache_implementation="static"), out)


def test_a_forward_pass_with_unfitted_placeholders_is_refused(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text="<|audio|>", audio=[make_audio(2 * SECOND)])
    with pytest.raises(ValueError, match="`fit_audio` fit them, as this adapter decides"):
        model(**inputs)


def test_a_fitted_batch_gives_what_its_rows_give_alone(pair: Pair) -> None:
    model, processor = pair
    recordings = [make_audio(SECOND, 1), make_audio(30_000, 2)]
    inputs = processor(text=["<|audio|> long prompt", "<|audio|>"], audio=recordings)
    fitted = model.fit_audio(**inputs)
    logits = model(**fitted).logits[:, -1]
    for row, recording in enumerate(recordings):
        text = ["<|audio|> long prompt", "<|audio|>"][row]
        alone = model.fit_audio(**processor(text=text, audio=[recording]))
        torch.testing.assert_close(model(**alone).logits[0, -1], logits[row], rtol=0, atol=1e-5)


def test_a_streamed_answer_is_the_answer(pair: Pair) -> None:
    model, processor = pair
    renderer = build_renderer(model, processor)
    part = AudioPart(audio="a.wav", duration=1.0, transcript="")
    chat = [place_audio("Repeat this", part)]
    prompt = build_speech_prompt(renderer, processor, chat, [make_audio(SECOND)])
    assert prompt.ids.count(processor.audio_token_id) == 1
    config, pieces = GenerationConfig(max_new_tokens=12), list[str]()
    answer = stream_answer(model, processor, prompt, config, on_text=pieces.append)
    assert [answer] == answer_speech(model, processor, [prompt], config)
    assert "".join(pieces).strip() == answer.text


def test_the_any_to_any_pipeline_answers(pair: Pair, tmp_path: Path) -> None:
    model, processor = pair
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    ask = pipeline("any-to-any", model=str(tmp_path / "checkpoint"))
    content = [{"type": "audio", "audio": make_audio(SECOND)}, {"type": "text", "text": "?"}]
    chat = [{"role": "user", "content": content}]
    (said,) = ask(chat, generate_kwargs=dict(GREEDY), return_full_text=False)  # type: ignore[arg-type]
    inputs = processor.apply_chat_template(
        chat, tokenize=True, return_dict=True, add_generation_prompt=True
    )
    out = model.generate(**inputs, **GREEDY)[0, inputs["input_ids"].shape[1] :]
    assert said["generated_text"] == processor.tokenizer.decode(out, skip_special_tokens=True)


def test_the_proof_holds(pair: Pair, tmp_path: Path) -> None:
    save_checkpoint(*pair, tmp_path / "checkpoint")
    checks = list(verify(tmp_path / "checkpoint"))
    assert [check.line() for check in checks if not check.passed] == []


def test_what_is_exported_answers_as_it_did(pair: Pair, tmp_path: Path) -> None:
    save_checkpoint(*pair, tmp_path / "checkpoint")
    export_whole(tmp_path / "checkpoint", tmp_path / "whole")
    model = AutoModelForMultimodalLM.from_pretrained(tmp_path / "whole", dtype="auto").eval()
    processor = AutoProcessor.from_pretrained(tmp_path / "whole")
    recordings = [make_audio(SECOND), make_audio(9_000)]
    found, expected = (answer_alone(*both, recordings) for both in ((model, processor), pair))
    assert found.tokens == expected.tokens


def test_what_is_saved_answers_as_it_did(pair: Pair, tmp_path: Path) -> None:
    model, processor = pair
    inputs = processor(text="<|audio|> a", audio=[make_audio(SECOND)])
    save_checkpoint(model, processor, tmp_path / "checkpoint")
    again, its_processor = load_checkpoint(tmp_path / "checkpoint")
    inputs_again = its_processor(text="<|audio|> a", audio=[make_audio(SECOND)])
    assert torch.equal(again.generate(**inputs_again, **GREEDY), model.generate(**inputs, **GREEDY))


def test_a_long_recording_is_one_run_of_embeddings(pair: Pair) -> None:
    """35 s: a window of 30 s and one of 5 s, and 14 tokens dealt to them."""
    model, processor = pair
    inputs = processor(text="<|audio|>", audio=[make_audio(35 * SECOND)])
    speech = model.get_audio_features(**features_of(inputs), speech_lengths=torch.tensor([14]))
    assert speech.lengths.tolist() == [14]  # type: ignore[union-attr]
    out = model.generate(**inputs, **GREEDY)
    assert out.shape == (1, inputs["input_ids"].shape[1] + 8)


def test_a_window_that_gets_no_token_disturbs_no_gradient(pair: Pair) -> None:
    """31 s that say one token: it is of the first window, and the second has none."""
    model, processor = pair
    inputs = processor(text="<|audio|>", audio=[make_audio(31 * SECOND)])
    speech = model.get_audio_features(**features_of(inputs), speech_lengths=torch.tensor([1]))
    assert speech.lengths.tolist() == [1]  # type: ignore[union-attr]
    speech.pooler_output.sum().backward()  # type: ignore[union-attr]
    gradients = [p.grad for p in model.model.adapter.parameters() if p.grad is not None]
    model.zero_grad()
    assert gradients and all(bool(torch.isfinite(one).all()) for one in gradients)


def test_windows_that_all_get_no_token_have_none(pair: Pair) -> None:
    """Sixteen are embedded at once; the seventeenth may be the end of a recording of few words."""
    rows, lengths = torch.randn(2, 40, 32), torch.tensor([40, 20])
    embeds, counts, *_ = pair[0].model.adapter(rows, lengths, torch.tensor([0, 0]))
    assert counts.tolist() == [0, 0] and embeds.shape[0] == 2
    assert torch.isfinite(embeds).all()


def test_a_prompt_without_a_mask_is_a_whole_one(pair: Pair) -> None:
    model, processor = pair
    inputs = processor(text=["a b c <|audio|>", "<|audio|>"], audio=[make_audio(SECOND)] * 2)
    out = model.generate(**inputs, **GREEDY)
    first = {"input_ids": inputs["input_ids"][:1]}
    without = first | {name: tensor[:1] for name, tensor in features_of(inputs).items()}
    assert torch.equal(model.generate(**without, **GREEDY), out[:1])


def test_embeddings_are_dealt_to_windows_by_their_length() -> None:
    counts, owners = torch.tensor([7, 3]), torch.tensor([0, 0, 1, 1])
    dealt = share_out(counts, torch.tensor([1500, 600, 1500, 10]), owners)
    assert dealt.tolist() == [5, 2, 2, 1]


def test_placeholders_are_fitted_in_every_row_and_padded_anew() -> None:
    """Audio token 9; recordings of 1, 2 and 1 places become 2, 1 and 3."""
    rows = {
        "input_ids": torch.tensor([[5, 9, 6, 9, 9], [0, 0, 0, 9, 7]]),
        "attention_mask": torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 1, 1]]),
        "labels": torch.tensor([[-100, -100, 6, -100, -100], [-100, -100, -100, -100, 7]]),
    }
    counts = torch.tensor([1, 2, 1]), torch.tensor([2, 1, 3])
    fitted = fit_placeholders(rows, rows["input_ids"] == 9, counts, left=True)
    assert fitted["input_ids"].tolist() == [[5, 9, 9, 6, 9], [0, 9, 9, 9, 7]]
    assert fitted["attention_mask"].tolist() == [[1, 1, 1, 1, 1], [0, 1, 1, 1, 1]]
    assert fitted["labels"].tolist() == [[-100, -100, -100, 6, -100], [-100, -100, -100, -100, 7]]
    right = fit_placeholders(rows, rows["input_ids"] == 9, counts, left=False)
    assert right["input_ids"][1].tolist() == [9, 9, 9, 7, 0]
    assert right["labels"][1].tolist() == [-100, -100, -100, 7, -100]


def test_placeholders_that_do_not_add_up_are_refused() -> None:
    ids = torch.tensor([[9, 9, 1]])
    rows = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with pytest.raises(ValueError, match="expected 1 audio tokens for 1 recordings, found 2"):
        fit_placeholders(rows, ids == 9, (torch.tensor([1]), torch.tensor([3])), left=True)
