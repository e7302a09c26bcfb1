"""``folder:PATH``: names, rules, what is refused, and runs on a folder in memory and streamed."""

import shutil
import signal
from pathlib import Path

import pytest
import torch
from support.image_folders import CLASSES, encoded, resolved, save, write_folder

from bench.data.loading import Images, Stream, find, load_test, load_training, resolve
from bench.errors import SetupError, UsageError
from bench.records import store
from bench.runs.execute import execute
from bench.runs.resolve import default_recipe
from bench.runs.verify import verify_file
from bench.spec.request import RunOptions
from bench.training.loop import PhaseTrainer

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
CPU = torch.device("cpu")


def load(folder, size=None, cache=None, seed=0):
    name, data_dir = resolved(folder, size)
    return load_training(name, data_dir, False, seed, CPU, cache)


# --- names ---------------------------------------------------------------------------------------------------


def test_name_does_not_depend_on_the_place(folder, tmp_path):
    name, data_dir = resolve(f"folder:{folder}", Path("nowhere"))
    assert name.startswith("folder:animals#") and len(name) == len("folder:animals#") + 8
    assert data_dir == tmp_path
    assert resolve("folder:animals", tmp_path) == (name, tmp_path)
    assert resolve(f"folder:{folder}/@16", Path("x")) == (name.replace("#", "@16#"), tmp_path)
    assert resolve(name, Path("x")) == (name, Path("x"))
    assert resolve("digits", Path("x")) == ("digits", Path("x"))
    shutil.copytree(folder, tmp_path / "copy/animals")
    assert resolve(f"folder:{tmp_path}/copy/../copy/animals", Path("x")) == (name, tmp_path / "copy")


def test_relative_paths(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    name, data_dir = resolve("folder:./", Path("x"))
    assert (name.partition("#")[0], data_dir) == ("folder:animals", tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda f: (f / "train/cat/000.png").unlink(),
        lambda f: (f / "test/cat/000.png").unlink(),
        lambda f: (f / "train/cat/000.png").rename(f / "train/dog/xxx.png"),
        lambda f: (f / "train/cat/000.png").write_bytes(b"1"),
        lambda f: (f / "test").rename(f / "val"),
    ],
)
def test_folder_of_other_content_is_refused_under_its_old_name(folder, change):
    name, data_dir = resolved(folder)
    change(folder)
    assert resolved(folder)[0] != name
    with pytest.raises(SetupError, match=r"another content than 'folder:animals#.*--data-dir"):
        find(name, data_dir)


def test_invalid_name_is_refused():
    with pytest.raises(UsageError, match=r"give folder:PATH"):
        resolve("folder:", Path("x"))


# --- what it is ----------------------------------------------------------------------------------------------


def test_facts(folder):
    found = find(*resolved(folder))
    assert (found.shape, found.classes, found.sizes) == ((3, 8, 8), 3, (30, 12))
    assert find(*resolved(folder, 16)).shape == (3, 16, 16)


def test_grey_only_if_all_are(tmp_path):
    root = write_folder(tmp_path / "grey", channels=1)
    assert find(*resolved(root)).shape == (1, 8, 8)
    assert load(root).train.pixels.shape[1:] == (1, 8, 8)
    save(root / "test/cat/003.png", 1, channels=3)
    assert find(*resolved(root)).shape == (3, 8, 8)


def test_val_is_the_test_part_unless_there_is_one(tmp_path):
    root = write_folder(tmp_path / "v", parts=("train", "val"))
    assert find(*resolved(root)).sizes == (30, 12)
    (root / "test").mkdir()
    for seed, name in enumerate(CLASSES):
        save(root / "test" / name / "only.png", seed)
    assert find(*resolved(root)).sizes == (30, 3)


def test_images_that_are_not_square_stay_so(tmp_path):
    root = write_folder(tmp_path / "wide", size=(12, 8))
    assert find(*resolved(root)).shape == (3, 8, 12)
    assert load(root).train.pixels.shape[1:] == (3, 8, 12)


