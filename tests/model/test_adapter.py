"""Adapters: published sizes, the length formula against real rows, batch = single."""

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, WhisperConfig

from blsp.errors import InputError
from blsp.model.adapter import adapter_length, build_adapter, num_speech_tokens
from blsp.model.configuration import AdapterConfig, BlspConfig

CONFIGS = [
    AdapterConfig(kind="conv"),
    AdapterConfig(kind="conv", kernel_sizes=(3, 7)),
    AdapterConfig(kind="stack", hidden_size=16),
    AdapterConfig(kind="stack", hidden_size=16, stack_factor=5, norm_position="post"),
    AdapterConfig(kind="conv", summary=3, bottleneck_size=8),
    AdapterConfig(kind="stack", hidden_size=16, summary=1),
    AdapterConfig(kind="qformer"),
    AdapterConfig(kind="qformer", queries=3, query_window=7, layers=1),
]


def configure(adapter: AdapterConfig, *, encoder_width: int, llm_width: int) -> BlspConfig:
    return BlspConfig(
        audio_config=WhisperConfig(
            d_model=encoder_width, encoder_attention_heads=2, encoder_ffn_dim=4 * encoder_width
        ),
        text_config=LlamaConfig(hidden_size=llm_width, num_attention_heads=1, head_dim=2),
        adapter_config=adapter.to_dict(),
    )


def small(adapter: AdapterConfig) -> nn.Module:
    torch.manual_seed(0)
    return build_adapter(configure(adapter, encoder_width=6, llm_width=10)).eval()


@pytest.mark.parametrize(
    ("adapter", "encoder_width", "llm_width", "parameters"),
    [
        # BLSP: Whisper-small to Llama-2-7B, "47.47 M"
        (AdapterConfig(kind="conv"), 768, 4096, 47_467_520),
        # BLSP's shape at Whisper-small to Qwen2.5-0.5B and Whisper-large to Qwen2.5-7B
        (AdapterConfig(kind="conv"), 768, 896, 19_601_920),
        (AdapterConfig(kind="conv"), 1280, 3584, 82_332_672),
        # Ultravox 0.5: Whisper-large-v3-turbo to Llama-3.1-8B, "50.3 M"
        (AdapterConfig(kind="stack"), 1280, 4096, 50_343_936),
        # Ultravox 0.4: Whisper-medium to Llama-3-8B, the second norm after the last projection
        (AdapterConfig(kind="stack", norm_position="post"), 1024, 4096, 41_955_328),
    ],
)
def test_an_adapter_has_the_published_size(
    adapter: AdapterConfig, encoder_width: int, llm_width: int, parameters: int
) -> None:
    with torch.device("meta"):
        built = build_adapter(configure(adapter, encoder_width=encoder_width, llm_width=llm_width))
    assert sum(parameter.numel() for parameter in built.parameters()) == parameters


@pytest.mark.parametrize(
    ("frames", "conv", "stack"),
    # rows: 0, 1, 1, 8, 9, 50, 1500;  35 s: a window of 30 s and one of 5 s
    [
        *((0, 0, 0), (1, 1, 1), (2, 1, 1), (15, 1, 1), (17, 2, 2), (100, 7, 7), (3000, 188, 188)),
        *((3500, 188 + 32, 188 + 32), (6000, 376, 376), (270_000, 16_920, 16_920)),
    ],
)
def test_hand_counted_numbers_of_speech_tokens(frames: int, conv: int, stack: int) -> None:
    assert num_speech_tokens(AdapterConfig(kind="conv"), frames, window_frames=3000) == conv
    assert num_speech_tokens(AdapterConfig(kind="stack"), frames, window_frames=3000) == stack


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_the_formula_says_how_many_rows_come_out(config: AdapterConfig) -> None:
    adapter = small(config)
    for rows in (*range(1, 80), *range(80, 1500, 11), 1500):  # 1 to 3000 frames
        embeds, lengths = adapter(torch.zeros(1, rows, 6), torch.tensor([rows]))
        assert embeds.shape == (1, lengths.item(), 10)
        assert adapter_length(config, rows) == lengths.item()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_the_formula_is_the_same_for_tensors(config: AdapterConfig) -> None:
    frames = torch.arange(0, 7000, 13)
    counts = num_speech_tokens(config, frames, window_frames=3000)
    one_by_one = [num_speech_tokens(config, int(n), window_frames=3000) for n in frames]
    assert counts.tolist() == one_by_one


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_a_padded_batch_equals_each_alone_whatever_the_padding(config: AdapterConfig) -> None:
    adapter, rows = small(config), torch.randn(5, 40, 6)
    lengths = torch.tensor([40, 1, 17, 8, 39])
    for row, length in enumerate(lengths):
        rows[row, length:] = 7.0  # what an encoder leaves behind the end
    embeds, counts = adapter(rows, lengths)
    for row, length in enumerate(lengths):
        alone, (count,) = adapter(rows[row : row + 1, :length], length[None])
        assert counts[row] == count
        torch.testing.assert_close(embeds[row, :count], alone[0], rtol=0, atol=1e-6)


