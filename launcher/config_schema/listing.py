"""Lists the keys of the run config, for a terminal and as the page docs/config.md."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence

from launcher.config_schema.sections import Key, Methods, Section
from settings import UserError
from settings.errors import nearest


def find(parts: Sequence[Section | Methods], word: str) -> list[Section | Methods]:
    """Returns what is called `word` (a section; a method, as `optim.conda` or `conda`; a key), else what mentions it.

    A place that takes methods lists their names only. Raises UserError with the nearest name if nothing is found.
    """
    wanted = word.strip(".")
    methods = [part for part in parts if isinstance(part, Section) and part.method == wanted]
    places = [part for part in parts if _short(part.path) == wanted]
    named = [part for part in parts if isinstance(part, Section) and _short(part.title) == wanted]
    if not places and not named and not _only(parts, lambda key: _short(key.name) == wanted):
        named = methods
    if places or named:
        if any(isinstance(part, Methods) for part in places):
            places = [part for part in places if isinstance(part, Methods)]
        else:
            places = [part for part in parts if f"{_short(part.path)}.".startswith(f"{wanted}.")]
        nested = [
            part
            for part in parts
            for section in named
            if section.method and isinstance(part, Section) and section.method in part.of
            if part.path.startswith(f"{section.path}.")
        ]
        found = [*named, *places, *nested]
        return [part for index, part in enumerate(found) if part not in found[:index]]
    exact = _only(parts, lambda key: _short(key.name) == wanted)
    keys = exact or _only(parts, lambda key: word.lower() in f"{key.name} {key.description}".lower())
    if not keys:
        known = [_short(part.title) for part in parts if isinstance(part, Section)]
        known += [_short(key.name) for part in parts if isinstance(part, Section) for key in part.keys]
        raise UserError(f'no section, method, key or description has "{word}"{nearest(wanted, set(known))}')
    return list(keys)


def _only(parts: Iterable[Section | Methods], matches: Callable[[Key], bool]) -> list[Section]:
    """Returns the sections that have keys for which `matches` holds, with these keys only."""
    found = []
    for part in parts:
        if isinstance(part, Section) and (keys := tuple(key for key in part.keys if matches(key))):
            found.append(Section(part.path, part.method, part.of, "", keys))
    return found


def _short(path: str) -> str:
    """Returns a path as it is typed to find it, without the parts that the user chooses (NAME and N)."""
    return ".".join(part for part in path.split(".") if part not in ("N", "NAME"))


def text(parts: Iterable[Section | Methods], *, width: int | None) -> str:
    """Returns the listing for a terminal of `width` columns; None means that no line is broken, for a pipe."""
    lines: list[str] = []
    for part in parts:
        lines += ["", *_wrapped(_heading(part), "", width), *_wrapped(_paragraphs(part.description), "  ", width)]
        if isinstance(part, Methods):
            lines += _wrapped(_method_note(part), "  ", width)
            names = part.names if part.listed_at is None else {}
            lines += [line for name in names for line in _wrapped(f"{name}: {part.names[name]}", "    ", width, "  ")]
        else:
            lines += [line for key in part.keys for line in _key_lines(key, width)]
    return "\n".join(lines[1:])


def _key_lines(key: Key, width: int | None) -> list[str]:
    facts = [key.type, *([key.rule] if key.rule else []), _default(key)]
    lines = _wrapped(f"{key.name}: {'; '.join(facts)}", "  ", width, "    ")
    lines += _wrapped(key.description, "      ", width)
    if key.may_change:
        lines += _wrapped(f"May change when a run goes on: {key.may_change}.", "      ", width)
    return lines


def _default(key: Key) -> str:
    return "required" if key.default is None else f"default {key.default}"


def _heading(part: Section | Methods) -> str:
    if isinstance(part, Methods) or part.method is None:
        of = f" (with {', '.join(part.of)})" if isinstance(part, Section) and part.of else ""
        return f"{part.path}{of}"
    return f"{part.path}: {part.method}"


def _method_note(part: Methods) -> str:
    if part.listed_at is not None:
        return f"One of the methods listed at {part.listed_at}: {', '.join(part.names)}."
    return f"One of these methods, by name or as a mapping with a `name`. Their keys: {_short(part.path)}.METHOD"


def _paragraphs(description: str) -> str:
    """Returns a docstring without its line breaks."""
    return " ".join(description.split())


def _wrapped(words: str, indent: str, width: int | None, hanging: str = "") -> list[str]:
    if not words:
        return []
    if width is None:
        return [indent + words]
    return textwrap.wrap(
        words,
        max(width, 40),
        initial_indent=indent,
        subsequent_indent=indent + hanging,
        break_long_words=False,
        break_on_hyphens=False,
    )


def page(parts: Iterable[Section | Methods]) -> str:
    """Returns the page docs/config.md."""
    lines = [
        "# The keys of a run config",
        "",
        "`make generated` writes this page from the code, with `lehr config keys --markdown`; do not edit it. On a "
        "terminal, `lehr config keys WORD` shows a part of it. A key that may change when a run goes on says why; all "
        "others make another run of it.",
        "",
        "`NAME` is a name of your choice, `N` the number of an item of a list, counted from 0.",
    ]
    for part in parts:
        lines += ["", f"## {_heading(part)}", ""]
        if part.description:
            lines += [_paragraphs(part.description), ""]
        if isinstance(part, Methods):
            lines += [_method_note(part), ""]
            lines += [f"- `{name}`: {said}" for name, said in part.names.items() if part.listed_at is None]
        elif part.keys:
            lines += ["| key | type | default | description |", "| --- | --- | --- | --- |"]
            lines += [_row(key) for key in part.keys]
        else:
            lines += ["It has no keys of its own."]
    return "\n".join(lines).rstrip() + "\n"


def _row(key: Key) -> str:
    kind = f"{key.type}; {key.rule}" if key.rule else key.type
    said = key.description + (f" May change when a run goes on: {key.may_change}." if key.may_change else "")
    default = "required" if key.default is None else f"`{key.default}`"
    cells = (f"`{key.name}`", kind, default, said)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
