"""What tests of batch scripts share: a batch for a profile, and the options of a script."""

import shlex

from support import batches


def batch_of(out, profile, elements=1, **changes):
    """Runs of a network, so many a job."""
    per = profile.runs_per_job
    runs = [batches.spec_of(seed) for seed in range(elements * per)]
    values = {
        "token": "0123abcd",
        "elements": tuple(tuple(run.id for run in runs[k : k + per]) for k in range(0, len(runs), per)),
        "count": elements,
        "processes": profile.runs_at_once,
        "minutes": profile.minutes,
        "signal_delay_s": profile.signal_delay_s,
    }
    return batches.batch_of(out, *runs, **values | changes)


def flags(text):
    """Options of a script."""
    found = [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH --")]
    return {line.partition("=")[0]: "".join(shlex.split(line.partition("=")[2])) for line in found}
