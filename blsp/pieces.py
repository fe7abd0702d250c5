"""Tokenising a prompt piece by piece, each piece by who wrote it.

What a template wrote may hold control tokens. What a person or a model wrote never becomes one,
whatever it says: text must not be able to end a turn or to pass for a recording. A piece is
tokenised as it is in mid-text. Texts enter, token ids leave.
"""

import re
from collections.abc import Set
from typing import Any

from blsp.errors import InputError


class PieceTokenizer:
    """Wraps a tokenizer; `control` is id -> text of the tokens that only a template may write."""

    def __init__(self, tokenizer: Any, template: str, audio_token_id: int | None) -> None:
        self.tokenizer = tokenizer
        self.control = _find_control_tokens(tokenizer, template, audio_token_id)
        self._control_text = re.compile("|".join(map(re.escape, self.control.values())))
        self._tags = _find_tags(tokenizer, self.control.keys() - {audio_token_id})
        self._anchors = self._find_anchors()

    def find_control(self, text: str) -> str | None:
        """Return the first control token that is written in a text."""
        found = self._control_text.search(text) if self.control else None
        return found[0] if found else None

    def encode_literal(self, text: str, *, first: bool) -> tuple[int, ...]:
        """Tokenise what the template wrote: control tokens are control tokens."""
        return tuple(self._encode(text, split_special_tokens=False, first=first))

    def encode_written(self, text: str) -> list[int]:
        """Tokenise what somebody wrote: no control token comes out, whatever the text says."""
        ids = self._encode(text, split_special_tokens=True)
        if self.control.keys().isdisjoint(ids):
            return ids
        # A tokenizer may know a marker as a plain word; broken after a character it knows it not.
        cuts = [found.start() + 1 for found in self._control_text.finditer(text)]
        bounds = zip([0, *cuts], [*cuts, len(text)], strict=True)
        chunks = [self._encode(text[a:b], split_special_tokens=True) for a, b in bounds]
        ids = [token for chunk in chunks for token in chunk]
        if not self.control.keys().isdisjoint(ids):
            found = next(self.control[token] for token in ids if token in self.control)
            raise InputError(
                f"expected words, found the control token {found!r}, which this tokenizer cannot "
                "write as plain text; remove it from the text"
            )
        return ids

    def encode_reply(self, text: str) -> list[int]:
        """Tokenise what a language model wrote that may call tools.

        Tags that its template uses and that are no special tokens (`<tool_call>`) are the tokens
        that it wrote; everything else is as in `encode_written`.
        """
        tag = re.compile("|".join(map(re.escape, self._tags)) or "(?!)")
        ids, position = [], 0
        for found in tag.finditer(text):
            ids += [*self.encode_written(text[position : found.start()]), self._tags[found[0]]]
            position = found.end()
        return ids + self.encode_written(text[position:])

    def _encode(self, text: str, *, split_special_tokens: bool, first: bool = False) -> list[int]:
        """Tokenise a piece as it is tokenised in mid-text, or at the very beginning if `first`."""
        if not text:
            return []
        for anchor, anchor_ids in [] if first else self._anchors:
            ids = self._tokenize(anchor + text, split_special_tokens)
            if ids[: len(anchor_ids)] == anchor_ids:
                return ids[len(anchor_ids) :]
        return self._tokenize(text, split_special_tokens)

    def _tokenize(self, text: str, split_special_tokens: bool) -> list[int]:
        encoded = self.tokenizer(
            text,
            add_special_tokens=False,
            split_special_tokens=split_special_tokens,
            return_attention_mask=False,
            verbose=False,
        )
        return encoded["input_ids"]

    def _find_anchors(self) -> list[tuple[str, list[int]]]:
        """Return texts to put before a piece and cut off again, where a tokenizer needs them.

        Some tokenizers put a space before whatever they are given, which is wrong in mid-text.
        """
        anchors = [(anchor, self._tokenize(anchor, True)) for anchor in ("\n", "a")]
        line_break, ids = anchors[0]
        mid_text = self._tokenize(f"{line_break}a", True)[len(ids) :]
        return [] if mid_text == anchors[1][1] else anchors


def _find_tags(tokenizer: Any, control: Set[int]) -> dict[str, int]:
    """Return text -> id of the control tokens that a tokenizer knows as ordinary added ones."""
    added = tokenizer.added_tokens_decoder.items()
    return {one.content: token for token, one in added if token in control and not one.special}


def _find_control_tokens(
    tokenizer: Any, template: str, audio_token_id: int | None
) -> dict[int, str]:
    """Return id -> text of the tokens that only a template may write.

    These are the special tokens, and the added ones that the template uses (`<think>` is often an
    ordinary added token). Others, such as runs of spaces, belong to any text.
    """
    control = {
        token: added.content
        for token, added in tokenizer.added_tokens_decoder.items()
        if added.special or (added.content in template and not added.content.isspace())
    }
    pairs = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
    control |= dict(pairs)
    control.pop(tokenizer.unk_token_id, None)
    if audio_token_id is not None and audio_token_id < len(tokenizer):
        control[audio_token_id] = tokenizer.convert_ids_to_tokens(audio_token_id)
    return control
