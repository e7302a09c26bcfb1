"""A cluster in the place of SLURM."""

from dataclasses import replace

from bench.errors import SetupError
from slurm.batch import Batch
from slurm.cluster import WAITING, TooMany


class Cluster:
    """Remembers what it is told, refuses and is silent when it should; its jobs have the numbers after ``first``."""

    def __init__(self, first):
        self.number, self.largest = first, 1001
        self.alive, self.ended = {}, {}
        self.submitted, self.withdrawn, self.cancelled = [], [], []
        self.refuse_at, self.silent, self.unaccounted = None, False, False
        self.refusal = "sbatch refused: Invalid qos"
        self.limit = None  # of jobs that have not ended
        self.meanwhile = lambda batch: None  # while a batch is handed over
        self.asked, self.looking = [], lambda: None  # batches asked for; while that is done

    def max_array_size(self):
        return self.largest

    def submit(self, batch, profile, after):
        found = Batch.load(batch.file)  # as a job that starts at once does
        assert (found.tasks, found.elements, found.jobs) == (batch.tasks, batch.elements, ())
        assert len(after) == batch.count
        self.meanwhile(batch)
        if self.refuse_at == len(self.submitted):
            raise SetupError(self.refusal)
        count = batch.count
        if self.limit is not None and len(self.alive) + count > self.limit:
            raise TooMany("sbatch refused: Job violates accounting/QOS policy (job submit limit)")
        self.number += 1
        ids = (str(self.number),) if count == 1 else tuple(f"{self.number}_{k}" for k in range(count))
        self.alive |= dict.fromkeys(ids, (WAITING, "Resources"))
        accepted = replace(batch, jobs=ids)
        self.submitted.append((accepted, [list(jobs) for jobs in after]))
        return accepted

    def live(self, batches):
        self.asked.append([batch.token for batch in batches])
        if self.silent:
            raise SetupError("SLURM does not answer")
        found = {job: self.alive[job] for batch in batches for job in batch.jobs if job in self.alive}
        self.looking()
        return found

    def ends(self, jobs):
        if self.unaccounted:
            raise SetupError("sacct: Slurm accounting storage is disabled")
        return {job: self.ended[job] for job in jobs if job in self.ended}

    def cancel(self, batches, jobs):
        self.cancelled += jobs
        for job in jobs:
            self.ended[job] = "CANCELLED by 0"
            self.alive.pop(job, None)

    def withdraw(self, batch):
        self.withdrawn.append(batch.token)
