"""A real SLURM on one machine, for development and tests: SLURM's own daemons as plain processes in one folder.

No systemd, no containers, no cgroups and, once the packages are there, no root. GPUs are pretended.
"""

from tools.devcluster.cluster import DevCluster

__all__ = ["DevCluster"]
