"""Streamed images: the same batches whatever the number of workers, and errors that name the file."""

import dataclasses

import pytest
import torch
from support.image_folders import pixels, save, write_folder
from torch import nn

from bench.data.image_files import class_folders, to_tensor
from bench.data.image_set import Images, augmented
from bench.data.image_stream import CHUNK, Decoder, Stream, decode_all, workers_for
from bench.errors import SetupError
from bench.measure.accuracy import logits_of
from bench.progress import Progress

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
AUGMENTS = ("none", "shift", "crop_flip", "resized_crop")
MEAN, STD = torch.tensor([100.0, 110.0, 120.0]).reshape(1, 3, 1, 1), torch.full((1, 3, 1, 1), 50.0)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def make(tmp_path):
    """A stream of pictures of differing sizes."""
    files = []
    for label, name in enumerate(("a", "b")):
        for k in range(60):
            save(tmp_path / f"train/{name}/{k:03d}.png", 100 * label + k, size=(20 + k % 7, 18 + k % 5))
    files, _ = class_folders(tmp_path, "train")

    def stream(workers=0, shape=(3, 16, 16), shorter=18):
        said = []
        made = Stream(files, shape, shorter, files.labels, MEAN, STD, workers, said.append)
        return made, said

    return stream


def same(first, second):
    return all(torch.equal(a, b) and torch.equal(k, m) for (a, k), (b, m) in zip(first, second, strict=True))


@pytest.mark.parametrize("augment", AUGMENTS)
def test_batches_do_not_depend_on_the_workers(make, augment):
    passes = [list(make(workers)[0].batches(48, generator(3), augment, drop_last=True)) for workers in (0, 1, 2)]
    assert [len(y) for _, y in passes[0]] == [48, 48]
    assert same(passes[0], passes[1])
    assert same(passes[0], passes[2])


def test_batches_larger_than_a_chunk(make):
    assert CHUNK < 100
    stream, _ = make(2)
    (x, y), (last, _) = list(stream.batches(100))
    assert (len(x), len(last)) == (100, 20)
    assert torch.equal(y, stream.labels[:100])
    assert torch.equal(x, torch.cat([part for part, _ in stream.batches(7)])[:100])


def test_generator_decides_all_and_advances(make):
    stream, _ = make()
    going_on = generator(1)
    first, second = (
        list(stream.batches(40, going_on, "resized_crop")),
        list(stream.batches(40, going_on, "resized_crop")),
    )
    assert same(first, stream.batches(40, generator(1), "resized_crop"))
    assert not same(first, second)
    labels = torch.cat([y for _, y in first])
    assert labels.tolist() != stream.labels.tolist()
    assert labels.sum() == 60


def test_augmentation_uses_no_other_generator(make):
    before = torch.get_rng_state()
    for workers in (0, 1):
        list(make(workers)[0].batches(40, generator(1), "resized_crop"))
    assert torch.equal(torch.get_rng_state(), before)


