"""Sweep files: what runs they stand for, what is wrong with bad ones, and parts of them."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import image_folders, requested
from support.paths import ROOT

from bench.cli import main, parser
from bench.cli.sweep import specs_of
from bench.errors import UsageError
from bench.records import store
from bench.spec.spec import Budget
from bench.spec.sweep import load_sweep, shard


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def write(tmp_path):
    """A sweep's file with this text."""

    def put(text, name="some.toml"):
        path = tmp_path / name
        path.write_text(text)
        return path

    return put


def runs(path, *words):
    """The specifications of a sweep's file."""
    chosen = parser().parse_args(["sweep", str(path), "--cluster", "inline", "--dry-run", "--out", "nowhere", *words])
    return specs_of(path, chosen)[0]


def asked(*words):
    """The specifications of ``bench run`` with these words."""
    return requested.specs_of(*words, "--out", "nowhere")


def ids(specs):
    return sorted(spec.id for spec in specs)


# --- what a file stands for ----------------------------------------------------------------------------------


def test_defaults_hold_where_a_block_says_nothing(write):
    path = write("""
        description = "some"
        [defaults]
        arch = "resnet20"
        keep_macs = 0.5
        seeds = "0-1"
        options = { p_min = 0.1, p_max = 0.4 }
        settings = { batch_size = 32, "train.lr" = 0.5 }
        [[runs]]
        method = "ddrop"
        [[runs]]
        method = "ddrop"
        arch = "resnet56"
        seeds = 7
        options = { p_min = 0.3 }
        settings = { "train.lr" = 0.25, momentum = 0.8 }
    """)
    first, second, third = sorted(runs(path), key=lambda spec: (spec.arch, spec.seed))
    assert [(s.arch, s.seed) for s in (first, second, third)] == [("resnet20", 0), ("resnet20", 1), ("resnet56", 7)]
    assert {s.budget.keep_macs for s in (first, second, third)} == {0.5}
    assert first.config == {"p_min": 0.1, "p_max": 0.4}
    assert third.config == {"p_min": 0.3, "p_max": 0.4}  # of a table single values change
    assert (first.recipe.batch_size, first.recipe.train.lr, first.recipe.momentum) == (32, 0.5, 0.9)
    assert (third.recipe.batch_size, third.recipe.train.lr, third.recipe.momentum) == (32, 0.25, 0.8)
    assert load_sweep(path).description == "some"
    assert load_sweep(path).name == "some"


@pytest.mark.parametrize(
    ("budget", "words"),
    [
        ("keep_params = 0.3", [["--keep-params", "0.3"]]),
        ("keep_macs = [0.25, 0.1]", [["--keep-macs", "0.25"], ["--keep-macs", "0.1"]]),
        ("native = true", [["--native"]]),
        ("native = false", [["--keep-macs", "0.75"], ["--keep-macs", "0.5"]]),  # the default ones, as without it
    ],
)
def test_budget_of_a_block_is_in_place_of_the_default_one(write, budget, words):
    path = write(f'defaults.keep_macs = [0.75, 0.5]\n[[runs]]\nmethod = "dropnet"\narch = "lenet"\n{budget}')
    expected = [spec for choice in words for spec in asked("-m", "dropnet", "-a", "lenet", *choice)]
    assert ids(runs(path)) == ids(expected)


def test_like_takes_the_widths_of_a_record(write, finished):
    spec, done, options = finished()
    like = store.path_of(options.out, spec)
    text = 'defaults.keep_macs = 0.5\n[[runs]]\nmethod = "random"\narch = "two_layers"\ndataset = "tiny"\n'
    (found,) = runs(write(text + f'recipe = "synthetic"\nlike = "{like}"'))
    assert found.budget == Budget(widths=tuple(after for _, after in done.structure.widths.values()))


def test_no_run_is_there_twice(write):
    block = '[[runs]]\nmethod = "l1_norm"\narch = "resnet20"\n'
    path = write(block + "seeds = [0, 1, 1]\n" + block + 'seeds = "1-2"\nkeep_macs = [0.5, 0.50, 0.5]\n' + block)
    assert ids(runs(path)) == ids(asked("-m", "l1_norm", "-a", "resnet20", "--seeds", "0-2"))


def test_what_has_no_budget_is_one_run_a_seed(write):
    """However many budgets the block has."""
    block = '[[runs]]\nmethod = ["dense", "l1_norm"]\narch = "resnet20"\nseeds = "0-2"\n'
    found = runs(write(block + "keep_macs = [0.75, 0.5, 0.25, 0.1]"))
    assert sorted(s.seed for s in found if s.method == "dense") == [0, 1, 2]
    assert len(found) == 3 + 4 * 3


def test_example_sweep():
    path = ROOT / "examples" / "sweep.toml"
    assert len(runs(path)) == 5 * 4 * 5 + 5
    assert load_sweep(path).description


def test_runs_that_share_a_base_are_neighbours(write):
    path = write('[[runs]]\nmethod = ["l1_norm", "random", "dense"]\narch = ["resnet20", "resnet56"]\nseeds = "0-1"')
    bases = [spec.base_id() for spec in runs(path)]
    assert len(list(itertools.groupby(bases))) == len(set(bases)) == 4


# --- folders of images ---------------------------------------------------------------------------------------


