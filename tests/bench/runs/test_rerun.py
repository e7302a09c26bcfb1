"""A record run again: the command that makes its specification, what is expected of it, and the command itself."""

import dataclasses
import json
import shlex
from pathlib import Path

import msgspec
import pytest
import torch
from support.paths import PLUGINS
from support.records import SPEC, changed, ended, line, quality, read, record, seal, spec_table
from support.records import finished as finished_table
from support.requested import specs_of

from bench import RULES
from bench.cli import main, parser
from bench.errors import UsageError
from bench.records import store
from bench.runs import rerun
from bench.runs.resolve import make_spec, resolve
from bench.spec.recipe import load_recipe
from bench.spec.registry import ARCHS, DATASETS, METHODS
from bench.spec.spec import Budget


def words_of(found):
    """The words of the command that makes a record's specification."""
    return shlex.split(rerun.command(found))[3:]


def asked(found):
    """The specification that the words of a record mean to the real command line."""
    (spec,) = specs_of(*words_of(found)[1:])
    return spec


def finished(spec):
    return record(finished_table(spec))


HALF = Budget(keep_macs=0.5)


def specified(method="l1_norm", budget=HALF, recipe="digits", settings=None, **more):
    return make_spec(method, "resnet20", "digits", load_recipe(recipe, settings or {}), budget, **more)


# --- the command of a record ------------------------------------------------------------------------------------


DROPNET = {"method": "dropnet", "budget": None, "options": {"p": "0.3", "metric": "minimum"}}


@pytest.mark.parametrize(
    ("asked_for", "said"),
    [
        ({}, "--set precision=fp32 --keep-macs 0.5 --seeds 0 --device cpu --threads 1"),
        ({"seed": 7}, "--seeds 7"),
        ({"budget": Budget(keep_params=2 / 3)}, "--keep-params 0.6666666666666666"),
        ({"budget": Budget(keep_macs=0.5, ranking="global", min_keep=2)}, "--ranking global --min-keep 2"),
        ({"coupling": "full"}, "--coupling full"),
        (DROPNET, "--native"),
        (DROPNET, "-p metric=minimum"),
        ({"method": "dense"}, "--recipe digits --set precision=fp32 --seeds"),
        (
            {"method": "dropout+l1_norm", "options": {"dropout.p": "0.1"}},
            "-p dropout.p=0.1",
        ),
        ({"settings": {"train.epochs": "3", "nesterov": "false"}}, "--set train.epochs=3 --set nesterov=false"),
        ({"settings": {"finetune.drops": "0.1,0.2"}}, "--set finetune.drops=0.1,0.2"),
        ({"settings": {"weight_decay": "1e-07"}}, "--set weight_decay=1e-07"),
        ({"settings": {"train.lr": "0.1", "train.schedule": "step"}}, "--set train.schedule=step"),
    ],
)
def test_every_kind_of_specification(asked_for, said):
    spec = specified(**asked_for)
    found = finished(spec)
    if spec.method == "dense":
        plan = [msgspec.structs.replace(found.training.plan[1], part="train")]
        found = msgspec.structs.replace(found, training=msgspec.structs.replace(found.training, plan=plan))
    again = asked(found)
    assert (again.sha256, again.id, again.recipe.sha256) == (spec.sha256, spec.id, spec.recipe.sha256)
    assert said in " ".join([*words_of(found), ""])


def test_a_recipe_that_is_not_known_here_has_all_its_values_set():
    spec = specified(settings={"batch_size": "48"})
    spec = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, name="../own.toml"))
    words = words_of(finished(spec))
    assert words.count("--set") == 21
    assert "../own.toml" not in " ".join(words)
    assert asked(finished(spec)).id == spec.id