def test_stream_of_ready_images_equals_images_in_memory(folder):
    files, _ = class_folders(folder, "train")
    whole = torch.stack([torch.from_numpy(pixels(10_000 + 1000 * (k // 10) + k % 10)) for k in range(30)])
    kept = Images(whole.permute(0, 3, 1, 2).contiguous(), files.labels, MEAN, STD)
    stream = Stream(files, (3, 8, 8), None, files.labels, MEAN, STD, 0, lambda text: None)
    assert same(stream.batches(7), kept.batches(7))
    assert same(stream.batches(7, generator(5)), kept.batches(7, generator(5)))  # the same order
    assert same(stream.mixed(7, 5), kept.mixed(7, 5))
    assert torch.equal(stream.first(5), kept.first(5))
    network = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    assert torch.equal(logits_of(network, stream), logits_of(network, kept))
    assert torch.equal(decode_all(files, (3, 8, 8), None, "train", Progress("", quiet=True)), kept.pixels)


@pytest.mark.parametrize("workers", [0, 2])
def test_mixed_order_is_the_seeds_and_the_same_in_every_pass(make, workers):
    stream, said = make(workers)
    first, other = list(stream.mixed(50, 3)), list(stream.mixed(50, 4))
    assert [len(y) for _, y in first] == [50, 50, 20]
    assert all(10 <= y.sum() <= 40 for _, y in first[:2])  # the files lie class by class, 60 of each
    assert same(first, make()[0].mixed(50, 3))
    assert not torch.equal(first[0][1], other[0][1])
    assert torch.equal(torch.cat([y for _, y in other]).bincount(), torch.tensor([60, 60]))
    assert said == []


@pytest.mark.parametrize("augment", ["shift", "crop_flip"])
def test_augmentation_is_that_of_the_centred_image(make, augment):
    stream, _ = make()
    centred = Decoder(stream.files, (3, 16, 16), 18)[[(5, None)]]
    moved = Decoder(stream.files, (3, 16, 16), 18, augment)[[(5, 77)]]
    assert torch.equal(moved, augmented(centred, augment, generator(77)))


def test_resized_crop_is_of_the_whole_image(tmp_path):
    from PIL import Image

    from bench.data.image_set import crop_boxes

    save(tmp_path / "train/a/0.png", 1, size=(40, 30))
    files, _ = class_folders(tmp_path, "train")
    found = Decoder(files, (3, 8, 8), 9, "resized_crop")[[(0, 5)]][0]
    top, left, rows, columns = crop_boxes(1, 30, 40, generator(5))[0].tolist()
    cut = Image.fromarray(pixels(1, (40, 30))).crop((left, top, left + columns, top + rows))
    expected = to_tensor(cut.resize((8, 8), Image.Resampling.BILINEAR))
    assert torch.equal(found, expected) or torch.equal(found, expected.flip(2))


def test_mirroring_draws_both_directions(tmp_path):
    save(tmp_path / "train/a/0.png", 1, size=(8, 8))
    files, _ = class_folders(tmp_path, "train")
    decoder = Decoder(files, (3, 8, 8), 8, "crop_flip")
    assert len({decoder[[(0, seed)]].numpy().tobytes() for seed in range(40)}) > 10


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_file_that_has_gone_bad_is_named(make, workers):
    stream, _ = make(workers)
    path = stream.files.root / stream.files.names[70]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(SetupError, match=r"train/b/010.png: damaged") as caught:
        list(stream.batches(16))
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)
    path.unlink()
    with pytest.raises(SetupError, match=r"train/b/010.png"):
        list(stream.batches(16))


def test_image_of_other_size_is_named_without_resizing(folder):
    save(folder / "train/dog/004.png", 1, size=(9, 8))
    files, _ = class_folders(folder, "train")
    with pytest.raises(SetupError, match=r"train/dog/004.png: 9x8 pixels, not 8x8"):
        decode_all(files, (3, 8, 8), None, "train", Progress("", quiet=True))


def test_finished_augmented_passes_are_reported(make):
    stream, said = make(1)
    list(stream.batches(50))
    next(stream.batches(50, generator()))
    assert said == []
    list(stream.batches(50, generator(), "crop_flip", drop_last=True))
    (text,) = said
    assert "images/s (workers: 1), training waited" in text
    assert "%" in text


def test_pass_inside_a_pass(make):
    """A method may look at the training images in the middle of an epoch."""
    stream, _ = make(1)
    alone = list(stream.batches(50, generator(2)))
    nested = []
    for batch in stream.batches(50, generator(2)):
        nested.append(batch)
        assert len(list(stream.batches(60))) == 2
    assert same(alone, nested)


def test_workers_leave_room_for_training(monkeypatch):
    from bench.data import image_stream as module

    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for cores, threads, beside_cpu, beside_gpu in ((1, 1, 1, 1), (2, 2, 1, 1), (8, 2, 6, 7), (64, 8, 16, 16)):
        monkeypatch.setattr(module, "cores", lambda cores=cores: cores)
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert (workers_for(cpu), workers_for(gpu)) == (beside_cpu, beside_gpu)


def test_many_images_are_decoded_by_several_processes(tmp_path, monkeypatch):
    from bench.data import image_stream as module

    monkeypatch.setattr(module, "ALONE", 10)
    monkeypatch.setattr(module, "cores", lambda: 2)
    files, _ = class_folders(write_folder(tmp_path, train=60), "train")
    alone = Decoder(files, (3, 8, 8), 8)[[(k, None) for k in range(180)]]
    assert torch.equal(decode_all(files, (3, 8, 8), 8, "train", Progress("", quiet=True)), alone)


def test_stream_cannot_be_changed(make):
    with pytest.raises(dataclasses.FrozenInstanceError):
        make()[0].workers = 3
