"""A record run again: the command that makes its specification, what is expected of it, and the command itself."""

import dataclasses
import json
import shlex
from pathlib import Path

import msgspec
import pytest
import torch
from support.records import SPEC, changed, ended, line, read, record, seal, spec_table
from support.records import finished as finished_table
from support.requested import specs_of

from bench import RULES
from bench.cli import main, parser
from bench.errors import UsageError
from bench.records import store
from bench.runs import rerun
from bench.runs.resolve import make_spec, resolve
from bench.spec.recipe import load_recipe
from bench.spec.spec import Budget
from bench.training.loop import PhaseTrainer


def words_of(found):
    """The words of the command that makes a record's specification."""
    return shlex.split(rerun.command(found))[3:]


def asked(found):
    """The specification that the words of a record mean to the real command line."""
    (spec,) = specs_of(*words_of(found)[1:])
    return spec


def finished_record(spec):
    return record(finished_table(spec))


HALF = Budget(keep_macs=0.5)


def specified(method="l1_norm", budget=HALF, recipe="digits", settings=None, **more):
    return make_spec(method, "resnet20", "digits", load_recipe(recipe, settings or {}), budget, **more)


# --- the command of a record ------------------------------------------------------------------------------------


DROPNET = {"method": "dropnet", "budget": None, "options": {"p": "0.3", "metric": "minimum"}}
KINDS = [
    ({}, "--set precision=fp32 --keep-macs 0.5 --seeds 0 --device cpu --threads 1"),
    ({"seed": 7}, "--seeds 7"),
    ({"budget": Budget(keep_params=2 / 3)}, "--keep-params 0.6666666666666666"),
    ({"budget": Budget(keep_macs=0.5, ranking="global", min_keep=2)}, "--ranking global --min-keep 2"),
    ({"coupling": "full"}, "--coupling full"),
    (DROPNET, "--native"),
    (DROPNET, "-p metric=minimum"),
    ({"method": "dense"}, "--recipe digits --set precision=fp32 --seeds"),
    ({"method": "dropout+l1_norm", "options": {"dropout.p": "0.1"}}, "-p dropout.p=0.1"),
    ({"settings": {"train.epochs": "3", "nesterov": "false"}}, "--set train.epochs=3 --set nesterov=false"),
    ({"settings": {"finetune.drops": "0.1,0.2"}}, "--set finetune.drops=0.1,0.2"),
    ({"settings": {"weight_decay": "1e-07"}}, "--set weight_decay=1e-07"),
    ({"settings": {"train.lr": "0.1", "train.schedule": "step"}}, "--set train.schedule=step"),
]


def test_command_makes_the_specification_again():
    for asked_for, said in KINDS:
        spec = specified(**asked_for)
        found = finished_record(spec)
        if spec.method == "dense":
            plan = [msgspec.structs.replace(found.training.plan[1], part="train")]
            found = msgspec.structs.replace(found, training=msgspec.structs.replace(found.training, plan=plan))
        again = asked(found)
        assert (again.sha256, again.id, again.recipe.sha256) == (spec.sha256, spec.id, spec.recipe.sha256), said
        assert said in " ".join([*words_of(found), ""])
    for spec in (specified(), specified("dense")):
        assert asked(record(ended(spec=spec))).id == spec.id  # of a run that failed


def test_recipe_unknown_here_has_all_its_values_set():
    spec = specified(settings={"batch_size": "48"})
    spec = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, name="../own.toml"))
    words = words_of(finished_record(spec))
    assert words.count("--set") == 21
    assert "../own.toml" not in " ".join(words)
    assert asked(finished_record(spec)).id == spec.id


def test_record_with_widths_of_another_names_the_place(tmp_path):
    spec = specified(budget=Budget(widths=(4,), ranking="global"))
    found = finished_record(spec)
    assert f"--like {rerun.LIKE} --ranking global" in rerun.command(found)
    path = tmp_path / "x.json"
    path.write_bytes(store.encode(found))
    request, _ = rerun.request_of(found, like=str(path))  # its own network has these widths
    assert [made.id for made in resolve(request)[0]] == [spec.id]


def test_hostile_names_stay_one_word():
    for text in ("a; rm -rf ~", "$(touch x)", "`x`", 'it\'s "so"', "-x", "--out=/", "a b", "*", "#", "~", "a\\"):
        spec = dataclasses.replace(SPEC, method=text, arch=text, dataset=text, config={"k" + text: text})
        found = msgspec.structs.replace(finished_record(SPEC), spec=spec)
        request, machine = rerun.request_of(found)
        expected = ["python", "-m", "bench", *request.to_words(), *machine.to_words()]
        assert shlex.split(rerun.command(found)) == expected
        chosen = parser().parse_args(words_of(found))
        assert (chosen.method, chosen.arch, chosen.dataset, chosen.options) == (text, text, text, [f"k{text}={text}"])
        assert chosen.out == Path("results")


