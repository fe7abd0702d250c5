"""The variable-length Whisper encoder, against the library's own and against itself one by one."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from transformers import WhisperConfig, WhisperForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from blsp.model.encoder import BlspWhisperEncoder, encoder_lengths, masked_cross_attention

LENGTHS = [2, 37, 500, 999, 1000]


def build_config(attention: str = "eager") -> WhisperConfig:
    config = WhisperConfig(
        vocab_size=64,
        num_mel_bins=80,
        d_model=32,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=64,
        decoder_layers=2,
        decoder_attention_heads=2,
        decoder_ffn_dim=64,
        max_target_positions=32,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=3,
        suppress_tokens=[],
        begin_suppress_tokens=[],
    )
    config._attn_implementation = attention
    return config


def build_pair(attention: str = "eager") -> tuple[WhisperEncoder, BlspWhisperEncoder]:
    """The library's encoder with random weights, and ours with the same."""
    torch.manual_seed(1)
    theirs, ours = (
        WhisperEncoder(build_config(attention)),
        BlspWhisperEncoder(build_config(attention)),
    )
    for parameter in theirs.parameters():  # the library's initial weights are all but zero
        torch.nn.init.normal_(parameter, std=0.15)
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


@pytest.fixture(autouse=True)
def no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def sample_features(*lengths: int, pad: float = 0.0) -> tuple[Tensor, Tensor]:
    """Features (B, 80, F) of so many frames, right-padded with `pad`, and their mask (B, F)."""
    random = torch.Generator().manual_seed(7)
    features = torch.full((len(lengths), 80, max(lengths)), pad)
    for row, length in enumerate(lengths):
        features[row, :, :length] = torch.randn(80, length, generator=random)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return features, mask


# The encoder


def test_full_length_without_mask_is_the_librarys_encoder_bit_for_bit() -> None:
    theirs, ours = build_pair()
    features, _ = sample_features(3000, 3000)
    assert torch.equal(ours(features).last_hidden_state, theirs(features).last_hidden_state)


def test_full_length_with_a_mask_of_ones_is_the_librarys_encoder() -> None:
    theirs, ours = build_pair("sdpa")
    features, mask = sample_features(3000)
    expected = theirs(features).last_hidden_state
    assert ours(features, mask).last_hidden_state == pytest.approx(expected, abs=5e-6)


def test_hidden_states_are_recorded_as_in_the_librarys_encoder() -> None:
    theirs, ours = build_pair()
    features, _ = sample_features(3000)
    expected = theirs(features, output_hidden_states=True).hidden_states
    found = ours(features, output_hidden_states=True).hidden_states
    assert len(found) == len(expected) == 3
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("pad", [0.0, -1.3])
def test_a_batch_is_its_rows_alone(attention: str, pad: float) -> None:
    _, ours = build_pair(attention)
    features, mask = sample_features(*LENGTHS, pad=pad)
    together = ours(features, mask).last_hidden_state
    assert together.isfinite().all()
    for row, frames in enumerate(LENGTHS):
        alone = ours(features[row : row + 1, :, :frames]).last_hidden_state[0]
        rows = (frames - 1) // 2 + 1
        assert len(alone) == rows
        assert (together[row, :rows] - alone).abs().max() <= 5e-6
        assert not together[row, rows:].any()


def test_without_the_mask_padding_would_be_heard() -> None:
    """What the mask is for: the same batch without it is far off."""
    _, ours = build_pair()
    features, _ = sample_features(37, 500)
    alone = ours(features[:1, :, :37]).last_hidden_state[0]
    assert (ours(features).last_hidden_state[0, :19] - alone).abs().max() > 0.05


@pytest.mark.parametrize(
    ("frames", "rows"), [(1, 1), (2, 1), (3, 2), (4, 2), (37, 19), (999, 500), (3000, 1500)]
)
def test_two_frames_are_a_row_and_an_odd_one_is_a_row_too(frames: int, rows: int) -> None:
    _, ours = build_pair()
    assert encoder_lengths(torch.tensor([frames])).tolist() == [rows]
    assert ours(sample_features(frames)[0]).last_hidden_state.shape == (1, rows, 32)


def test_more_than_thirty_seconds_are_refused() -> None:
    _, ours = build_pair()
    with pytest.raises(ValueError, match="at most 3000 log-mel frames, found 3001; split longer"):
        ours(torch.zeros(1, 80, 3001))


