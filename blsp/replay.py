"""`blsp train RECIPE --replay`: which example of a batch stopped a run.

A run that stops on numbers that are not finite leaves the ids of the batch and the weights it had.
Each example is tried alone with those weights, forward and backward; lines for a person leave.
"""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from blsp.collator import Collator
from blsp.dataset import ConversationDataset, Example
from blsp.errors import InputError
from blsp.model import BlspForConditionalGeneration, BlspProcessor
from blsp.model.restoring import apply_delta
from blsp.preflight import run_backward
from blsp.recipe import Recipe
from blsp.trainer import FAILED_BATCH, FAILED_WEIGHTS


def read_failed(output: Path) -> dict[str, Any]:
    """What a run that stopped left in its folder: `step`, `found` and `ids`.

    Raises:
        InputError: none was stopped here.
    """
    path = output / FAILED_BATCH
    if not path.is_file():
        raise InputError(
            f"{path}: expected the batch that stopped a run, found none; --replay takes the recipe "
            "and options of that run"
        )
    return json.loads(path.read_text(encoding="utf-8"))


def replay_batch(
    model: BlspForConditionalGeneration,
    processor: BlspProcessor,
    dataset: ConversationDataset,
    failed: dict[str, Any],
    recipe: Recipe,
    report: Callable[[str], None],
) -> int:
    """Try the examples one by one; 1 if one of them fails alone.

    Raises:
        InputError: the data has not got them.
    """
    weights = recipe.training.output / FAILED_WEIGHTS
    if not weights.is_file():
        raise InputError(
            f"{weights}: expected the weights of the run when it stopped, found none: a run whose "
            "weights are in shards writes no such file; train without FSDP to replay"
        )
    apply_delta(model, load_file(weights), str(weights))
    report(f"step {failed['step']} had {failed['found']}; its examples one by one:")
    guilty = 0
    collate = Collator(processor.tokenizer.pad_token_id)  # type: ignore[arg-type]
    for example in find_examples(dataset, failed["ids"]):
        loss = run_backward(model, collate([example]), recipe.loss, recipe.training)
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients).item()
        finite = math.isfinite(loss) and math.isfinite(norm)
        guilty += not finite
        mark = "  " if finite else "->"
        report(f"{mark} {example.id}: loss {loss:.4f}, gradient {norm:.4f}")
    report(f"{guilty} of {len(failed['ids'])} are not finite alone")
    return 1 if guilty else 0


def find_examples(dataset: ConversationDataset, ids: Sequence[str]) -> Iterator[Example]:
    """The examples of these ids, in the order of the data.

    Raises:
        InputError: some are not there.
    """
    wanted = set(ids)
    for index in range(len(dataset)):
        if not wanted:
            return
        conversation, _ = dataset.read_conversation(index)
        if conversation.id in wanted:
            wanted.remove(conversation.id)
            yield dataset[index]
    if wanted:
        raise InputError(
            f"data.train: expected the examples of the run that stopped, found no {min(wanted)!r} "
            f"({len(wanted)} missing); give the files of that run"
        )