def test_record_chooses_no_files_of_this_machine():
    for change in ({"arch": "file:/tmp/evil.py:f"}, {"dataset": "folder:/home"}, {"dataset": "folder:x@8"}):
        found = msgspec.structs.replace(finished_record(SPEC), spec=dataclasses.replace(SPEC, **change))
        with pytest.raises(UsageError, match="with the hash of their content"):
            rerun.request_of(found)
    with pytest.raises(UsageError, match="without a share"):
        rerun.request_of(finished_record(dataclasses.replace(SPEC, budget=Budget())))


# --- what is expected -------------------------------------------------------------------------------------------


def test_parts_and_versions_that_differ():
    old = finished_table(SPEC)
    same = changed(old, ("clock", "resumes"), 3)
    assert rerun.parts_that_differ(record(old), record(same)) == []
    new = changed(changed(same, ("environment", "packages", "torch"), "3.0"), ("code", "commit"), None)
    new = record(changed(new, ("metrics", "final", "loss"), 1.3))
    assert rerun.parts_that_differ(record(old), new) == ["metrics.final"]
    assert [*rerun.versions_that_differ(record(old), new)] == [
        f"code.commit: was {'c' * 40}, is None",
        "environment.packages.torch: was 2.15.0, is 3.0",
    ]


# --- the command ------------------------------------------------------------------------------------------------


@pytest.fixture
def bench(make_run, tmp_path, capsys):
    """Run a command in this process, with the folder ``mine`` for results: exit code, stdout, stderr."""

    def run(command, *words, out=None):
        code = main([str(word) for word in (command, *words, "--out", out or tmp_path / "mine", "-q")])
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def given(finished, tmp_path):
    """Path of the record of a small run, as it came with somebody's pull request."""
    spec, _, options = finished("l1_norm", "two_layers", "tiny8", train__epochs=3, out=tmp_path / "theirs")
    return store.path_of(options.out, spec)


def put(path, table):
    """Write a table as a record with a hash that fits, as a forger would."""
    path.write_bytes(line(seal(table)))
    return path


def respecified(path, **changes):
    """What a record of another specification says of it."""
    spec = dataclasses.replace(store.load(path).spec, **changes)
    return {"spec": spec_table(spec), "id": spec.id, "spec_sha256": spec.sha256}


def put_other_seeds(given, top1):
    """Records of three other seeds next to ``given``, with this accuracy."""
    for seed in (1, 2, 3):
        other = read(given) | respecified(given, seed=seed)
        del other["metrics"]["final"]["correct"]  # made to fit
        for key, value in (("top1", top1), ("top5", 1.0), ("worst_class_top1", 0.0)):
            other = changed(other, ("metrics", "final", key), value)
        put(given.parent / f"{other['id']}.json", other)


def test_honest_record_is_met_to_the_last_bit(bench, given, tmp_path):
    before = given.read_bytes()
    code, out, err = bench("reproduce", given, "--device", "cpu")
    assert (code, err) == (0, f"bench: {given.stem} again, in {tmp_path / 'mine'}\n")
    assert "every result is the same to the last bit" in out
    assert "the replay lies inside" in out
    assert len([*store.find(tmp_path / "mine" / "records")]) == 1
    assert given.read_bytes() == before
    code, out, _ = bench("reproduce", given, "--json")
    found = json.loads(out)
    assert code == 0
    assert found["was"] == found["is"]
    assert found["parts_that_differ"] == found["versions_that_differ"] == []
    assert Path(found["replay"]).is_file()


def test_record_of_this_folder_is_run_again_below_it(bench, given, tmp_path):
    folder = tmp_path / "theirs"
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    code, _, err = bench("reproduce", given.stem[:9], out=folder)
    assert code == 0
    assert f"again, in {folder / 'replays'}" in err
    assert {file: file.read_bytes() for file in before} == before
    assert store.path_of(folder / "replays", store.load(given).spec).is_file()


def test_tampered_accuracy_is_found(bench, given):
    found = read(given)
    honest = found["metrics"]["final"]["top1"]
    for key, value in (("top1", 1.0 if honest < 0.6 else 0.1), ("top5", 1.0), ("worst_class_top1", 0.0)):
        found = changed(found, ("metrics", "final", key), value)
    del found["metrics"]["final"]["correct"]  # made to fit
    put(given, found)
    code, out, err = bench("reproduce", given)
    assert code == 1
    assert "the replay lies OUTSIDE" in out
    assert "not the same to the last bit: metrics" in out
    assert "error: final top-1 of the replay is outside of" in err
    put_other_seeds(given, honest)  # which show that the record is the one that is wrong
    code, out, err = bench("reproduce", given)
    assert code == 1
    assert "error: the replay is right on other test images than the record" in err
    assert "the record lies OUTSIDE, as 1 in 20 honest records does" in out
    assert "the replay lies inside" in out
    assert "nothing recorded explains it" in out


