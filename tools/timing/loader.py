"""Throughput of streamed images, and of the same decoding in a bare loop: synthetic JPEGs of ImageNet's usual size.

python -m tools.timing.loader [--images N] [--rounds N]
"""

import argparse
import os
import resource
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from bench.data.image_files import Files
from bench.data.image_stream import Decoder, Stream, cores

SHAPE, SHORTER = (3, 224, 224), 256
SIZE = (500, 375)


def images(folder: Path, count: int) -> Files:
    """Smooth patterns under a little noise, so that the files have about the size of photographs (110 kB)."""
    rng = np.random.default_rng(0)
    names = [f"{k:05d}.jpg" for k in range(count)]
    for name in names:
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
            SIZE, Image.Resampling.BICUBIC
        )
        noisy = np.asarray(coarse, dtype=np.int16) + rng.integers(-14, 15, (SIZE[1], SIZE[0], 1))
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name, quality=90)
    return Files.of(folder, names, [0] * count)


def bare(files: Files, augment: str) -> float:
    """Images a second of the same decoding, one after the other in this process."""
    decoder = Decoder(files, SHAPE, SHORTER, augment)
    began = time.perf_counter()
    for index in range(len(files)):
        decoder[[(index, index)]]
    return len(files) / (time.perf_counter() - began)


def streamed(files: Files, augment: str, workers: int) -> float:
    """Images a second of a pass over a stream, with nobody training; starting the workers included."""
    ones = torch.ones(1, 3, 1, 1)
    stream = Stream(files, SHAPE, SHORTER, files.labels, ones, ones, workers, lambda text: None)
    began = time.perf_counter()
    generator = torch.Generator().manual_seed(0)
    batches = torch.randperm(len(files), generator=generator).split(256)
    for _ in stream.decoded(batches, generator, augment):
        pass
    return len(files) / (time.perf_counter() - began)


def cpu_seconds() -> float:
    """Of this process and of its finished workers."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def main() -> None:
    """Measure in turn and print medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files = images(Path(folder), chosen.images)
        print(
            f"{len(files)} JPEGs of {SIZE[0]}x{SIZE[1]}, {float(files.stats[:, 0].float().mean()) / 1000:.0f} kB each"
        )
        for augment in ("resized_crop", "none"):
            ways = {"bare loop": partial(bare, files, augment)}
            ways |= {f"{n} workers": partial(streamed, files, augment, n) for n in sorted({1, 2, cores()})}
            rates: dict[str, list[float]] = {name: [] for name in ways}
            costs: dict[str, list[float]] = {name: [] for name in ways}
            for _ in range(chosen.rounds):
                for name, measure in ways.items():
                    before = cpu_seconds()
                    rates[name].append(measure())
                    costs[name].append(1000 * (cpu_seconds() - before) / len(files))
            alone = np.array(rates["bare loop"])
            for name in ways:
                print(
                    f"{augment:12} {name:10} {np.median(rates[name]):6.0f} images/s, "
                    f"{np.median(rates[name] / alone):.2f} of the bare loop, "
                    f"{np.median(costs[name]):.2f} ms of CPU an image"
                )
    print(f"load {os.getloadavg()[0]:.1f} on {cores()} cores")


if __name__ == "__main__":
    main()