def test_a_record_that_was_like_another_says_what_is_to_be_put_there(tmp_path):
    spec = specified(budget=Budget(widths=(4,), ranking="global"))
    found = finished(spec)
    assert f"--like {rerun.LIKE} --ranking global" in rerun.command(found)
    path = tmp_path / "x.json"
    path.write_bytes(store.encode(found))
    request, _ = rerun.request_of(found, like=str(path))  # its own network has these widths
    assert [made.id for made in resolve(request)[0]] == [spec.id]


def test_a_run_that_failed_can_be_asked_for_too():
    assert asked(record(ended(spec=specified()))).id == specified().id
    assert asked(record(ended(spec=specified("dense")))).id == specified("dense").id


@pytest.mark.parametrize(
    "text", ["a; rm -rf ~", "$(touch x)", "`x`", 'it\'s "so"', "-x", "--out=/", "a b", "*", "#", "~", "a\\"]
)
def test_hostile_names_stay_one_word(text):  # fmt: skip
    spec = dataclasses.replace(SPEC, method=text, arch=text, dataset=text, config={"k" + text: text})
    found = msgspec.structs.replace(finished(SPEC), spec=spec)
    words = rerun.command(found)
    request, machine = rerun.request_of(found)
    assert shlex.split(words) == ["python", "-m", "bench", *request.to_words(), *machine.to_words()]
    chosen = parser().parse_args(words_of(found))
    assert (chosen.method, chosen.arch, chosen.dataset, chosen.options) == (text, text, text, [f"k{text}={text}"])
    assert chosen.out == Path("results")


@pytest.mark.parametrize(
    ("key", "value"), [("arch", "file:/tmp/evil.py:f"), ("dataset", "folder:/home"), ("dataset", "folder:x@8")]
)
def test_a_record_does_not_choose_files_of_this_machine(key, value):  # fmt: skip
    with pytest.raises(UsageError, match="with the hash of their content"):
        rerun.request_of(msgspec.structs.replace(finished(SPEC), spec=dataclasses.replace(SPEC, **{key: value})))


def test_what_no_command_asks_for():
    with pytest.raises(UsageError, match="without a share"):
        rerun.request_of(finished(dataclasses.replace(SPEC, budget=Budget())))


# --- what is expected -------------------------------------------------------------------------------------------


def run(top1, images=1000, seed=0):
    spec = dataclasses.replace(SPEC, seed=seed)
    found = changed(finished_table(spec), ("data", "test"), images)
    for which in ("dense", "pruned", "final"):
        found["metrics"][which] = quality(examples=images, top1=top1, top5=1.0)
    return found


def test_what_differs():
    old, same = run(0.5), changed(run(0.5), ("latency",), [])
    assert rerun.parts_that_differ(record(old), record(same)) == []
    new = changed(changed(same, ("environment", "packages", "torch"), "3.0"), ("code", "commit"), None)
    new = record(changed(new, ("metrics", "final", "loss"), 1.3))
    assert rerun.parts_that_differ(record(old), new) == ["metrics.final"]
    assert [*rerun.versions_that_differ(record(old), new)] == [
        "environment.packages.torch: was 2.15.0, is 3.0",
        f"code.commit: was {'c' * 40}, is None",
    ]


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    from bench.measure import latency

    monkeypatch.setattr(latency, "WARMUP_S", 0.0)
    monkeypatch.setattr(latency, "ROUNDS", (3, 3))
    for registry in (METHODS, ARCHS, DATASETS):
        monkeypatch.setattr(registry, "_plugins", {})

    def run(command, *words):
        places = ["--plugin", PLUGINS / "small.py", "--data-dir", tmp_path / "data", "-q", "--threads", "1"]
        try:
            code = main([str(word) for word in (command, *words, *places)])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def given(bench, tmp_path):
    """Path of the record of a small run, as it came with somebody's pull request."""
    words = ["--method", "l1_norm", "--arch", "two_layers", "--dataset", "tiny8", "--recipe", "synthetic"]
    words += ["--epochs", "3", "--finetune-epochs", "1", "--set", "batch_size=32", "--set", "latency_batch=4"]
    assert bench("run", *words, "--set", "recalibrate=2", "--out", tmp_path / "theirs")[0] == 0
    (path,) = store.find(tmp_path / "theirs" / "records")
    return path