def test_outlier_that_is_reproduced_is_ok(bench, given):
    put_other_seeds(given, 1.0)
    code, out, err = bench("reproduce", given)
    assert (code, len(err.splitlines())) == (0, 1)
    assert "the record lies OUTSIDE, as 1 in 20 honest records does" in out
    assert "the replay lies OUTSIDE, as 1 in 20 honest replays does" in out
    assert "every result is the same to the last bit" in out


def test_show_and_dry_run_print_the_command(bench, given, tmp_path, capsys):
    assert main(["show", str(given)]) == 0
    made, last = capsys.readouterr().out.splitlines()[-2:]
    found = store.load(given)
    assert last == f"again: {rerun.command(found)}"
    assert "--set precision=fp32" in last and last.endswith("--device cpu --threads 1")
    assert made == f"made with: {rerun.made_with(found)}"
    assert found.code.commit in made and f"rules {RULES}" in made
    code, out, err = bench("reproduce", given, "--dry-run")
    assert (code, err) == (0, "")
    assert not (tmp_path / "mine").exists()
    assert out.startswith(last.removeprefix("again: "))
    words = shlex.split(out)
    assert words[:3] == ["python", "-m", "bench"]
    assert [spec.id for spec in specs_of(*words[4:])] == [given.stem]
    assert parser().parse_args(words[3:]).out == tmp_path / "mine"
    odd = put(tmp_path / "odd-s0.json", read(given) | respecified(given, arch="file:/x.py:f"))
    assert main(["show", str(odd)]) == 0
    assert "no command makes it here" in capsys.readouterr().out.splitlines()[-1]


def test_replay_names_what_else_was_another(bench, given):
    found = changed(read(given), ("metrics", "final", "loss"), 9.0)
    found = changed(changed(found, ("code", "commit"), "f" * 40), ("environment", "packages", "numpy"), "0.9")
    found = changed(found, ("environment", "instructions"), "AVX9")
    found = changed(found, ("training", "base", "made", "device"), "another chip")
    del found["environment"]["packages"]["pillow"]
    code, out, _ = bench("reproduce", put(given, found))
    lines = out[out.index("not the same to the last bit: metrics.final\n") :].splitlines()
    assert code == 0
    keys = [line.strip().partition(":")[0] for line in lines[2:]]
    assert keys == [
        *("code.commit", "environment.instructions", "base.device", "environment.packages.numpy"),
        "not recorded then",
    ]
    assert lines[-1].endswith("not recorded then: environment.packages.pillow")


def test_all_records_of_one_name_are_listed(given, tmp_path, capsys):
    other = tmp_path / "theirs" / "records" / "elsewhere" / given.name
    other.parent.mkdir()
    other.write_bytes(given.read_bytes())
    for command in ("show", "reproduce", "measure"):
        assert main([command, given.stem, "--out", str(tmp_path / "theirs")]) == 2
        err = capsys.readouterr().err
        assert f"2 records have that name, give one of them as a file: {other}, {given}" in err


def test_replay_that_fails_is_an_error(bench, given, monkeypatch):
    def fail(*_):
        raise RuntimeError("no more")

    monkeypatch.setattr(PhaseTrainer, "train", fail)
    code, out, err = bench("reproduce", given)
    assert (code, out) == (1, "")
    assert "no more" in err


def test_what_cannot_be_replayed_is_refused_first(bench, given, tmp_path):
    found = read(given)
    failed = found | {"status": "failed", "error": {"type": "E", "message": "m", "traceback": [], "blame": "method"}}
    on_gpu = changed(found, ("environment", "device_type"), "cuda")
    altered = changed(found, ("curve", "train_loss"), [0.5 for _ in found["curve"]["train_loss"]])
    (tmp_path / "altered-s0.json").write_bytes(line(altered))
    (tmp_path / "damaged.json").write_text("{")
    forged = put(tmp_path / "forged-s0.json", changed(found, ("spec", "coupling"), "full"))
    for words, code, said in (
        (("none.json",), 2, "no record of that name"),
        (("0123456789ab",), 2, "no record of that name"),
        ((given, "--seeds", "0"), 2, "--only and --seeds are for publications"),
        ((given, "--threads", "2"), 2, "was made with 1, and so is its replay"),
        ((given, "--device", "cuda"), 2, "was made with cpu, and so is its replay"),
        ((put(tmp_path / "failed-s0.json", failed),), 2, "that run failed"),
        ((put(tmp_path / "older-s0.json", found | respecified(given, rules="0.0")),), 2, "(rules)"),
        ((forged,), 1, "the hash of the specification is"),
        ((tmp_path / "damaged.json",), 1, "not JSON"),
        ((tmp_path / "altered-s0.json",), 1, "its content is not what record_sha256 was made of"),
        *(
            []
            if torch.cuda.is_available()
            else [((put(tmp_path / "gpu-s0.json", on_gpu),), 3, "was made on cuda, which is not here")]
        ),
    ):
        got, out, err = bench("reproduce", *words)
        assert (got, out) == (code, ""), err
        assert said in err
        assert len(err.splitlines()) == 1
    assert not (tmp_path / "mine").exists()
