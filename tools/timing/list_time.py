"""How long ``python -m bench list`` takes, compared with an interpreter that does nothing.

python -m tools.timing.list_time
"""

import subprocess
import sys
import time

import numpy as np


def main() -> None:
    """Measure and print."""
    commands = {"python -c pass": ["-c", "pass"], "python -m bench list": ["-m", "bench", "list"]}
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(11):
        for name, arguments in commands.items():
            began = time.perf_counter()
            subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - began)
    for name, values in times.items():
        print(f"{name:22} {np.median(values):.3f} s")


if __name__ == "__main__":
    main()
