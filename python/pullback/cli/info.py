"""`pullback info` and `pullback taps`."""

from __future__ import annotations

from typing import Annotated

import typer

from pullback.cli.loading import load
from pullback.cli.options import AsJson, Call, Debug, Device, Dtype, Model
from pullback.cli.parsing import parse_call
from pullback.cli.tables import print_installation, print_json, print_model, print_taps


def taps(
    model: Model,
    device: Device = "cpu",
    dtype: Dtype = None,
    call: Call = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """Where the features of a model can be read, with their shapes and cost."""
    loaded = load(model, device, dtype, parse_call(call))
    from pullback.cli.description import describe_taps

    found = describe_taps(loaded)
    if as_json:
        print_json({"default": loaded.default_tap, "taps": found})
    else:
        print_taps(found, loaded.default_tap)


def info(
    model: Annotated[
        str | None, typer.Argument(help="A model to describe: zoo name, folder or hub id.")
    ] = None,
    device: Device = "cpu",
    dtype: Dtype = None,
    call: Call = None,
    as_json: AsJson = False,
    debug: Debug = False,  # noqa: ARG001 - read by `reported`
) -> None:
    """What is installed and usable here; or, with MODEL, its shapes, schedule and taps."""
    from pullback.cli.description import describe_installation, describe_model

    if model is None:
        found, show = describe_installation(), print_installation
    else:
        found, show = describe_model(load(model, device, dtype, parse_call(call))), print_model
    if as_json:
        print_json(found)
    else:
        show(found)
