"""Negative numbers in scientific notation, in every verb that takes a number."""

from __future__ import annotations

import argparse
import importlib

import pytest

from vbw_np import cli

NUMBERS = ("-1", "-1.5", "-.5", "-1e-3", "-2.5E+10", "-1e5", "-1_000")


def parser_of(verb: str) -> argparse.ArgumentParser:
    subparsers = cli.ArgumentParser(prog="vbw").add_subparsers()
    importlib.import_module(cli.verbs()[verb][0]).add_commands(subparsers)
    return subparsers.choices[verb]


@pytest.mark.parametrize("verb", sorted(cli.verbs()))
def test_every_option_and_positional_gets_a_negative_number_as_its_value(verb):
    def walk(parser: argparse.ArgumentParser) -> None:
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for inner in action.choices.values():
                    walk(inner)
            elif action.nargs != 0 and action.type is not None:
                for text in NUMBERS:
                    assert parser._parse_optional(text) is None, f"{verb}: {text} would be an option"

    walk(parser_of(verb))


def test_explain_a_block_that_begins_with_one(capsys):
    assert cli.main(["explain", "-1e-3", "1"]) == 0
    assert "-0.001" in capsys.readouterr().out
    assert cli.main(["explain", "--format", "e2m1", "-2.5e-1"]) == 0
    assert cli.main(["explain", "-x", "1"]) == 2
