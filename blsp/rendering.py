"""Chats become token ids here and nowhere else.

The language model's own chat template is rendered with a private marker in place of every part, and
the result is cut at the markers. What the template wrote is tokenised with its control tokens; what
a person or a model wrote, without, so that no transcript can end a turn. Which tokens are trained
follows from the pieces. The *student view* has one placeholder for a recording, the *teacher view*
its transcript, and the `teacher` of a text; everything else is the same, piece by piece, what the
template says of tools too. A conversation and a tokenizer enter.
"""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import groupby
from typing import Any, Literal, get_args

from blsp.errors import InputError
from blsp.manifest import AudioPart, Conversation, Message, Part, TextPart
from blsp.pieces import PieceTokenizer

View = Literal["student", "teacher"]
Trained = Literal["last", "all"]

AUDIO_TOKEN = "<|audio|>"
"""The placeholder that is added to a tokenizer without a spare token."""

IGNORED = -100
"""The label of a token that no loss looks at."""

OPEN, CLOSE = "\u27e6", "\u27e7"
"""Brackets around trained tokens where people read them; rare in any text."""

PLAIN_TEMPLATE = (
    "{% for message in messages %}"
    "{{ message['role'].capitalize() + ':\n' + message['content'] }}"
    "{{ eos_token + '\n' if message['role'] == 'assistant' else '\n\n' }}"
    "{% endfor %}"
    "{{ 'Assistant:\n' if add_generation_prompt else '' }}"
)
"""For base models, which have no template of their own; used only where it is asked for."""