def test_conv_is_gated_convolutions_a_residual_bottleneck_and_a_norm() -> None:
    adapter, rows = small(AdapterConfig(kind="conv", kernel_sizes=(5,))), torch.randn(1, 9, 6)
    value, gate = adapter.convs[0](rows.transpose(1, 2)).chunk(2, dim=1)  # type: ignore[operator]
    hidden = (value * gate.sigmoid()).transpose(1, 2)
    hidden = hidden + adapter.fc2(nn.functional.gelu(adapter.fc1(hidden)))  # type: ignore[operator]
    centred = hidden - hidden.mean(-1, keepdim=True)
    expected = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(adapter(rows, torch.tensor([9]))[0], expected)


@pytest.mark.parametrize(("norm_init", "expected"), [(None, 1.0), (0.25, 0.25)])
def test_the_norm_of_a_conv_starts_at_norm_init(norm_init: float | None, expected: float) -> None:
    adapter = small(AdapterConfig(kind="conv", bottleneck_size=8, norm_init=norm_init))
    assert isinstance(adapter.layer_norm, nn.LayerNorm)
    assert bool((adapter.layer_norm.weight == expected).all())


def test_norms_of_a_stack_start_at_norm_init() -> None:
    adapter = small(AdapterConfig(kind="stack", hidden_size=16, norm_init=0.25))
    assert adapter.ln_pre.weight.unique().tolist() == [0.25]  # type: ignore[union-attr,operator]
    assert adapter.ln_mid.weight.unique().tolist() == [0.25]  # type: ignore[union-attr,operator]


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        (
            {"kind": "conf"},
            "adapter.kind: expected conv or stack or qformer or cformer, found 'conf'; did",
        ),
        ({"kernel_sizes": [4]}, "adapter.kernel_sizes: expected odd sizes"),
        ({"stack_factor": 4}, "adapter.stack_factor: expected the numbers of kind 'conv'"),
        ({"kind": "stack", "hidden_size": 7}, "adapter.hidden_size: expected an even number"),
        ({"stak_factor": 4}, "found 'stak_factor'; did you mean 'stack_factor'?"),
    ],
)
def test_wrong_numbers_are_refused_in_one_line(numbers: dict, line: str) -> None:
    with pytest.raises(InputError, match=line.replace("?", r"\?")) as error:
        AdapterConfig.from_dict(numbers)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
def test_numbers_survive_json(config: AdapterConfig) -> None:
    assert AdapterConfig.from_dict(config.to_dict()) == config


def test_a_summary_stands_before_what_it_summarises_and_weighs_all_rows() -> None:
    torch.manual_seed(0)
    adapter, rows = (
        small(AdapterConfig(kind="conv", summary=2, bottleneck_size=8)),
        torch.randn(9, 6),
    )
    plain = small(AdapterConfig(kind="conv", bottleneck_size=8))
    plain.load_state_dict(
        {n: t for n, t in adapter.state_dict().items() if not n.startswith("summary.")}
    )
    embeds, count = adapter(rows[None], torch.tensor([9]))
    assert count.tolist() == [2 + 2]
    torch.testing.assert_close(embeds[:, 2:], plain(rows[None], torch.tensor([9]))[0])
    backwards, _ = adapter(rows.flip(0)[None], torch.tensor([9]))
    torch.testing.assert_close(backwards[:, :2], embeds[:, :2])  # an order it does not see
