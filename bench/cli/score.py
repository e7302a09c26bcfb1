"""``bench score``: a network that another tool made, next to the dense one that it is made of."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.cli import arguments, output
from bench.cli.latency import WAIT_S, batches
from bench.errors import SetupError, UsageError

FORMS = ".onnx, .pt2, file:PATH:FUNCTION[:WEIGHTS.safetensors], torchvision:NAME:WEIGHTS, timm:NAME.WEIGHTS or an id"
RUNTIMES = "onnxruntime for ONNX files, else eager"


def add_to(commands: Any) -> None:
    """Add the command to the parser."""
    p = commands.add_parser("score", help="a network that another tool made, on the suite's scales; never ranked")
    p.set_defaults(function=score)
    p.add_argument("file", metavar="FILE", help=FORMS)
    p.add_argument("--like", required=True, metavar="DENSE", help="the dense network it is made of, in the same forms")
    p.add_argument("-d", "--dataset", metavar="NAME|folder:PATH[@SIZE]", help="default: what a record or a file says")
    p.add_argument("--seed", type=arguments.whole, metavar="N", help="which test part, of data sets with folds (0)")
    for name in ("mean", "std"):
        p.add_argument(
            f"--{name}",
            type=arguments.numbers,
            metavar="X[,...]",
            help="of each channel of pixels in 0..1; default: metadata of a file, else the data set's",
        )
    p.add_argument("--claims-macs", metavar="SHARE", help="of the dense MACs, as the tool says: explains a difference")
    p.add_argument(
        "--runtimes",
        type=lambda text: () if text == "none" else tuple(dict.fromkeys(part.strip() for part in text.split(","))),
        metavar="NAME[,...]|none",
        help=f"to time both in ({RUNTIMES})",
    )
    p.add_argument("--batch", type=batches, default=(1, 64), metavar="N[,...]", help="batch sizes to time (1,64)")
    p.add_argument(
        "--bursts", action="store_true", help="several calls of one network in a row, not single ones in turns"
    )
    p.add_argument("--threads", type=arguments.whole, default=1, metavar="N", help="CPU threads (1)")
    p.add_argument(
        "--wait", type=arguments.whole, default=WAIT_S, metavar="S", help=f"longest wait for a quiet machine ({WAIT_S})"
    )
    p.add_argument("--max-bytes", type=arguments.whole, metavar="N", help="of a file (1 GiB)")
    p.add_argument("--save", type=Path, metavar="DIR", help="a new folder for score.json, score.md and score.html")
    arguments.add_places(p, "where runs are, for ids")
    p.add_argument("--download", action="store_true", help="fetch data set and weights if not there")
    arguments.add_plugin(p)
    arguments.add_formats(p, "the score as JSON (kind bench.score)")


def score(chosen: argparse.Namespace) -> int:
    """Score the network; returns the exit code."""
    from bench.deploy.score import Asked, NotTimed
    from bench.deploy.score import score as scored
    from bench.measure.onnx_file import MAX_BYTES
    from bench.measure.quiet import Machine, say
    from bench.records.score import encode
    from leaderboard.render.score_page import page

    if chosen.save:
        require_new(chosen.save)
    asked = Asked(
        file=chosen.file,
        like=chosen.like,
        dataset=chosen.dataset,
        seed=chosen.seed,
        mean=chosen.mean,
        std=chosen.std,
        claims_macs=chosen.claims_macs,
        runtimes=chosen.runtimes,
        batches=tuple(chosen.batch),
        threads=chosen.threads,
        bursts=chosen.bursts,
        machine=Machine(chosen.wait),
        out=chosen.out,
        data_dir=chosen.data_dir,
        download=chosen.download,
        plugins=tuple(chosen.plugin),
        max_bytes=chosen.max_bytes or MAX_BYTES,
    )
    busy = None
    try:
        found = scored(asked, say)
    except NotTimed as error:
        found, busy = error.score, error
    content, shown = encode(found), page(found)
    if chosen.save:
        texts = {"score.json": content.decode(), "score.md": shown.markdown(), "score.html": shown.html()}
        write_folder(chosen.save, texts)
        print(f"bench: {', '.join(texts)} in {chosen.save}", file=sys.stderr)
    if chosen.json:
        output.print_json(json.loads(content))
    else:
        print(shown.text(output.limit(chosen)), flush=True)
    if busy is not None:
        raise busy
    return 0


def require_new(folder: Path) -> None:
    """Raise UsageError where something has the name of a folder that is to be written."""
    if os.path.lexists(folder):
        raise UsageError(f"{folder} is already there: choose another folder")


def write_folder(folder: Path, texts: Mapping[str, str]) -> None:
    """Write a new folder of texts, all of it or nothing. Raises SetupError."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
            made = Path(temporary) / "made"
            made.mkdir()
            for name, text in texts.items():
                (made / name).write_text(text, encoding="utf-8", newline="\n")
            made.rename(folder)
    except OSError as error:
        raise SetupError(f"cannot write {folder}: {error.strerror}; choose another place") from error