def test_an_honest_record_is_met_to_the_last_bit(bench, given, tmp_path):
    before = given.read_bytes()
    code, out, err = bench("reproduce", given, "--out", tmp_path / "mine")
    assert (code, err) == (0, f"bench: {given.stem} again, in {tmp_path / 'mine'}\n")
    assert "every result is the same to the last bit" in out
    assert "the replay lies inside" in out
    assert len([*store.find(tmp_path / "mine" / "records")]) == 1
    assert given.read_bytes() == before
    code, out, _ = bench("reproduce", given, "--out", tmp_path / "mine", "--json")
    found = json.loads(out)
    assert code == 0
    assert found["was"] == found["is"]
    assert found["parts_that_differ"] == found["versions_that_differ"] == []
    assert Path(found["replay"]).is_file()


def test_a_record_of_this_folder_is_run_again_beside_it(bench, given, tmp_path):
    out_folder = tmp_path / "theirs"
    before = {file: file.read_bytes() for file in out_folder.rglob("*") if file.is_file()}
    code, _, err = bench("reproduce", given.stem[:9], "--out", out_folder)
    assert code == 0
    assert f"again, in {out_folder / 'replays'}" in err
    assert {file: file.read_bytes() for file in before} == before
    assert store.path_of(out_folder / "replays", store.load(given).spec).is_file()


def test_a_tampered_accuracy_comes_out(bench, given, tmp_path):
    found = read(given)
    honest = found["metrics"]["final"]["top1"]
    lie = 1.0 if honest < 0.6 else 0.1
    for key, value in (("top1", lie), ("top5", 1.0), ("worst_class_top1", 0.0)):
        found = changed(found, ("metrics", "final", key), value)
    given.write_bytes(line(seal(found)))  # with a hash that fits, as a forger would
    code, out, err = bench("reproduce", given, "--out", tmp_path / "mine")
    assert code == 1
    assert "the replay lies OUTSIDE" in out
    assert "not the same to the last bit: metrics" in out
    assert "error: final top-1 of the replay is outside of" in err
    # Where other seeds lie beside it, they tell that the record is the one that is wrong.
    for seed in (1, 2, 3):
        spec = dataclasses.replace(store.load(given).spec, seed=seed)
        other = found | {"id": spec.id, "spec": spec_table(spec)}
        other = changed(other, ("metrics", "final", "top1"), honest)
        (given.parent / f"{spec.id}.json").write_bytes(line(seal(other)))
    code, out, err = bench("reproduce", given, "--out", tmp_path / "mine")
    assert code == 0
    assert "the record lies OUTSIDE, as 1 in 20 honest records does" in out
    assert "the replay lies inside" in out
    assert "nothing recorded explains it" in out


def test_reproduce_of_an_outlier_that_comes_out_equal_is_ok(bench, given, tmp_path):
    found = read(given)
    for seed in (1, 2, 3):  # whose values leave the record's own outside
        spec = dataclasses.replace(store.load(given).spec, seed=seed)
        other = changed(found | {"id": spec.id, "spec": spec_table(spec)}, ("metrics", "final", "top1"), 1.0)
        other = changed(other, ("metrics", "final", "top5"), 1.0)
        (given.parent / f"{spec.id}.json").write_bytes(line(seal(other)))
    code, out, err = bench("reproduce", given, "--out", tmp_path / "mine")
    assert (code, len(err.splitlines())) == (0, 1)
    assert "the record lies OUTSIDE, as 1 in 20 honest records does" in out
    assert "the replay lies OUTSIDE, as 1 in 20 honest replays does" in out
    assert "every result is the same to the last bit" in out


