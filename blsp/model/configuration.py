"""What a speech language model is made of: `BlspConfig`, and the numbers of its adapter.

The encoder's and the language model's configurations are the library's own and lie inside. What
the trained part needs beyond them stands here, too: where the base weights came from and their
fingerprints, how audio is padded, which token stands for speech, and how long an utterance the
model has heard in training.
"""

from dataclasses import asdict, dataclass, field, fields
from typing import Any, ClassVar, Literal, get_args

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from blsp.errors import InputError, suggest

AudioPadding = Literal["variable", "max"]
AdapterKind = Literal["conv", "stack", "qformer", "cformer"]

_FIELDS: dict[str, tuple[str, ...]] = {
    "conv": ("kernel_sizes", "bottleneck_size", "norm_init", "summary"),
    "stack": ("stack_factor", "hidden_size", "norm_init", "norm_position", "summary"),
    "qformer": ("queries", "query_window", "layers", "length", "norm_init"),
    "cformer": ("pre_layers", "post_layers", "norm_init"),
}


_FROM_ONE = ("bottleneck_size", "stack_factor", "hidden_size", "queries", "query_window", "layers")


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """The modality adapter; numbers of another kind than ``kind`` must be left alone."""

    kind: AdapterKind = "conv"
    """`conv`: strided convolutions (BLSP); `stack`: stacked frames and an MLP (Ultravox);
    `qformer`: queries that look at windows (SALMONN); `cformer`: continuous integrate-and-fire, one
    embedding a token (BLSP-KD)."""
    class_: str | None = None
    """Dotted name of a class of an installed package, in place of ``kind``."""
    options: dict[str, Any] = field(default_factory=dict)
    """What that class is built with, beside the widths."""
    kernel_sizes: tuple[int, ...] = (5, 5, 5)
    """conv: odd kernel of each convolution; each one halves the rate."""
    bottleneck_size: int = 512
    """conv: inner width of the residual bottleneck."""
    stack_factor: int = 8
    """stack: encoder rows that become one speech embedding."""
    hidden_size: int = 4096
    """stack: width of the first projection; SwiGLU halves it."""
    norm_init: float | None = None
    """Initial weight of the norms; None is what was published: 1 (`conv`), 0.4 (`stack`). The last
    norm of `conv` sets the length of a speech embedding: where token embeddings are far shorter,
    starting at their root mean square saves the steps that shrinking takes."""
    norm_position: Literal["mid", "post"] = "mid"
    """stack: the second norm before (`mid`, Ultravox from 0.5) or after the last projection."""
    summary: int = 0
    """conv, stack: so many embeddings of the whole recording (of each encoder window) before those
    of its parts: room for what is not in the words, such as the mood. Each weighs all rows."""
    queries: int = 1
    """qformer: queries a window, each of which becomes a speech embedding."""
    query_window: int = 17
    """qformer: encoder rows a window, with `length: rate`; 17 of 50 Hz are 0.34 s."""
    layers: int = 2
    """qformer: layers of self- and cross-attention."""
    length: Literal["rate", "tokens"] = "rate"
    """qformer: `rate`, a fixed number a second; `tokens`, as many as the transcript has tokens,
    which is predicted where there is none."""
    pre_layers: int = 4
    """cformer: layers before integrate-and-fire."""
    post_layers: int = 4
    """cformer: layers after it."""

    def __post_init__(self) -> None:
        if self.kind not in _FIELDS:
            raise InputError(
                f"adapter.kind: expected {' or '.join(_FIELDS)}, found {self.kind!r}; "
                f"{suggest(str(self.kind), _FIELDS)}"
            )
        object.__setattr__(self, "kernel_sizes", tuple(self.kernel_sizes))  # JSON gives a list
        self._check_numbers()
        known = ("class_", "options") if self.class_ else _FIELDS[self.kind]
        named = self.class_ or f"kind {self.kind!r}"
        foreign = [name for name in self._set_by_user() if name not in known]
        if foreign:
            raise InputError(
                f"adapter.{foreign[0]}: expected the numbers of {named} "
                f"({', '.join(known)}), found one of another kind; remove it"
            )

    @property
    def decides_length(self) -> bool:
        """Whether the number of speech embeddings depends on what is said, not on how long it is:
        prompts hold one placeholder a recording, and `generate` fits them to what came out."""
        if self.class_:
            return False
        return self.kind == "cformer" or (self.kind == "qformer" and self.length == "tokens")

    def to_dict(self) -> dict[str, Any]:
        """The kind and its own numbers, as JSON types."""
        if self.class_:
            return {"class": self.class_, "options": dict(self.options)}
        kept = {name: value for name, value in asdict(self).items() if name in _FIELDS[self.kind]}
        if "kernel_sizes" in kept:
            kept["kernel_sizes"] = list(kept["kernel_sizes"])
        return {"kind": self.kind, **kept}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "AdapterConfig":
        """Build from JSON, refusing keys it does not know."""
        known = {field.name.removesuffix("_"): field.name for field in fields(cls)}
        for name in values:
            if name not in known:
                raise InputError(
                    f"adapter: expected its known keys, found {name!r}; {suggest(name, known)}"
                )
        return cls(**{known[name]: value for name, value in values.items()})

    def _set_by_user(self) -> list[str]:
        numbers = [field for field in fields(self) if field.name != "kind"]
        standard = {"options": {}} | {n.name: n.default for n in numbers if n.name != "options"}
        return [name for name, value in standard.items() if getattr(self, name) != value]

    def _check_numbers(self) -> None:
        kernels = self.kernel_sizes
        if not kernels or any(size < 1 or size % 2 == 0 for size in kernels):
            raise InputError(
                f"adapter.kernel_sizes: expected odd sizes such as [5, 5, 5], found "
                f"{list(kernels)}; with an even one the length would depend on the padding side"
            )
        least = dict.fromkeys(_FROM_ONE, 1) | dict.fromkeys(
            ("pre_layers", "post_layers", "summary"), 0
        )
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise InputError(
                    f"adapter.{name}: expected {lowest} or more, found {getattr(self, name)}; "
                    "change it"
                )
        if self.hidden_size % 2:
            raise InputError(
                f"adapter.hidden_size: expected an even number, found {self.hidden_size}; "
                "SwiGLU halves it"
            )
        for name, choices in (("norm_position", ("mid", "post")), ("length", ("rate", "tokens"))):
            if (found := getattr(self, name)) not in choices:
                raise InputError(
                    f"adapter.{name}: expected {' or '.join(choices)}, found {found!r}; "
                    f"{suggest(str(found), choices)}"
                )


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank weights beside the language model's own."""

    scope: Literal["none", "all", "speech"] = "none"
    """Where they act: nowhere, at every position, or at speech alone (PLoRA), which leaves text
    what it was, bit for bit."""
    rank: int = 16
    alpha: int = 32
    """The product of the two matrices is scaled by alpha / rank."""
    dropout: float = 0.0
    targets: tuple[str, ...] = ()
    """Last parts of the names of layers, such as [q_proj, v_proj]; empty is every linear layer but
    the head."""

    def __post_init__(self) -> None:
        if self.scope not in (scopes := ("none", "all", "speech")):
            raise InputError(
                f"lora.scope: expected {', '.join(scopes)}, found {self.scope!r}; "
                f"{suggest(self.scope, scopes)}"
            )
        object.__setattr__(self, "targets", tuple(self.targets))  # JSON gives a list
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise InputError(
                "lora: expected a rank of 1 or more, alpha above 0 and dropout in [0, 1), found "
                f"{self.rank}, {self.alpha:g} and {self.dropout:g}; change it"
            )

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return {**asdict(self), "targets": list(self.targets)}


