"""Running on a SLURM cluster through submitit. Only this package may import submitit."""
