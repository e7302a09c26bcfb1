"""Requests and specifications of the words that a user types after ``bench``."""

from bench.cli import parser
from bench.runs.resolve import resolve
from bench.spec.request import RunOptions, RunRequest
from bench.spec.spec import Spec


def request_of(*words: object) -> RunRequest:
    """The request of ``bench run`` with these words."""
    return RunRequest.from_args(parser().parse_args(["run", *map(str, words)]))


def specs_of(*words: object) -> list[Spec]:
    """Its specifications."""
    chosen = parser().parse_args(["run", *map(str, words)])
    return resolve(RunRequest.from_args(chosen), RunOptions.from_args(chosen), writes=False)[0]
