"""How often a board finds what is not there, and what is: simulated accuracies through the real board.

    python -m tools.timing.null_boards [BOARDS]

Every board has one table of methods with five paired seeds: a run's accuracy is the method's true one, plus what the
seed does to all methods alike, plus noise of its own, counted in whole test images.
"""

import sys
import time

import numpy as np
import pandas as pd

from leaderboard.reader.extract import COLUMNS
from leaderboard.stats.boards import build

SEEDS = 5
SHARED = 0.3
"""Standard deviation, in points, of what a seed does to all methods alike."""


def frame(boards, methods, sigma, images, lead, rng):
    """Records of so many boards as the frame that ``leaderboard.load`` would give; ``m0`` leads by ``lead`` points."""
    shape = (boards, methods, SEEDS)
    right = 93 + rng.normal(0, SHARED, (boards, 1, SEEDS)) + rng.normal(0, sigma, shape)
    right[:, 0] += lead
    board, method, seed = (axis.ravel() for axis in np.indices(shape))
    values = dict.fromkeys(COLUMNS)
    names = np.array([f"m{k}" for k in range(methods)])[method]
    spec = [f"{b:06d}{m:06d}".ljust(64, "0") for b, m in zip(board, method, strict=True)]
    values |= {
        **{"status": "ok", "track": "matched", "kind": "macs", "keep_share": 0.5, "recipe": "r", "dataset": "d"},
        **{"file": [f"{s}{k}" for s, k in zip(spec, seed, strict=True)], "record_sha256": spec, "spec_sha256": spec},
        **{"id": [f"{s[:12]}-s{k}" for s, k in zip(spec, seed, strict=True)], "arch": [f"net{b}" for b in board]},
        **{"method": names, "name": names, "seed": seed, "test_images": images, "finetune_plan": "[]", "epochs": 1},
        **{"final_wrong_images": np.round((100 - right) / 100 * images).ravel().clip(0, images)},
        **{"dense_macs": 200, "final_macs": 100, "dense_params": 2, "final_params": 1, "training_macs": 1},
        **{"code_changed": False, "busy": False, "at_once": 1},
    }
    made = pd.DataFrame(values, columns=list(COLUMNS))
    made.attrs |= {"problems": (), "root": ""}
    return made


def shares(*wanted):
    """Share of boards where any two rows differ significantly, and where the first differs from all others."""
    boards, _ = build(frame(*wanted))
    tables = [board.tables[0] for board in boards]
    winners = sum(any(row.rank > 1 for row in table.rows) for table in tables)
    leads = sum(all(row.rank > 1 for row in table.rows if row.name != "m0") for table in tables)
    return winners / len(tables), leads / len(tables)


def main():
    boards = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    began = time.perf_counter()
    print(f"{boards} boards each, {SEEDS} seeds; equal true accuracy: share of boards that declare any winner")
    for images, sigma in ((10_000, 0.2), (355, 0.3), (355, 0.1)):
        for methods in (2, 5, 10, 30):
            found, _ = shares(boards, methods, sigma, images, 0.0, np.random.default_rng(methods))
            margin = 1.96 * np.sqrt(found * (1 - found) / boards)
            print(
                f"  {methods:3} methods, sigma {sigma}, {images:6,} images: {100 * found:4.1f} % ± {100 * margin:.1f}"
            )
    print("one method 0.5 points better, sigma 0.2, 10,000 images: share of boards that find it better")
    for methods in (2, 3, 5, 10):
        _, found = shares(boards, methods, 0.2, 10_000, 0.5, np.random.default_rng(methods))
        print(f"  than {methods - 1} other{'s' * (methods > 2)}: {100 * found:4.1f} %")
    print(f"{time.perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
