"""Running on a SLURM cluster through submitit. Only this package may import submitit."""

CLUSTERS = ("inline", "local", "debug", "slurm")
"""Where runs can be carried out: this process, processes of this machine, this process as a job, SLURM."""
