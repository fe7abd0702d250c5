"""Alignment meters: how near the language model that hears is to the one that reads.

    blsp bench meters CHECKPOINT --conversations dev.jsonl --out runs/eval/meters

No labels are needed: conversations with their recordings, as training takes them. Written are
`meters.json` and `meters.html`: agreement and divergence by the position in the response, beside
floor (the audio of another utterance) and ceiling (the transcript itself); similarity of speech and
transcript in every layer; and how often a recording is nearest to its own transcript among those of
all, half-way up the layers (R@1).
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from blsp.alignment import Batch, ShuffledPairs, collate_pairs, mean_states, measure
from blsp.arguments import add_checkpoint_options, load_on_device
from blsp.charts import Curve, draw_curves
from blsp.collator import Collator
from blsp.dataset import ConversationDataset, DataConfig
from blsp.errors import InputError
from blsp.evaluate import write_command
from blsp.files import atomic_path
from blsp.hardware import describe_hardware
from blsp.meters import CONDITIONS, AlignmentMeter, retrieval
from blsp.model import BlspForConditionalGeneration, BlspProcessor
from blsp.page import build_card, build_page, build_tile
from blsp.results import write_json
from blsp.sampler import BatchConfig, DurationBatchSampler
from blsp.train import build_dataset

_STYLES = {"speech": "s-speech", "floor": "s-sanity", "ceiling": "s-bound"}
CACHE_GB = 0.5
"""Of features: most recordings are read twice, as their own and as another's floor."""


@dataclass(frozen=True, kw_only=True)
class _Metered:
    """A model and the conversations it is metered on."""

    model: BlspForConditionalGeneration
    processor: BlspProcessor
    dataset: ConversationDataset
    batches: Sequence[Sequence[int]]

    def pairs(self) -> Iterator[tuple[Batch, Batch]]:
        """Batches and their floor, on the model's device."""
        shuffled = ShuffledPairs(self.dataset, self.processor.audio_token_id)
        collate = Collator(self.processor.tokenizer.pad_token_id)  # type: ignore[arg-type]
        for some in self.batches:
            both = collate_pairs([shuffled[index] for index in some], collate)
            yield self._move(both[0]), self._move(both[1])

    def _move(self, batch: Batch) -> Batch:
        device = self.model.device
        return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()}

    def find_own_words(self) -> tuple[float, int]:
        """R@1 half-way up the layers, and the number of different transcripts."""
        layer = self.model.config.get_text_config(decoder=True).num_hidden_layers // 2
        heard, read, words = [], [], []
        for (batch, _), some in zip(self.pairs(), self.batches, strict=True):
            known = {self.dataset.read_conversation(index)[0].id: index for index in some}
            states = mean_states(self.model, batch, layer)
            heard.append(states[0])
            read.append(states[1])
            words += [self._words_of(known[name]) for name in batch["ids"]]
        return retrieval(torch.cat(heard), torch.cat(read), words), len(set(words))

    def _words_of(self, index: int) -> str:
        conversation, _ = self.dataset.read_conversation(index)
        return "\n".join(part.transcript for part in conversation.recordings)


def main(argv: Sequence[str] | None = None) -> int:
    """Meter a checkpoint; returns the exit code."""
    options = _parse(argv)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model, processor = load_on_device(options.checkpoint, llm=options.llm, encoder=options.encoder)
    config = DataConfig(conversations=tuple(options.conversations), foreign=True)
    dataset = build_dataset(model, processor, config, cache_gb=CACHE_GB)
    heard = [index for index in range(len(dataset)) if dataset.durations[index] > 0]
    if not heard:
        raise InputError(
            "expected conversations with recordings, found none in "
            f"{', '.join(map(str, options.conversations))}; `blsp continuations` writes them"
        )
    dataset = dataset.select(heard[: options.limit])
    sampler = DurationBatchSampler(
        dataset.durations, dataset.tokens, BatchConfig(max_examples=options.batch_size)
    )
    metered = _Metered(
        model=model, processor=processor, dataset=dataset, batches=[list(each) for each in sampler]
    )
    with torch.no_grad():
        meter, (found, candidates) = measure(model, metered.pairs()), metered.find_own_words()
    result = {
        "command": write_command("meters", argv),
        "hardware": describe_hardware(),
        "conversations": len(dataset),
        **describe(meter),
        "retrieval": {"r_at_1": found, "chance": 1 / candidates, "transcripts": candidates},
    }
    print(format_result(result))
    options.out.mkdir(parents=True, exist_ok=True)
    write_json(options.out / "meters.json", result)
    with atomic_path(options.out / "meters.html") as temporary:
        temporary.write_text(build_meters_page(result), encoding="utf-8")
    print(f"\nwritten: {options.out / 'meters.json'}, {options.out / 'meters.html'}")
    return 0


