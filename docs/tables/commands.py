"""The commands of `tidegate`, with their arguments and options."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Iterable

from docs.tables.markdown import table
from tidegate.service import cli, makers


def commands() -> str:
    """Return a section for each command of `tidegate`, with its arguments and options."""
    return "\n".join(_section(name, parser) for name, parser in parsers().items())


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Return the parser of every command, by its words, such as `tidegate bundle inspect`."""
    found = {}
    for name, parser in _leaves("tidegate", cli.parser()):
        if name.removeprefix("tidegate ") in makers.COMMANDS:
            module, _ = makers.COMMANDS[name.removeprefix("tidegate ")]
            parser = importlib.import_module(f"tidegate.models.commands.{module}").parser()
        found[name] = parser
    return found


def _leaves(
    name: str, parser: argparse.ArgumentParser
) -> Iterable[tuple[str, argparse.ArgumentParser]]:
    below = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
    if not below:
        yield name, parser
    for action in below:
        helps = {choice.dest: choice.help for choice in action._get_subactions()}
        for word, child in action.choices.items():
            child.description = child.description or helps.get(word)
            yield from _leaves(f"{name} {word}", child)


def _section(name: str, parser: argparse.ArgumentParser) -> str:
    description = (parser.description or "").rstrip(".").replace("\n", " ")
    rows = []
    for action in parser._actions:
        if isinstance(action, argparse._HelpAction):
            continue
        default = action.default if action.option_strings and action.default else None
        text = (action.help or "") % {**vars(action), "prog": name}
        if isinstance(action.choices, (tuple, list)):
            text = f"{text}; one of {', '.join(f'`{choice}`' for choice in action.choices)}"
        if default is not None and "default" not in text and not isinstance(default, list):
            text = f"{text} (default: {default})"
        needed = action.required and action.nargs != "*"
        rows.append(
            (_spelt(action), "yes" if needed else "", text.lstrip("; ").replace("<", "\\<"))
        )
    arguments = f"\n{table(('argument', 'required', 'meaning'), rows)}\n" if rows else ""
    return f"## {name}\n\n{description[:1].upper()}{description[1:]}.\n{arguments}"


def _spelt(action: argparse.Action) -> str:
    value = action.metavar or action.dest.upper()
    value = value if isinstance(value, str) else " ".join(value)
    if not action.option_strings:
        return f"`{value}`{' …' if action.nargs == '*' else ''}"
    if action.nargs == 0:
        return ", ".join(f"`{option}`" for option in action.option_strings)
    values = " ".join([value] * (action.nargs if isinstance(action.nargs, int) else 1))
    return f"`{action.option_strings[-1]} {values}`"
