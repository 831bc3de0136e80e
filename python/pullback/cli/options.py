"""Arguments and options that several commands take."""

from __future__ import annotations

from typing import Annotated

import typer

from pullback.cli.loading import DTYPES

Model = Annotated[
    str, typer.Argument(help="A name of the zoo (digits), a diffusers folder, or a hub id.")
]
Device = Annotated[str, typer.Option(help="Where to compute: cpu, cuda, cuda:1, ...")]
Dtype = Annotated[
    str | None, typer.Option(help=f"Dtype of the network: {', '.join(DTYPES)}; as saved if unset.")
]
Call = Annotated[
    list[str] | None,
    typer.Option(
        help="What the pipeline's call needs beside a prompt, as name=value: a number, true, "
        "false, a text, or the path of an image; give it again for more."
    ),
]
Prompt = Annotated[
    list[str] | None,
    typer.Option(help="Prompt of all samples; give it again for one prompt a sample."),
]
ClassLabel = Annotated[
    str | None,
    typer.Option(help="Class of all samples, or one for each: 3 or 0,1,2; none if unset."),
]
Tap = Annotated[
    str | None,
    typer.Option(help="Where h is read, as path or path:index; see `pullback taps MODEL`."),
]
Quality = Annotated[
    str, typer.Option(help="draft, standard or tight: bound 5e-2, 2e-3 or 1e-4 on the sine.")
]
Figures = Annotated[bool, typer.Option(help="Draw figures beside the results.")]
Strength = Annotated[
    float, typer.Option("--strength", "-a", help="How far the figures move along directions.")
]
Memory = Annotated[
    str | None,
    typer.Option(help="Memory budget of a pass, such as 4GiB; a share of what is free if unset."),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Compute again what the folder already holds.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON object on stdout, and nothing else there.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
