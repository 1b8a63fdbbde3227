"""A sample as HTML."""

from datamodules.errors import count_of
from datamodules.shards.schema import VIDEO_MARK
from membridge.sample_page.html_text import escaped, message
from membridge.sample_page.media_html import medium_html, problem_html
from membridge.sample_page.shown_sample import ShownConversation, ShownSample

_OPEN_CONVERSATIONS = 3
_MOST_META = 20


def sample_html(sample: ShownSample, name: str) -> str:
    """A sample.

    Args:
        sample: The sample.
        name: Anchor of it in the page.
    """
    state = "wrong" if sample.problems else "right"
    problem = "" if sample.problem is None else problem_html(*sample.problem)
    several = sample.num_media > 1
    media = "".join(medium_html(medium, number if several else None) for number, medium in enumerate(sample.media))
    return (
        f'<article class="sample {state}" id="{name}">{_head(sample)}{problem}{media}'
        f"{_rest(sample.num_media - len(sample.media), 'medium', 'media')}"
        f"{_conversations(sample)}{_raw(sample)}</article>"
    )


def _head(sample: ShownSample) -> str:
    kinds = dict.fromkeys(problem.kind for problem in sample.problems)
    badges = "".join(f'<span class="badge bad">{escaped(kind)}</span>' for kind in kinds)
    meta = "".join(f"<span><i>{escaped(name)}</i> {escaped(value)}</span>" for name, value in sample.meta[:_MOST_META])
    return (
        f'<header><h2 dir="auto">{escaped(sample.key)}</h2><span class="badge">{sample.modality}</span>{badges}'
        f'<p class="facts"><span><i>source</i> {escaped(sample.source)}</span>'
        f"<span><i>shard</i> {message(sample.shard)}</span>{meta}</p></header>"
    )


def _conversations(sample: ShownSample) -> str:
    every = [_conversation(one, several=sample.num_media > 1) for one in sample.conversations]
    num_open = max(_OPEN_CONVERSATIONS, sum(one.problem is not None for one in sample.conversations))
    shown, more = "".join(every[:num_open]), every[num_open:]
    if more:
        title = f"{count_of(len(more), 'more conversation')}"
        shown += f'<details><summary>{title}</summary><div class="talks">{"".join(more)}</div></details>'
    rest = _rest(sample.num_conversations - len(every), "conversation", "conversations")
    return f'<div class="talks">{shown}</div>{rest}' if shown else rest


def _conversation(one: ShownConversation, *, several: bool) -> str:
    facts = [f"<span>{escaped(one.id)}</span>"]
    if one.category:
        facts.append(f'<span class="badge">{escaped(one.category)}</span>')
    if one.num_tokens is not None:
        facts.append(f"<span>{count_of(one.num_tokens, 'text token')}</span>")
    if one.num_unknown:
        facts.append(f'<span class="warning">{count_of(one.num_unknown, "unknown word")}</span>')
    problem = "" if one.problem is None else problem_html(*one.problem)
    numbers = iter(one.media)
    turns = ""
    for turn in one.turns:
        marks = [next(numbers, None) if turn.role == "user" else None for _ in range(turn.content.count(VIDEO_MARK))]
        text = _marked(turn.content, marks, several=several)
        turns += f'<div class="turn {_role(turn.role)}"><b>{escaped(turn.role)}</b><p dir="auto">{text}</p></div>'
    answer = next((turn.content.strip() for turn in one.turns if turn.role == "assistant"), None)
    options = "".join(
        f'<span class="option{" chosen" if option.strip() == answer else ""}">{escaped(option)}</span>'
        for option in one.options
    )
    options = f'<div class="options"><b>options</b>{options}</div>' if options else ""
    return f'<div class="talk"><div class="facts">{"".join(facts)}</div>{problem}{turns}{options}</div>'


def _role(role: str) -> str:
    return role if role in ("user", "assistant", "system") else "other"


def _marked(text: str, marks: list[int | None], *, several: bool) -> str:
    """A turn's text, in which the video marks stand out."""
    parts = [escaped(part) for part in text.split(VIDEO_MARK)]
    shown = parts[0]
    for part, number in zip(parts[1:], marks, strict=True):
        what = f"medium {number}" if several and number is not None else "video"
        shown += f'<span class="mark">{what}</span>{part.removeprefix(chr(10)) if not shown else part}'
    return shown


def _raw(sample: ShownSample) -> str:
    if not sample.raw_text:
        return ""
    return f'<details open><summary>its JSON begins</summary><pre dir="auto">{escaped(sample.raw_text)}</pre></details>'


def _rest(number: int, noun: str, nouns: str) -> str:
    return f'<p class="more">and {number:,} more {noun if number == 1 else nouns}</p>' if number > 0 else ""