@strict
class BlspConfig(PreTrainedConfig):
    """Encoder, adapter and language model in one.

    ``adapter_config`` and ``lora_config`` are plain mappings; ``adapter`` and ``lora`` give them as
    an `AdapterConfig` and a `LoraConfig`. ``bases`` holds, for ``llm`` and ``encoder``, the
    `source`, `revision` and `fingerprint` of the weights that a checkpoint does not contain.
    ``emotions`` are the classes of the emotion classifier, where there is one.
    """

    model_type = "blsp"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "audio_config": SubConfigSpec(config_class=AutoConfig, model_type="whisper"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="qwen3"),
    }
    keys_to_ignore_at_inference: ClassVar[list[str]] = ["past_key_values"]

    audio_config: dict | PreTrainedConfig | None = None
    text_config: dict | PreTrainedConfig | None = None
    adapter_config: dict | None = None
    audio_token_id: int = 0
    audio_padding: str = "variable"
    bases: dict | None = None
    template_variables: dict | None = None
    trained_max_seconds: float | None = None
    lora_config: dict | None = None
    emotions: list | None = None
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        if isinstance(self.adapter_config, AdapterConfig):
            self.adapter_config = self.adapter_config.to_dict()
        self.adapter_config = AdapterConfig.from_dict(self.adapter_config or {}).to_dict()
        if isinstance(self.lora_config, LoraConfig):
            self.lora_config = self.lora_config.to_dict()
        self.lora_config = LoraConfig(**self.lora_config or {}).to_dict()
        if self.audio_padding not in get_args(AudioPadding):
            raise InputError(
                f"audio_padding: expected variable or max, found {self.audio_padding!r}; "
                f"{suggest(self.audio_padding, get_args(AudioPadding))}"
            )
        super().__post_init__(**kwargs)
        # The library reads the top level only, when it decides whether the head is tied.
        self.tie_word_embeddings = bool(getattr(self.text_config, "tie_word_embeddings", False))

    @property
    def adapter(self) -> AdapterConfig:
        """The adapter's numbers."""
        return AdapterConfig.from_dict(self.adapter_config or {})

    @property
    def lora(self) -> LoraConfig:
        """Where LoRA acts on the language model, and its numbers."""
        return LoraConfig(**self.lora_config or {})

    @property
    def window_frames(self) -> int:
        """Log-mel frames the encoder takes at once; longer audio is encoded in windows of it."""
        return 2 * self.audio_config.max_source_positions  # type: ignore[union-attr]