# Private-use characters: no template trims, splits or writes them.
_MARKER = "\ue000{}\ue001"
_MARKERS = re.compile("\ue000([0-9]+)\ue001")
# Without it the prompt of training would differ from that of the day after.
_CLOCK = "{%- macro strftime_now(format) -%}\ue002{{ format }}\ue003{%- endmacro %}"
_DATES = re.compile("\ue002(.*?)\ue003", re.DOTALL)
_PRIVATE = re.compile("[\ue000-\ue003]")
_THINKING = re.compile(r"</?think(ing)?>|\[/?THINK\]|<\|channel\|>", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A conversation as T tokens."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    """Per token: its id where it is trained, else -100. Not shifted."""
    audio: list[tuple[int, AudioPart]] = field(default_factory=list)
    """Student view: where each placeholder stands."""
    transcripts: list[tuple[int, int]] = field(default_factory=list)
    """Teacher view: start and end of each transcript."""


# (role, a letter a part: t for text, a for audio) of each message. What the template writes around
# the parts depends on nothing else but the tools, since it sees only markers.
_Shape = tuple[tuple[str, str], ...]
Tools = Sequence[Mapping[str, Any]]

_MOST_SKELETONS = 1024
"""A data set has few shapes, but each conversation may have tools of its own."""


@dataclass(frozen=True, kw_only=True)
class _Step:
    """A stretch of the template's own tokens, and the part that follows it."""

    ids: tuple[int, ...]
    part: int | None
    lead: str
    """Whitespace of the template that belongs to the part's first token."""


@dataclass(frozen=True, kw_only=True)
class _Skeleton:
    """What the template writes around the parts of a conversation."""

    steps: tuple[_Step, ...]
    end_of_turn: tuple[int, ...]
    """The tokens right after the last part; empty where no control token is there."""


@dataclass(frozen=True, kw_only=True)
class _Placed:
    """A part and where it stands in its conversation."""

    part: Part
    message: int
    closes: bool
    """It is the last part of its message."""
    may_call: bool
    """A language model wrote it that had tools."""


class Renderer:
    """Renders conversations for one tokenizer, with fixed template variables.

    Args:
        tokenizer: a transformers tokenizer.
        template_variables: what the template is told beside the messages, in training as in use.
            `enable_thinking` is false unless given; `date` (YYYY-MM-DD) is what templates print
            that ask for today.
        chat_template: instead of the tokenizer's own, such as `PLAIN_TEMPLATE`.
        audio_token_id: the placeholder of the student view.
    """

    def __init__(
        self,
        tokenizer: Any,
        template_variables: Mapping[str, Any] | None = None,
        *,
        chat_template: str | None = None,
        audio_token_id: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.template = chat_template or _own_template(tokenizer)
        self.template_variables = {"enable_thinking": False, **(template_variables or {})}
        self.audio_token_id = audio_token_id
        self._pieces = PieceTokenizer(tokenizer, self.template, audio_token_id)
        self._skeletons: dict[tuple[_Shape, bool, str], _Skeleton] = {}

    # --- what others call -------------------------------------------------------------------------

    def render(
        self, conversation: Conversation, *, view: View, trained: Trained = "last"
    ) -> Rendered:
        """Render a whole conversation with labels on its responses.

        Trained are the last response or all, each with the end of turn that the template puts after
        it; a last response with `finish_reason` `length` has its end of turn untrained. Outer
        whitespace of a message is dropped, as many templates do. `all` trains earlier responses
        after what the template writes before them in a history, which for templates that think
        differs from what it writes when asking for a response.

        Raises:
            InputError: no response at the end, or a template that cannot show the conversation.
        """
        try:
            return self._render_trained(conversation, view, trained)
        except InputError as error:
            raise InputError(f"conversation {conversation.id!r}: {error}") from error

    def render_prompt(
        self,
        messages: Sequence[Message],
        *,
        view: View,
        tools: Tools = (),
        add_generation_prompt: bool = True,
    ) -> Rendered:
        """Render messages as the prompt of a response to come; nothing is trained.

        Args:
            messages: up to the response.
            view: which of the two.
            tools: functions that may be called, as the template takes them.
            add_generation_prompt: ask for the response.

        Raises:
            InputError: a template that cannot show the messages or the tools.
        """
        shown = _show(messages, view)
        skeleton = self._skeleton_of(_shape(shown), add_generation_prompt, tools)
        return self._fill(skeleton, _place_parts(shown, tools), view, ends={})

    def render_question(self, conversation: Conversation, *, view: View) -> Rendered:
        """Render what a conversation's last response answers, as its prompt."""
        return self.render_prompt(conversation.messages[:-1], view=view, tools=conversation.tools)

    def transcript_ids(self, part: AudioPart) -> list[int]:
        """Return the ids of a recording's words: in the teacher view, and as CIF or CTC target."""
        return self._pieces.encode_written(part.transcript.strip())

    def end_of_turn_ids(self) -> tuple[int, ...]:
        """Return the control token that follows a response, where generation stops; or none."""
        skeleton = self._skeleton_of((("user", "t"), ("assistant", "t")), False)
        return tuple(id_ for id_ in skeleton.end_of_turn if id_ in self._pieces.control)[:1]

    def template_fingerprint(self) -> str:
        """Return a hash of template, variables and vocabulary: equal prompts, equal fingerprint.

        A placeholder that was added for speech does not count: the model reads as before.
        """
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        vocabulary = [entry for entry in vocabulary if entry[0] != AUDIO_TOKEN]
        made_of = [self.template, sorted(self.template_variables.items()), vocabulary]
        return hashlib.sha256(json.dumps(made_of, default=str).encode()).hexdigest()[:16]

    # --- filling a skeleton -----------------------------------------------------------------------

    def _render_trained(self, conversation: Conversation, view: View, trained: Trained) -> Rendered:
        messages = _show(conversation.messages, view)
        if messages[-1].role != "assistant" or len(messages) == 1:
            roles = ", ".join(message.role for message in messages)
            raise InputError(
                f"expected a question and then a response at the end, found the roles {roles}; "
                "add what is missing"
            )
        skeleton = self._skeleton_of(_shape(messages), False, conversation.tools)
        last = len(messages) - 1
        answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
        ends = dict.fromkeys(answers if trained == "all" else [last], skeleton.end_of_turn)
        if conversation.finish_reason == "length":
            ends[last] = ()
        elif not skeleton.end_of_turn:
            raise InputError(
                "expected the chat template to end a response with a control token, found none, so "
                "that no response would ever end; give the template one, such as {{ eos_token }}"
            )
        parts = _place_parts(messages, conversation.tools)
        return self._fill(skeleton, parts, view, ends=ends)

    def _fill(
        self,
        skeleton: _Skeleton,
        parts: list[_Placed],
        view: View,
        *,
        ends: Mapping[int, tuple[int, ...]],
    ) -> Rendered:
        """Put the parts between the template's tokens; `ends`: trained message -> its last ids."""
        rendered = Rendered()
        end: tuple[int, ...] = ()
        for step in skeleton.steps:
            if step.ids[: len(end)] != end:
                raise InputError(
                    "expected the chat template to end all responses alike, found an earlier one "
                    "ended otherwise than the last; train the last response only"
                )
            rendered.ids.extend(step.ids)
            rendered.labels.extend(end + (IGNORED,) * (len(step.ids) - len(end)))
            end = ()
            if step.part is not None:
                placed = parts[step.part]
                self._add_part(rendered, step, placed, view, placed.message in ends)
                end = ends.get(placed.message, ()) if placed.closes else ()
        return rendered

    def _add_part(
        self, rendered: Rendered, step: _Step, placed: _Placed, view: View, is_trained: bool
    ) -> None:
        start, part = len(rendered.ids), placed.part
        if isinstance(part, TextPart):
            encode = self._pieces.encode_reply if placed.may_call else self._pieces.encode_written
            ids = encode(step.lead + part.text)
        elif view == "teacher":
            ids = self.transcript_ids(part)
            rendered.transcripts.append((start, start + len(ids)))
        elif self.audio_token_id is None:
            raise InputError(
                "expected an audio_token_id to render the student view, found none; give the "
                "renderer the placeholder's id"
            )
        else:
            ids = [self.audio_token_id]
            rendered.audio.append((start, part))
        rendered.ids.extend(ids)
        rendered.labels.extend(ids if is_trained else [IGNORED] * len(ids))

    # --- building a skeleton ----------------------------------------------------------------------

    def _skeleton_of(
        self, shape: _Shape, add_generation_prompt: bool, tools: Tools = ()
    ) -> _Skeleton:
        key = (shape, add_generation_prompt, json.dumps(tools) if tools else "")
        if key not in self._skeletons:
            if len(self._skeletons) >= _MOST_SKELETONS:
                self._skeletons.clear()
            self._skeletons[key] = self._build_skeleton(shape, add_generation_prompt, tools)
        return self._skeletons[key]

    def _build_skeleton(
        self, shape: _Shape, add_generation_prompt: bool, tools: Tools
    ) -> _Skeleton:
        text = self._run_template(shape, add_generation_prompt, tools)
        leads: dict[int, str] = {}
        if shape[-1][0] == "assistant" and len(shape) > 1 and not add_generation_prompt:
            text, leads = self._align_with_prompt(text, shape, tools)
        letters = "".join(letters for _, letters in shape)
        steps = tuple(self._cut_at_markers(text, letters, leads))
        return _Skeleton(steps=steps, end_of_turn=self._find_end_of_turn(steps[-1].ids))

    def _align_with_prompt(
        self, text: str, shape: _Shape, tools: Tools
    ) -> tuple[str, dict[int, str]]:
        """Make what precedes the last response what precedes it when the model is asked for it.

        Returns:
            The text, and the whitespace between prompt and response by the response's first part:
            it is the model's to write, so it is tokenised and trained with the response.
        """
        prompt = self._run_template(shape[:-1], True, tools)
        part = sum(len(letters) for _, letters in shape[:-1])
        start = text.index(_MARKER.format(part))
        before = text[:start]
        if not before.startswith(prompt):
            return prompt + text[start:], {part: ""}
        lead = before.removeprefix(prompt)
        return text, {part: lead if lead.isspace() else ""}

    def _cut_at_markers(self, text: str, letters: str, leads: dict[int, str]) -> Iterator[_Step]:
        position = 0
        for found in _MARKERS.finditer(text):
            part, literal = int(found[1]), text[position : found.start()]
            # Words begin with their space, as they do when all is tokenised in one go.
            spaced = letters[part] == "t" and literal.endswith(" ")
            lead = leads.get(part, " " if spaced else "")
            ids = self._pieces.encode_literal(literal.removesuffix(lead), first=position == 0)
            yield _Step(ids=ids, part=part, lead=lead)
            position = found.end()
        ids = self._pieces.encode_literal(text[position:], first=position == 0)
        yield _Step(ids=ids, part=None, lead="")

    def _find_end_of_turn(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return the ids up to the end of the first control tokens; whitespace may precede them."""
        start = next((i for i, token in enumerate(ids) if token in self._pieces.control), None)
        if start is None or self.tokenizer.decode(list(ids[:start])).strip():
            return ()
        end = start
        while end < len(ids) and ids[end] in self._pieces.control:
            end += 1
        return ids[:end]

    def _run_template(self, shape: _Shape, add_generation_prompt: bool, tools: Tools) -> str:
        """Return the rendered text with a marker in place of each part."""
        text = self._mark_parts(shape, add_generation_prompt)
        if tools:
            self._check_words(tools)
            bare, text = text, self._mark_parts(shape, add_generation_prompt, tools=list(tools))
            if text == bare:
                raise InputError(
                    "expected a chat template that shows tools, found one that renders the same "
                    "without them; take a language model whose template has them, or describe "
                    "them in a system prompt"
                )
        return self._print_dates(text)

    def _check_words(self, tools: Tools) -> None:
        """Refuse tools that would write control tokens: a template prints them among its own."""
        words = json.dumps(tools, ensure_ascii=False)
        found = self._pieces.find_control(words) or (_PRIVATE.search(words) or [""])[0]
        if found:
            raise InputError(
                f"tools: expected words, found {found!r}, which the chat template or its renderer "
                "keeps for itself; write it otherwise"
            )

    def _mark_parts(self, shape: _Shape, add_generation_prompt: bool, **tools: Any) -> str:
        clocked = "strftime_now" in self.template
        count = sum(len(letters) for _, letters in shape)
        markers = iter([_MARKER.format(i) for i in range(count)])
        messages = [
            {"role": role, "content": "".join(next(markers) for _ in letters)}
            for role, letters in shape
        ]
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                chat_template=_CLOCK + self.template if clocked else self.template,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                **self.template_variables,
                **tools,
            )
        except Exception as error:  # whatever the template's author thought of
            raise InputError(_explain_refusal(error, shape, with_tools=bool(tools))) from error
        if sorted(int(index) for index in _MARKERS.findall(text)) != list(range(count)):
            roles = ", ".join(role for role, _ in shape)
            raise InputError(
                "expected the chat template to print every message once, found one left out or "
                f"repeated among the roles {roles}; use other roles or another template"
            )
        return text

    def _print_dates(self, text: str) -> str:
        if not _DATES.search(text):
            return text
        today = self.template_variables.get("date")
        try:
            day = date.fromisoformat(str(today))
        except ValueError as error:
            raise InputError(
                "expected the template variable date (YYYY-MM-DD), because the chat template "
                f"prints today's date, found {today!r}; set it, so that prompts stay the same"
            ) from error
        return _DATES.sub(lambda found: day.strftime(found[1]), text)


def contains_thinking(text: str) -> bool:
    """Tell whether a response holds the tags of a reasoning block."""
    return _THINKING.search(text) is not None


def mark_trained(
    ids: Sequence[int],
    labels: Sequence[int],
    tokenizer: Any,
    recordings: Sequence[tuple[int, int, str]] = (),
) -> str:
    """Return tokens as a person reads them, with brackets around what is trained.

    Args:
        ids: of a view.
        labels: as many, `IGNORED` where nothing is trained.
        tokenizer: of the language model.
        recordings: start and end of placeholders, in order, and what to show in their place.
    """
    pieces, position = [], 0
    for start, end, name in (*recordings, (len(ids), len(ids), "")):
        for is_trained, run in groupby(range(position, start), lambda i: labels[i] != IGNORED):
            text = tokenizer.decode([ids[i] for i in run])
            pieces.append(f"{OPEN}{text}{CLOSE}" if is_trained else text)
        pieces.append(name)
        position = end
    return "".join(pieces)


def _own_template(tokenizer: Any) -> str:
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise InputError(
            f"{tokenizer.name_or_path or 'tokenizer'}: expected a chat template, found none (a "
            "base model?); use the instruction-tuned model or ask for the plain template"
        )
    return template


def _shape(messages: Sequence[Message]) -> _Shape:
    return tuple(
        (
            message.role,
            "".join("t" if isinstance(part, TextPart) else "a" for part in message.content),
        )
        for message in messages
    )


def _show(messages: Sequence[Message], view: View) -> list[Message]:
    """Return what one view shows of the messages, without their outer whitespace.

    What follows sees plain text and recordings only, so that all that holds of conversations whose
    views differ at the recordings holds of others, too.

    Raises:
        InputError: audio right after words, in either view. Words tokenise differently in
            mid-line, so that the teacher, the CIF count and the CTC target would not mean the same
            tokens.
    """
    shown = []
    for message in messages:
        views = {each: _show_content(message.content, each) for each in get_args(View)}
        for content in views.values():
            _check_line_starts(content)
        shown.append(Message(role=message.role, content=views[view]))
    return shown


def _show_content(content: Sequence[Part], view: View) -> tuple[Part, ...]:
    parts = [_show_part(part, view) for part in content]
    for edge, strip in ((0, str.lstrip), (-1, str.rstrip)):
        while parts and isinstance(part := parts[edge], TextPart):
            parts[edge] = TextPart(text=strip(part.text))
            if strip(part.text) or len(parts) == 1:
                break
            parts.pop(edge)  # nothing is left of it: the next one is the edge
    return tuple(parts)


def _show_part(part: Part, view: View) -> Part:
    if isinstance(part, AudioPart) or view == "student" or part.teacher is None:
        return part
    return TextPart(text=part.teacher)


def _check_line_starts(content: Sequence[Part]) -> None:
    before = ""
    for part in content:
        if isinstance(part, AudioPart) and before and not before.endswith("\n"):
            raise InputError(
                "expected audio at the start of a message or of a line, found it after "
                f"{before[-20:]!r}; end the text before it with a newline"
            )
        before += part.text if isinstance(part, TextPart) else part.audio


def _place_parts(messages: Sequence[Message], tools: Tools) -> list[_Placed]:
    """Return all parts in order."""
    return [
        _Placed(
            part=part,
            message=position,
            closes=i == len(message.content) - 1,
            may_call=bool(tools) and message.role == "assistant",
        )
        for position, message in enumerate(messages)
        for i, part in enumerate(message.content)
    ]


def _explain_refusal(error: Exception, shape: _Shape, *, with_tools: bool) -> str:
    roles = [role for role, _ in shape]
    if with_tools:  # without them it went well
        advice = "write the tools as its makers do, or leave them out"
    elif "system" in roles:
        advice = "put the system prompt into the first user message"
    else:
        advice = "change the order of the messages, or the template"
    reason = " ".join(str(error).split())
    return (
        f"expected a chat template that takes the roles {', '.join(roles)}"
        f"{' and tools' if with_tools else ''}, found one that stops "
        f"with {type(error).__name__}: {reason}; {advice}"
    )