def describe(meter: AlignmentMeter) -> dict[str, Any]:
    """Return all that was metered, as it is written."""
    return {
        "recovered": meter.recovered,
        "conditions": {
            name: {
                "tokens": meter.tokens[name].tokens,
                "kl": meter.tokens[name].kl,
                "agreement": meter.tokens[name].agreement,
                "by_position": meter.tokens[name].curve(),
            }
            for name in CONDITIONS
        },
        "similarity_by_layer": {
            name: meter.layers[name].similarity() for name in ("speech", "floor")
        },
    }


def format_result(result: dict[str, Any]) -> str:
    """Return the curves as a table of text."""
    curves = [result["conditions"][name]["by_position"] for name in CONDITIONS]
    lines = [
        f"{'position':<10}{'tokens':>8}{'KL':>10}{'(floor)':>10}{'top-1 %':>10}{'(floor)':>10}"
    ]
    lines += [
        f"{speech['positions']:<10}{speech['tokens']:>8.0f}{speech['kl']:>10.3f}"
        f"{floor['kl']:>10.3f}{100 * speech['agreement']:>10.1f}{100 * floor['agreement']:>10.1f}"
        for speech, floor, _ in zip(*curves, strict=True)
    ]
    found = result["retrieval"]
    layers = result["similarity_by_layer"]["speech"]
    return "\n".join(
        [
            *lines,
            f"recovered {result['recovered']:.1%} of the divergence that not hearing costs",
            "similarity by layer: " + " ".join(f"{value:.2f}" for value in layers),
            f"own transcript found: {found['r_at_1']:.1%} of recordings among "
            f"{found['transcripts']} (by chance {found['chance']:.1%})",
        ]
    )


def build_meters_page(result: dict[str, Any]) -> str:
    """Return the page of a result."""
    found = result["retrieval"]
    tiles = [
        build_tile("recovered", f"{result['recovered']:.1%}", "of what not hearing costs"),
        build_tile("R@1", f"{found['r_at_1']:.1%}", f"by chance {found['chance']:.1%}"),
    ]
    by_position = {
        key: [_curve_by_position(result, name, key) for name in CONDITIONS]
        for key in ("agreement", "kl")
    }
    layers = [
        Curve(
            label=name,
            points=list(enumerate(result["similarity_by_layer"][name])),
            style=_STYLES[name],
            broken=name != "speech",
        )
        for name in ("speech", "floor")
    ]
    cards = [
        build_card(
            "Top-1 agreement by response position",
            draw_curves(
                by_position["agreement"], title="agreement over response position", unit="position"
            ),
        ),
        build_card(
            "Divergence by response position, nats",
            draw_curves(by_position["kl"], title="KL over response position", unit="position"),
        ),
        build_card(
            "Similarity by layer", draw_curves(layers, title="similarity over layers", unit="layer")
        ),
    ]
    return build_page(
        "Alignment meters",
        [
            f"<h1>Alignment meters</h1><p><code>{escape(result['command'])}</code></p>",
            f'<div class="tiles">{"".join(tiles)}</div>',
            f'<div class="grid">{"".join(cards)}</div>',
        ],
    )


def _curve_by_position(result: dict[str, Any], name: str, key: str) -> Curve:
    rows = result["conditions"][name]["by_position"]
    points = [(float(row["positions"].partition("-")[0]), row[key]) for row in rows]
    return Curve(label=name, points=points, style=_STYLES[name], broken=name != "speech")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="blsp bench meters", description=(__doc__ or "").partition("\n")[0], allow_abbrev=False
    )
    add_checkpoint_options(parser)
    parser.add_argument(
        "--conversations",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="held-out conversations; may be repeated",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/eval/meters"), help="folder")
    parser.add_argument("--limit", type=int, help="first so many conversations")
    parser.add_argument("--batch-size", type=int, default=32, help="at once (default 32)")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
