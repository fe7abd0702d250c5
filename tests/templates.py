"""Chat templates of the shapes in use, and tokenizers to go with them, for several test files."""

from collections.abc import Sequence
from typing import Any

from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from blsp.tiny.llm import CHAT_TEMPLATE

# Turns between two control tokens; a system prompt of its own where none is given, which tools
# follow. Adding content to a string raises on lists.
QWEN2_5 = """{%- if messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = 'Be kind.' %}{%- endif %}
{{- '<|im_start|>system\\n' + system }}
{%- if tools %}
{{- '\\n\\nFunctions, to call between <tool_call></tool_call>:' }}
{%- for tool in tools %}{{- '\\n' + tool | tojson }}{%- endfor %}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""

# An empty think block before the last response, none in the history.
QWEN3 = """{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
{%- if message.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- if message.role == 'assistant' and loop.index0 > ns.last %}
{{- '<|im_start|>assistant\\n<think>\\n\\n</think>\\n\\n' + message.content.lstrip('\\n') }}
{%- else %}
{{- '<|im_start|>' + message.role + '\\n' + message.content }}
{%- endif %}
{{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}"""

# A dated system prompt, trimmed content, lists printed as Python prints them; tools stand in the
# first question.
LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}
{%- if messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] | trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start|>system<|end|>\\n\\nToday: ' + date_string + '\\n\\n' + system + '<|eot|>' }}
{%- for message in messages %}
{{- '<|start|>' + message.role + '<|end|>\\n\\n' }}
{%- if tools and loop.first %}
{%- if not tools[0].function.parameters.type %}{{- raise_exception('No type') }}{%- endif %}
{{- 'You may call: ' + tools | map(attribute='function') | list | tojson + '\\n\\n' }}
{%- endif %}
{{- message.content | string | trim + '<|eot|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start|>assistant<|end|>\\n\\n' }}{%- endif %}"""

# No system role; the assistant has another name.
GEMMA = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{{- raise_exception('System role not supported') }}
{%- endif %}
{%- for message in messages %}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
{{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<start_of_turn>model\\n' }}{%- endif %}"""

# The system prompt moves to the last user message; turns must alternate; spaces around content.
MISTRAL = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
{%- set system = messages[0]['content'] + '\\n\\n' %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{%- for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Roles must alternate user and assistant') }}
{%- endif %}
{%- if message['role'] == 'user' %}
{{- '[INST] ' + (system if loop.index0 >= messages | length - 2 else '') }}
{{- message['content'] + ' [/INST]' }}
{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}
{%- endfor %}"""

_IM = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|audio|>"]
SHAPES = {
    "qwen2.5": (QWEN2_5, _IM, None, "<|im_end|>"),
    "qwen3": (QWEN3, _IM, None, "<|im_end|>"),
    "llama3": (LLAMA3, ["<|bos|>", "<|start|>", "<|end|>", "<|eot|>"], "<|bos|>", "<|eot|>"),
    "gemma": (GEMMA, ["<bos>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<end_of_turn>"),
    "mistral": (MISTRAL, ["<s>", "</s>", "[INST]", "[/INST]"], "<s>", "</s>"),
    "tiny": (CHAT_TEMPLATE, _IM, None, "<|im_end|>"),
}
_TEXTS = ["turn on the light in the kitchen", "repeat this sentence", "user assistant system model"]


def build_tokenizer(shape: str) -> Any:
    """A byte-level BPE tokenizer with the template and control tokens of one shape."""
    template, special, bos, eos = SHAPES[shape]
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(_TEXTS * 3, trainer)
    return _finish(raw, template, bos, eos)


def build_prefixing_tokenizer() -> Any:
    """A tokenizer that puts a space before whatever it is given, with the Mistral shape."""
    template, special, bos, eos = SHAPES["mistral"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    merges = [("t", "u"), ("tu", "r"), ("tur", "n"), ("\u2581", "turn")]
    letters = [*"Repaturnilgho:.\u2581", *("".join(pair) for pair in merges)]
    vocabulary = ["<unk>", *special, *byte_tokens, *letters]
    raw = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(vocabulary)},
            merges=merges,
            byte_fallback=True,
            unk_token="<unk>",
        )
    )
    raw.add_special_tokens(special)
    raw.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    raw.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return _finish(raw, template, bos, eos)


def _finish(raw: Tokenizer, template: str, bos: str | None, eos: str) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token=bos, eos_token=eos)
    # As in real tokenizers these tags are added tokens, but not special ones.
    tokenizer.add_tokens(["<think>", "</think>", "<tool_call>", "</tool_call>"])
    tokenizer.chat_template = template
    return tokenizer


TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": f"Turn the {name} on, \u201cplease\u201d",
            "parameters": {"type": "object", "properties": {"room": {"type": "string"}}},
        },
    }
    for name in ("light", "radio")
]
"""Functions as a template takes them."""
TEMPLATES_WITH_TOOLS = ("qwen2.5", "llama3")


def as_strings(messages: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    """Messages as a template takes them."""
    return [{"role": role, "content": content} for role, content in messages]