def test_a_record_changed_without_a_new_hash_is_refused(bench, given, tmp_path):
    found = read(given)
    given.write_bytes(line(changed(found, ("curve", "train_loss"), [0.5 for _ in found["curve"]["train_loss"]])))
    code, out, err = bench("reproduce", given, "--out", tmp_path / "mine")
    assert (code, out) == (1, "")
    assert "its content is not what record_sha256 was made of" in err


def test_a_dry_run_prints_the_command(bench, given, tmp_path):
    code, out, err = bench("reproduce", given, "--out", tmp_path / "mine", "--dry-run")
    assert (code, err) == (0, "")
    assert not (tmp_path / "mine").exists()
    words = shlex.split(out)
    assert words[:3] == ["python", "-m", "bench"]
    chosen = parser().parse_args(words[3:])
    assert [spec.id for spec in specs_of(*words[4:])] == [given.stem]
    assert chosen.out == tmp_path / "mine"


def test_show_says_how_to_make_it_again(given, tmp_path, capsys):
    capsys.readouterr()
    assert main(["show", str(given)]) == 0
    made, last = capsys.readouterr().out.splitlines()[-2:]
    found = store.load(given)
    assert last == f"again: {rerun.command(found)}"
    assert "--set precision=fp32" in last and last.endswith("--device cpu --threads 1")
    assert made == f"made with: {rerun.made_with(found)}"
    assert found.code.commit in made and f"rules {RULES}" in made
    odd = tmp_path / "odd-s0.json"
    spec = dataclasses.replace(found.spec, arch="file:/x.py:f")
    named = {"id": spec.id, "spec": spec_table(spec), "spec_sha256": spec.sha256}
    odd.write_bytes(line(seal(read(given) | named)))
    assert main(["show", str(odd)]) == 0
    assert "no command makes it here" in capsys.readouterr().out.splitlines()[-1]


def of_rules_0_1(path, precision):
    """Make a record one of rules 0.1, where the machine chose the precision."""
    found = read(path)
    spec = store.load(path).spec
    spec = dataclasses.replace(spec, rules="0.1", recipe=dataclasses.replace(spec.recipe, precision="auto"))
    found |= {"spec": spec_table(spec), "id": spec.id, "spec_sha256": spec.sha256}
    found = changed(found, ("training", "precision"), precision)
    older = path.parent / f"{spec.id}.json"
    older.write_bytes(line(seal(found)))
    return older


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("native", [True, False])
def test_record_of_rules_0_1_is_replayed_in_its_precision(bench, given, tmp_path, monkeypatch, precision, native):
    from bench.measure import environment

    monkeypatch.setattr(environment, "has_bf16", lambda device: native)
    older = of_rules_0_1(given, precision)
    code, out, err = bench("reproduce", older, "--out", tmp_path / "mine", "--json")
    found = json.loads(out)
    new = store.load(Path(found["replay"]))
    assert new.training.precision == new.spec.recipe.precision == precision
    assert f"note: {older.stem} was made with" in err and f"rules 0.1 (here {RULES})" in err
    assert f"spec.rules: was 0.1, is {RULES}" in found["versions_that_differ"]
    if precision == "fp32":  # as it was made in truth
        assert (code, found["parts_that_differ"]) == (0, [])


def test_replay_line_is_one_in_show_and_reproduce(bench, given, tmp_path, capsys):
    main(["show", str(given)])
    again = capsys.readouterr().out.splitlines()[-1].removeprefix("again: ")
    assert bench("reproduce", given, "--out", tmp_path / "mine", "--dry-run")[1].startswith(f"{again} --plugin ")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--threads", "2"), 2, "was made with 1, and so is its replay"),
        (("--device", "cuda"), 2, "was made with cpu, and so is its replay"),
        (("--device", "cpu"), 0, "again, in"),
    ],
)
def test_replay_on_another_machine_is_refused_first(given, tmp_path, capsys, words, code, said):
    capsys.readouterr()
    places = ["--plugin", str(PLUGINS / "small.py"), "--out", str(tmp_path / "mine"), "-q"]
    assert main(["reproduce", str(given), *places, *words]) == code
    assert said in capsys.readouterr().err
    assert (tmp_path / "mine").exists() == (code == 0)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_replay_of_a_gpus_record_needs_a_gpu(bench, given, tmp_path):
    given.write_bytes(line(seal(changed(read(given), ("environment", "device_type"), "cuda"))))
    code, out, err = bench("reproduce", given, "--out", tmp_path / "mine")
    assert (code, out) == (3, "")
    assert "was made on cuda, which is not here" in err
    assert not (tmp_path / "mine").exists()


