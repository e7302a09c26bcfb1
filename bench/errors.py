"""Errors a user can act on. Each carries the exit code of the command that meets it."""

METHOD, ARCHITECTURE, DATA, RECIPE, MACHINE, SUITE = PARTIES = (
    *("method", "architecture", "data", "recipe", "machine", "suite"),
)
"""Whose fault a failed run can be."""


class BenchError(Exception):
    """Base of all expected errors; its text is one line: what, where, what to do.

    Attributes:
        blame: whose fault it is, one of ``PARTIES``, where the place that raises it knows; else see
            :func:`bench.runs.blame.culprit`.
    """

    exit_code = 1
    status = "failed"

    def __init__(self, message: str, blame: str | None = None) -> None:
        super().__init__(" ".join(message.split()))  # messages of other libraries may have several lines
        self.blame = blame


class UsageError(BenchError):
    """The command asks for something that cannot be: a file that is not there, a value out of bounds (exit 2)."""

    exit_code = 2


class Unsupported(UsageError):
    """The method does not work with this network or coupling, as it declares (exit 2)."""


class WordsError(UsageError):
    """The words of the command themselves are wrong: an unknown name, options that exclude each other (exit 2)."""


class SetupError(BenchError):
    """This machine cannot do it: no device, data not there, folder not writable (exit 3)."""

    exit_code = 3


class NoRoom(SetupError):
    """The disk has less room than a run may need (exit 3); ``needed``: that, in bytes."""

    def __init__(self, message: str, needed: int) -> None:
        super().__init__(message)
        self.needed = needed


class RunFailed(BenchError):
    """The run started and failed: a method broke its contract, a check did not hold (exit 1)."""


class Diverged(RunFailed):
    """The training loss is no longer finite (exit 1)."""

    status = "diverged"