def test_the_librarys_encoder_still_refuses_other_lengths() -> None:
    """Once it takes them, ours may no longer be needed."""
    theirs, _ = build_pair()
    with pytest.raises(ValueError, match="to be of length 3000, but found 1000"):
        theirs(torch.zeros(1, 80, 1000))


# The decoder's cross-attention


@pytest.fixture(params=["eager", "sdpa"])
def whisper(request: pytest.FixtureRequest) -> WhisperForConditionalGeneration:
    """A Whisper with our encoder, whose transcript of random features is not constant."""
    torch.manual_seed(2)
    config = build_config(request.param)
    model = WhisperForConditionalGeneration(config)
    model.model.encoder = BlspWhisperEncoder(config)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            torch.nn.init.normal_(parameter, std=0.15)
    model.generation_config.max_length = 8
    return model.eval()


def hooks(model: WhisperForConditionalGeneration) -> int:
    return sum(len(part._forward_pre_hooks) for part in model.modules())


def encode(model: WhisperForConditionalGeneration, *frames: int) -> tuple[Tensor, Tensor]:
    features, mask = sample_features(*frames)
    return model.model.encoder(features, mask).last_hidden_state, encoder_lengths(mask.sum(-1))


def test_the_decoder_of_a_batch_is_that_of_its_rows_alone(
    whisper: WhisperForConditionalGeneration,
) -> None:
    states, lengths = encode(whisper, 60, 301)
    tokens = torch.tensor([[3, 5, 9, 11], [3, 8, 40, 7]])
    decoder = whisper.model.decoder
    with masked_cross_attention(decoder, lengths):
        together = decoder(input_ids=tokens, encoder_hidden_states=states).last_hidden_state
    logits = whisper.proj_out(together)
    for row, length in enumerate(lengths.tolist()):
        out = decoder(
            input_ids=tokens[row : row + 1],
            encoder_hidden_states=states[row : row + 1, :length],
        )
        alone = whisper.proj_out(out.last_hidden_state)
        assert (logits[row] - alone[0]).abs().max() <= 2e-5


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_of_a_batch_is_that_of_its_rows_alone(
    whisper: WhisperForConditionalGeneration, beams: int
) -> None:
    states, lengths = encode(whisper, 60, 301, 24)

    def generate(rows: Tensor) -> list[list[int]]:
        outputs = BaseModelOutput(last_hidden_state=rows)
        found = whisper.generate(encoder_outputs=outputs, do_sample=False, num_beams=beams)
        assert isinstance(found, Tensor)
        return found.tolist()

    with masked_cross_attention(whisper.model.decoder, lengths):
        together = generate(states)
    for row, length in enumerate(lengths.tolist()):
        alone = generate(states[row : row + 1, :length])[0]
        assert together[row][: len(alone)] == alone
        assert set(together[row][len(alone) :]) <= {0, 2}
    assert len({tuple(tokens) for tokens in together}) > 1


def test_without_the_mask_the_decoder_hears_the_padding(
    whisper: WhisperForConditionalGeneration,
) -> None:
    states, lengths = encode(whisper, 60, 301)
    tokens = torch.tensor([[3, 5], [3, 8]])
    plain = whisper.model.decoder(input_ids=tokens, encoder_hidden_states=states)
    with masked_cross_attention(whisper.model.decoder, lengths):
        masked = whisper.model.decoder(input_ids=tokens, encoder_hidden_states=states)
    difference = (plain.last_hidden_state - masked.last_hidden_state).abs().amax((1, 2))
    assert difference[0] > 1e-3  # the short one
    assert difference[1] < 1e-5  # the longest has no padding


def test_the_hooks_go_with_the_block(whisper: WhisperForConditionalGeneration) -> None:
    with masked_cross_attention(whisper.model.decoder, torch.tensor([3])):
        assert hooks(whisper) == 2  # one a layer
    assert hooks(whisper) == 0


def test_the_hooks_go_when_the_block_raises(whisper: WhisperForConditionalGeneration) -> None:
    with pytest.raises(KeyError), masked_cross_attention(whisper.model.decoder, torch.tensor([3])):
        raise KeyError
    assert hooks(whisper) == 0