def test_replay_names_what_else_was_another(bench, given, tmp_path):
    found = changed(read(given), ("metrics", "final", "loss"), 9.0)
    found = changed(changed(found, ("code", "commit"), "f" * 40), ("environment", "packages", "numpy"), "0.9")
    found = changed(found, ("environment", "instructions"), "AVX9")
    found = changed(found, ("training", "base", "made", "device"), "another chip")
    del found["environment"]["packages"]["pillow"]
    given.write_bytes(line(seal(found)))
    code, out, _ = bench("reproduce", given, "--out", tmp_path / "mine")
    lines = out[out.index("not the same to the last bit: metrics.final\n") :].splitlines()
    assert code == 0
    keys = [line.strip().partition(":")[0] for line in lines[2:]]
    assert keys == [
        "environment.instructions",
        "base.device",
        "environment.packages.numpy",
        "code.commit",
        "not recorded then",
    ]
    assert lines[-1].endswith("not recorded then: environment.packages.pillow")


def test_all_records_of_one_name_are_listed(given, tmp_path, capsys):
    other = tmp_path / "theirs" / "records" / "elsewhere" / given.name
    other.parent.mkdir()
    other.write_bytes(given.read_bytes())
    capsys.readouterr()
    for command in ("show", "reproduce", "measure"):
        assert main([command, given.stem, "--out", str(tmp_path / "theirs")]) == 2
        err = capsys.readouterr().err
        assert f"2 records have that name, give one of them as a file: {other}, {given}" in err


def test_a_run_that_fails_is_an_error(bench, given, tmp_path, monkeypatch):
    from bench.training.loop import PhaseTrainer

    def fail(*_):
        raise RuntimeError("no more")

    monkeypatch.setattr(PhaseTrainer, "train", fail)
    code, out, err = bench("reproduce", given, "--out", tmp_path / "mine")
    assert (code, out) == (1, "")
    assert "no more" in err


def test_wrong_words(bench, given, tmp_path):
    failed = read(given) | {"status": "failed", "error": {"type": "E", "message": "m", "traceback": []}}
    other = tmp_path / "failed-s0.json"
    other.write_bytes(line(seal(failed)))
    older, forged = tmp_path / "older-s0.json", tmp_path / "forged-s0.json"
    spec = dataclasses.replace(store.load(given).spec, rules="0.0")
    rules = read(given) | {"spec": spec_table(spec), "id": spec.id, "spec_sha256": spec.sha256}
    older.write_bytes(line(seal(rules)))
    forged.write_bytes(line(seal(changed(read(given), ("spec", "coupling"), "full"))))
    damaged = tmp_path / "damaged.json"
    damaged.write_text("{")
    for words, code, said in (
        (("none.json",), 2, "no record of that name"),
        (("0123456789ab",), 2, "no record of that name"),
        ((given, "--seeds", "0"), 2, "--only and --seeds are for publications"),
        ((other,), 2, "that run failed"),
        ((older,), 2, "(rules)"),
        ((forged,), 1, "the hash of the specification is"),
        ((damaged,), 1, "not JSON"),
    ):
        got, out, err = bench("reproduce", *words, "--out", tmp_path / "mine")
        assert (got, out) == (code, ""), err
        assert said in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "mine").exists()