def test_differing_sizes_need_one_to_be_given(folder):
    save(folder / "train/cat/000.png", 1, size=(20, 30))
    save(folder / "test/newt/000.png", 2, size=(6, 9))
    with pytest.raises(UsageError, match=r"from 6x9 to 20x30 pixels.*folder:animals@6"):
        find(*resolved(folder))
    assert load(folder, size=6).train.pixels.shape[1:] == (3, 6, 6)


def test_normalisation_split_and_hashes(folder):
    found, again = load(folder), load(folder)
    both = torch.cat([found.train.pixels, found.val.pixels]).double()
    torch.testing.assert_close(found.train.mean.double(), both.mean(dim=(0, 2, 3), keepdim=True), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.train.std.double(), both.std(dim=(0, 2, 3), keepdim=True), rtol=1e-6, atol=0)
    assert found.facts == again.facts
    assert found.facts | {"train": 27, "val": 3, "test": 12, "shape": [3, 8, 8], "classes": 3} == found.facts
    assert load(folder, seed=1).facts["split_sha256"] != found.facts["split_sha256"]
    test, digest = load_test(*resolved(folder), found.train)
    assert len(test) == 12
    assert digest != found.facts["train_sha256"]


def test_constants_of_the_name_normalise_instead(folder):
    name, data_dir = resolve(f"folder:{folder}@4~0.485,0.456,0.406~0.25", Path("x"))
    own, _ = resolved(folder, 4)
    assert name == own.replace("@4", "@4~0.485,0.456,0.406~0.25")
    assert resolve(name, data_dir) == (name, data_dir)
    found, plain = load_training(name, data_dir, False, 0, CPU), load(folder, 4)
    assert torch.equal(found.train.pixels, plain.train.pixels)
    assert found.facts["split_sha256"] == plain.facts["split_sha256"]
    torch.testing.assert_close(found.train.mean.flatten(), 255 * torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(found.train.std.flatten(), 255 * torch.full((3,), 0.25))
    assert torch.equal(load_test(name, data_dir, found.train)[0].mean, found.train.mean)


@pytest.mark.parametrize("normal", ["0.5,0.5~1", "0.5~0", "127~64", "0.5,~1", ".~."])
def test_wrong_constants(folder, normal):
    name, data_dir = resolve(f"folder:{folder}~{normal}", Path("x"))
    with pytest.raises(UsageError, match=r"are one number or 3, separated by commas, of pixels in 0\.\.1"):
        find(name, data_dir)


@pytest.mark.parametrize(
    ("size", "name"), [((8, 8), "folder_small"), ((64, 10), "folder_small"), ((65, 8), "folder_large")]
)
def test_recipe_depends_on_the_size(tmp_path, size, name):
    dataset, data_dir = resolved(write_folder(tmp_path / "x", train=1, test=1, size=size))
    options = RunOptions(data_dir=data_dir, out=tmp_path, quiet=True)
    assert default_recipe(dataset, options, writes=False) == name
    assert not (tmp_path / "cache").exists()
    assert default_recipe(dataset, options) == name
    assert (tmp_path / "cache").exists()


# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (shutil.rmtree, "animals: no such folder.*--data-dir"),
        (lambda f: shutil.rmtree(f / "train"), "train: No such file or directory"),
        (lambda f: shutil.rmtree(f / "test"), "has neither a folder 'test' nor 'val'"),
        (lambda f: [shutil.rmtree(p) for p in (f / "test").iterdir()], "test: no class folders"),
        (lambda f: shutil.rmtree(f / "test/dog"), "class 'dog' is in train and not in test"),
        (lambda f: (f / "test/dog").rename(f / "test/wolf"), "class 'dog' is in train and not in test"),
        (lambda f: save(f / "test/wolf/0.png"), "class 'wolf' is in test and not in train"),
        (lambda f: (f / "train/cat/000.png").write_bytes(b""), "train/cat/000.png: the file is empty"),
        (lambda f: (f / "test/cat/000.png").write_bytes(b"text"), "test/cat/000.png: not an image"),
        (lambda f: (f / "train/dog/Thumbs.db").write_bytes(b"x"), "train/dog/Thumbs.db: not an image"),
        (lambda f: (f / "test/dog/0.jpg").write_bytes(encoded("JPEG")[:-40]), "test/dog/0.jpg: damaged"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
def test_damage_is_found_before_training(folder, tmp_path, make_run, monkeypatch, change, said, streamed):
    from bench.data import registration as registered

    if streamed:
        monkeypatch.setattr(registered, "IN_MEMORY_BYTES", 0)
    change(folder)
    with pytest.raises(SetupError, match=said) as caught:
        execute(*run_on(make_run, folder, tmp_path))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 3
    assert not list(tmp_path.rglob("*.json"))


def test_one_image_in_two_classes_is_found_where_images_are_kept(folder, monkeypatch):
    from bench.data import registration as registered

    shutil.copy(folder / "train/cat/000.png", folder / "train/dog/z.png")
    with pytest.raises(SetupError, match="are the same image in two classes"):
        load(folder)
    monkeypatch.setattr(registered, "IN_MEMORY_BYTES", 0)
    assert isinstance(load(folder).train, Stream)  # their contents are not read beforehand


def test_damage_behind_a_whole_header_and_end_is_found_in_memory(folder, tmp_path, make_run):
    whole = bytearray(encoded("PNG", size=(8, 8)))
    whole[60] ^= 0xFF
    (folder / "test/cat/000.png").write_bytes(whole)
    with pytest.raises(SetupError, match=r"test/cat/000.png: damaged"):
        execute(*run_on(make_run, folder, tmp_path))


# --- the cache ------------------------------------------------------------------------------------------------


def test_second_load_decodes_nothing_and_gives_the_same(folder, tmp_path, monkeypatch):
    import bench.data.loading

    first = load(folder, cache=tmp_path / "cache")
    monkeypatch.setattr(bench.data.loading, "decode_all", None)
    second = load(folder, cache=tmp_path / "cache")
    assert torch.equal(first.train.pixels, second.train.pixels)
    assert first.facts == second.facts
    test, _ = load_test(*resolved(folder), first.train, tmp_path / "cache")
    assert len(test) == 12


def test_changed_file_and_damaged_cache_are_decoded_again(folder, tmp_path):
    cache = tmp_path / "cache"
    before = load(folder, cache=cache)
    path = folder / "train/cat/000.png"
    size = path.stat().st_size
    for seed in range(101, 300):  # other content of the same length
        if len(encoded("PNG", seed)) == size:
            break
    path.write_bytes(encoded("PNG", seed))
    after = load(folder, cache=cache)
    assert after.facts["train_sha256"] != before.facts["train_sha256"]
    assert load(folder).facts == after.facts
    for entry in cache.iterdir():
        entry.write_bytes(entry.read_bytes()[:-5])
    assert load(folder, cache=cache).facts == after.facts
    assert load(folder, cache=cache).facts == after.facts


# --- runs ------------------------------------------------------------------------------------------------------


def run_on(make_run, folder, tmp_path, size=None, **settings):
    import dataclasses

    name, data_dir = resolved(folder, size)
    spec, options = make_run("l1_norm", "two_layers", name, out=tmp_path / "out", batch_size="8", **settings)
    return spec, dataclasses.replace(options, data_dir=data_dir)


def outcomes(path, out, data_dir):
    return {c.name: c.outcome for c in verify_file(path, out, data_dir)}


@pytest.mark.parametrize(
    ("streamed", "augment"),
    [
        (False, "crop_flip"),
        (False, "resized_crop"),
        (True, "none"),
        pytest.param(True, "resized_crop", marks=pytest.mark.slow),
    ],
)
def test_run_and_its_record(folder, tmp_path, make_run, monkeypatch, streamed, augment):
    from bench.data import registration as registered

    if streamed:
        monkeypatch.setattr(registered, "IN_MEMORY_BYTES", 0)
    spec, options = run_on(make_run, folder, tmp_path, 16, augment=augment)
    assert isinstance(load(folder, 16).train, Stream if streamed else Images)
    done = execute(spec, options)
    path = store.path_of(options.out, spec)
    assert path.is_file()
    assert path.parent.parent.parent.name == spec.dataset.replace(":", "-").replace("#", "-")
    assert str(tmp_path) not in str(done)
    assert (done.data.shape, done.data.classes) == ((3, 16, 16), 3)
    assert set(outcomes(path, options.out, options.data_dir).values()) == {"ok"}

    elsewhere = tmp_path / "deep/er"
    elsewhere.mkdir(parents=True)
    folder.rename(elsewhere / "animals")
    assert set(outcomes(path, options.out, elsewhere).values()) == {"ok"}
    absent = outcomes(path, options.out, tmp_path)
    for needs_images in ("accuracy of the stored network", "worst class from labels"):
        assert absent.pop(needs_images) == "not run"
    assert set(absent.values()) == {"ok"}
    (elsewhere / "animals/test/cat/000.png").unlink()
    assert outcomes(path, options.out, elsewhere)["accuracy of the stored network"] == "not run"


@pytest.mark.slow
def test_streamed_runs_agree_whatever_the_workers_and_the_stops(folder, tmp_path, make_run, streaming, monkeypatch):
    def start(workers):
        monkeypatch.setattr("bench.data.loading.workers_for", lambda device: workers)
        out = tmp_path / str(workers)
        return run_on(make_run, folder, out, augment="resized_crop", precision="fp32", finetune__epochs=2)

    whole = execute(*start(1))
    save, saves = PhaseTrainer.save, []

    def stop_once(self, position):
        save(self, position)
        saves.append(position)
        if len(saves) == 4:  # the base, the method's beginning and its prune are done, and an epoch of fine-tuning
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(PhaseTrainer, "save", stop_once)
    with pytest.raises(KeyboardInterrupt):
        execute(*start(2))
    done = execute(*start(2))
    assert done.clock.resumes == 1
    assert store.without_timing(done) == store.without_timing(whole)


@pytest.mark.parametrize("extra", [[], ["--recipe", "synthetic"]])
def test_command_line(folder, tmp_path, capsys, plugins, extra):
    from bench.cli import main

    command = ["run", "-m", "l1_norm", "-a", "two_layers", "--dataset", f"folder:{folder}@16", "--seeds", "0-1"]
    assert main([*command, "--dry-run", "--out", str(tmp_path / "out"), *extra]) == 0
    text = capsys.readouterr().out
    assert text.count('"dataset": "folder:animals@16#') == 2
    assert str(folder) not in text.replace(str(tmp_path / "out"), "")
    assert main(["list", "sites", "-a", "two_layers", "-d", "folder:animals", "--data-dir", str(tmp_path)]) == 0
    assert "input [3, 8, 8]" in capsys.readouterr().out
    assert main([*command[:-3], "folder:gone", "--data-dir", str(tmp_path)]) == 3
    assert "--data-dir" in capsys.readouterr().err


def test_streamed_constants_are_those_of_a_sample(folder, streaming, monkeypatch):
    import bench.data.loading

    whole = load(folder).train.mean
    assert whole.shape == (1, 3, 1, 1)
    monkeypatch.setattr(bench.data.loading, "SAMPLE", 5)
    sample = load(folder).train.mean
    assert not torch.equal(sample, whole)
    assert torch.equal(sample, load(folder, seed=9).train.mean)
