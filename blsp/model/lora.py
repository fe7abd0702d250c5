"""LoRA on the language model: everywhere, or at the positions of speech alone (PLoRA).

peft owns the layers. Where they act is ours: one state a model says it, and every layer asks that
state. With scope `speech` the rows of text pass through the base weights and nothing else, so that
text gets the very numbers it would get without us, in training too. A forward pass whose positions
nobody stated is an error: plain LoRA in its place would be silent.

    y_i = W x_i + [i is speech] (alpha / rank) B A dropout(x_i)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from blsp.errors import InputError
from blsp.model.configuration import LoraConfig

ADAPTER = "default"
"""peft's name for the one set of LoRA weights."""


class SpeechPositions:
    """Which of (B, T) positions are speech, found once a forward pass.

    Args:
        mask: (B, T), true at speech.
    """

    def __init__(self, mask: Tensor) -> None:
        self.shape = mask.shape
        self.index = mask.reshape(-1).nonzero()[:, 0]
        """(N,) of the flattened positions."""


Where = SpeechPositions | Literal["unset", "nowhere", "everywhere"]


class LoraState:
    """Where the LoRA of one model acts now.

    Args:
        config: of the model; its scope says where LoRA acts unless told otherwise.
    """

    def __init__(self, config: LoraConfig) -> None:
        self.scope = config.scope
        self.current: Where = "everywhere" if config.scope == "all" else "unset"

    @contextmanager
    def use(self, where: Where) -> Iterator[None]:
        """Within the block LoRA acts there."""
        earlier, self.current = self.current, where
        try:
            yield
        finally:
            self.current = earlier

    @contextmanager
    def hearing(self, is_speech: Tensor | None, *, training: bool) -> Iterator[None]:
        """Within the block LoRA acts where a batch is speech, unless an outer block has said.

        Args:
            is_speech: (B, T); None leaves it unsaid, and the first LoRA layer raises.
            training: keep the path to the weights also where nothing is speech: other processes
                wait for their gradient.
        """
        if self.current != "unset" or is_speech is None:
            yield
            return
        positions = SpeechPositions(is_speech)
        where: Where = positions if training or len(positions.index) else "nowhere"
        with self.use(where):
            yield

    def wrap_checkpoint(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Make gradient checkpointing recompute a layer where LoRA acted the first time."""

        def checkpointed(layer: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            where = self.current

            def run(*layer_args: Any, **layer_kwargs: Any) -> Any:
                with self.use(where):
                    return layer(*layer_args, **layer_kwargs)

            return function(run, *args, **kwargs)

        return checkpointed


class _Placed:
    """What peft calls a variant: the forward pass of a LoRA layer, at the state's positions.

    It follows the methods of peft's `LoraVariant`, which are private there; peft is pinned.
    """

    def __init__(self, state: LoraState) -> None:
        self._state = state

    def supports_lora_conversion(self) -> bool:
        """It is no other parametrisation of LoRA."""
        return False

    def init(self, module: Any, adapter_name: str, **_: Any) -> None:
        """Nothing to prepare."""

    def forward(
        self, module: Any, *, active_adapter: str, x: Tensor, result: Tensor, **_: Any
    ) -> Tensor:
        """(..., D_in) and the base layer's (..., D_out) -> (..., D_out)."""
        where = self._state.current
        if where == "nowhere":
            return result
        if where == "everywhere":
            return (result + _delta(module, active_adapter, x)).to(result.dtype)
        if where == "unset":
            raise RuntimeError(
                "expected to know which positions are speech, found a forward pass of the language "
                "model alone, or inputs_embeds without mm_token_type_ids (3 at speech); call the "
                "speech model, or the language model within `without_lora`"
            )
        if result.shape[:-1] != where.shape:
            raise RuntimeError(
                f"expected rows of shape {tuple(where.shape)}, found {tuple(result.shape[:-1])}: "
                "this layer gets its rows in another order; leave it out of model.lora.targets"
            )
        rows = x.reshape(-1, x.shape[-1]).index_select(0, where.index)  # -> (N, D_in)
        flat = result.reshape(-1, result.shape[-1])
        sums = flat.index_select(0, where.index) + _delta(module, active_adapter, rows)
        return flat.index_copy(0, where.index, sums.to(flat.dtype)).view(result.shape)

    def _refuse(self, *_: Any, **__: Any) -> Any:
        raise RuntimeError(
            "LoRA at speech positions alone cannot be merged: text must not get it; serve it with "
            "blsp"
        )

    merge_safe = merge_unsafe = unmerge = _refuse


def _delta(module: Any, adapter: str, x: Tensor) -> Tensor:
    first, second = module.lora_A[adapter], module.lora_B[adapter]
    rows = module.lora_dropout[adapter](x.to(first.weight.dtype))
    return second(first(rows)) * module.scaling[adapter]


def install_lora(language_model: nn.Module, config: LoraConfig) -> LoraState:
    """Put LoRA weights into a language model, in float32; they alone are trained.

    Raises:
        InputError: no layer has one of the target names.
    """
    from peft import LoraConfig as PeftLoraConfig
    from peft import inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    targets = list(config.targets) or "all-linear"
    wanted = PeftLoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets
    )
    try:
        inject_adapter_in_model(wanted, language_model, ADAPTER)
    except ValueError as error:
        raise InputError(
            f"model.lora: expected names of linear layers of {type(language_model).__name__} in "
            f"targets, found {targets}: {' '.join(str(error).split())[:200]}"
        ) from error
    state = LoraState(config)
    for module in language_model.modules():
        if isinstance(module, LoraLayer):
            module.lora_variant[ADAPTER] = _Placed(state)  # type: ignore[assignment]
            module.cast_input_dtype_enabled = False  # it would cast the rows of text, too
    for name, parameter in language_model.named_parameters():
        if is_lora(name):
            parameter.data = parameter.data.float()
    return state


def is_lora(name: str) -> bool:
    """Whether a parameter is a weight of LoRA, by its name."""
    return ".lora_A." in name or ".lora_B." in name


@torch.no_grad()
def merge_lora(language_model: nn.Module) -> None:
    """Add LoRA to the weights it stands beside, and take it out."""
    from peft.tuners.lora import LoraLayer

    layers: list[tuple[str, Any]] = [
        (name, module)
        for name, module in language_model.named_modules()
        if isinstance(module, LoraLayer)
    ]
    for name, layer in layers:
        base = layer.get_base_layer()
        delta = layer.get_delta_weight(ADAPTER)
        base.weight.copy_((base.weight.float() + delta).to(base.weight.dtype))
        parent = language_model.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], base)
