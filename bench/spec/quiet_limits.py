"""How quiet a machine has to be while something is timed: for what measures, and for what reads measurements."""

OTHERS_CORES, STOLEN = 0.05, 0.01
"""Most CPU time of other processes, in cores, and most stolen time, as a share of all cores."""