def test_folder_of_images_says_where_the_data_are(write, tmp_path):
    place = image_folders.write_folder(tmp_path / "images" / "pets")
    path = write(f'[[runs]]\nmethod = ["l1_norm", "random"]\narch = "resnet20"\ndataset = "folder:{place}"')
    words = ["sweep", str(path), "--cluster", "inline", "--dry-run", "--out", str(tmp_path / "o")]
    found, options = specs_of(path, parser().parse_args(words))
    assert options.data_dir == place.parent
    given = [("-m", method, "-a", "resnet20", "-d", f"folder:{place}") for method in ("l1_norm", "random")]
    assert ids(found) == ids(spec for words in given for spec in asked(*words))
    assert main(words) == 0
    assert not (tmp_path / "o").exists()


def test_folders_of_images_in_two_places_are_declined(write, tmp_path):
    places = [image_folders.write_folder(tmp_path / name / "pets", train=2) for name in ("one", "two")]
    listed = ", ".join(f'"folder:{place}"' for place in places)
    path = write(f'[[runs]]\nmethod = "l1_norm"\narch = "resnet20"\ndataset = [{listed}]')
    with pytest.raises(UsageError, match="side by side") as caught:
        runs(path)
    for place in places:
        assert str(place.parent) in str(caught.value)


# --- bad files -----------------------------------------------------------------------------------------------

GOOD = '[[runs]]\nmethod = "l1_norm"\narch = "resnet20"\n'


@pytest.fixture
def complaint(write, capsys):
    """What the command says of a sweep's file with this text: one line that names the file."""

    def ask(text):
        path = write(text)
        try:
            code = main(["sweep", str(path), "--cluster", "inline", "--dry-run", "--out", "nowhere"])
        except SystemExit as stop:
            code = stop.code
        out, err = capsys.readouterr()
        assert (code, out) == (2, "")
        assert len(err.splitlines()) == 1, err
        assert str(path) in err
        return err

    return ask


def test_wrong_file_is_refused(complaint):
    for text, said in (
        ("runs = [", "Invalid value"),
        ("", "[[runs]]"),
        ("runs = []", "[[runs]]"),
        ("runs = 3", "[[runs]]"),
        ("runs = [1]", "[[runs]]"),
        ("defaults = 3\n" + GOOD, "defaults is not a table"),
        ('[[run]]\nmethod = "l1_norm"', "'run': did you mean runs"),
        (GOOD + GOOD + "keep_mac = 0.5", "runs 2 'keep_mac': did you mean keep_macs"),
        ('defaults.archs = "resnet20"\n' + GOOD, "defaults 'archs': did you mean arch"),
        ("[[runs]]\nseeds = 1", "runs 1: method and arch missing"),
    ):
        assert said in complaint(text)


def test_wrong_value_is_refused(complaint):
    """Each kind of value once: what it may be is tested with requests and recipes."""
    for line, said in (
        ("method = []", "method = []"),
        ("method = { a = 1 }", "method = {"),
        ('method = "ddrob"', "did you mean ddrop"),
        ('method = "-x"', "-x"),
        ("keep_macs = nan", "keep_macs = nan is not finite"),
        ("keep_macs = 2", "2: give the share to keep"),
        ('keep_macs = "half"', "half"),
        ("keep_macs = true", "true"),
        ("keep_macs = 0.5\nnative = true", "give one of them"),
        ("native = true", "does not choose its own sparsity"),
        ('native = "yes"', "native is true or false"),
        ('like = "nowhere.json"', "nowhere.json"),
        ("epochs = 1.5", "1.5"),
        ("min_keep = -1", "-1"),
        ('coupling = "outer"', "outer"),
        ("seeds = [[0]]", "seeds"),
        ("options = 3", "options is not a table"),
        ("options = { p = [[1]] }", "options.p = [[1]]"),
        ("options = { x = 1 }", "no option 'x'"),
        ("settings = [1]", "settings is not a table"),
        ("settings.train.lr = 0.1", "settings.train = {"),
        ("settings.batch_size = [1, inf]", "settings.batch_size = [1, inf] is not finite"),
        ("settings = { 'train.epoch' = 1 }", "'train.epoch': did you mean train.epochs"),
        ("settings = { batch_size = 0 }", "batch_size = 0"),
    ):
        good = [text for text in GOOD.splitlines(keepends=True) if text.split()[0] != line.split()[0]]
        assert said in complaint("".join(good) + line)


def test_file_that_cannot_be_read(tmp_path, write):
    with pytest.raises(UsageError, match=r"none\.toml: No such file"):
        load_sweep(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="Is a directory"):
        load_sweep(tmp_path)
    path = write("")
    path.write_bytes(b"description = '\xff'")
    with pytest.raises(UsageError, match=r"some\.toml"):
        load_sweep(path)


# --- parts ---------------------------------------------------------------------------------------------------


@given(st.integers(0, 400), st.integers(1, 60))
def test_shards_cover_all_runs_once_in_near_equal_sizes(length, n):
    items = list(range(length))
    parts = [shard(items, f"{i}/{n}") for i in range(1, n + 1)]
    assert list(itertools.chain(*parts)) == items
    sizes = {len(part) for part in parts}
    assert max(sizes) - min(sizes) <= 1


def test_wrong_parts_are_refused():
    for text in ("0/3", "4/3", "1/0", "1", "1/", "-1/3", "a/3", "1/3/3", "1.0/3", ""):
        with pytest.raises(UsageError, match="--shard") as caught:
            shard([1, 2, 3], text)
        assert "\n" not in str(caught.value)


def test_parts_of_a_sweep(write):
    path = write('[[runs]]\nmethod = ["l1_norm", "random"]\narch = "resnet20"\nseeds = "0-2"')
    parts = [runs(path, "--shard", f"{i}/4") for i in (1, 2, 3, 4)]
    assert ids(itertools.chain(*parts)) == ids(runs(path))
    assert sorted(map(len, parts)) == [1, 1, 2, 2]
