"""Precision: pinned before a run has its id, part of records and bases, emulated only with a note."""

import dataclasses

import pytest

from bench import RULES
from bench.cli import main
from bench.errors import UsageError
from bench.measure import environment, processor
from bench.runs.execute import execute
from bench.runs.resolve import make_spec
from bench.spec.recipe import load_recipe
from bench.training.loop import PhaseTrainer


@pytest.mark.parametrize(("here", "becomes"), [(True, "bf16"), (False, "fp32")])
def test_auto_precision_is_resolved_before_the_id(monkeypatch, here, becomes):
    monkeypatch.setattr(environment, "has_bf16", lambda device: here)
    monkeypatch.setattr(processor, "cpu", lambda: ("some", frozenset(processor.BF16 if here else ())))

    def spec(precision):
        recipe = load_recipe("cifar", {"precision": precision})
        return make_spec("dense", "resnet20", "cifar10", recipe, None)

    assert spec("auto").id == spec(becomes).id
    assert spec("fp32").id != spec("bf16").id
    assert spec("auto").recipe.precision == spec("auto").as_dict()["recipe"]["precision"] == becomes


def test_each_precision_has_its_own_record_and_base(finished):
    one, two = (finished(precision=precision)[1] for precision in ("fp32", "bf16"))
    assert (one.training.precision, two.training.precision) == ("fp32", "bf16")
    assert one.id != two.id
    assert one.spec.recipe.sha256 != two.spec.recipe.sha256
    assert one.training.base.id != two.training.base.id


def test_unresolved_specification_does_not_run(make_run):
    spec, options = make_run()
    auto = dataclasses.replace(spec, recipe=dataclasses.replace(spec.recipe, precision="auto"))
    older = dataclasses.replace(spec, rules="0.1")
    for other, said in ((auto, "precision auto"), (older, f"of rules 0.1, this is {RULES}")):
        with pytest.raises(UsageError, match=said):
            execute(other, options)
    assert not (options.out / "records").exists()


@pytest.mark.parametrize(("flags", "said"), [({"avx2"}, "no instructions for bf16"), ({"avx512_bf16"}, "")])
def test_emulated_bf16_is_noted_before_training(make_run, monkeypatch, capsys, flags, said):
    monkeypatch.setattr(environment, "cpu", lambda: ("a CPU", frozenset(flags)))
    monkeypatch.setattr(PhaseTrainer, "train", lambda *_: 1 / 0)
    with pytest.raises(Exception, match="division"):
        execute(*make_run(precision="bf16"))
    err = capsys.readouterr().err
    assert (said in err) and bool(said) == ("a CPU" in err)


def test_jobs_on_slurm_need_a_pinned_precision(capsys, tmp_path):
    words = ["--method", "dense", "--arch", "resnet20", "--dataset", "cifar10", "--out", str(tmp_path), "--dry-run"]
    assert main(["run", *words, "--cluster", "slurm"]) == 0  # the recipe's own
    capsys.readouterr()
    assert main(["run", *words, "--cluster", "slurm", "--set", "precision=auto"]) == 2
    assert "precision auto depends on the machine" in capsys.readouterr().err
    sweep = tmp_path / "sweep.toml"
    sweep.write_text('[[runs]]\nmethod = "dense"\narch = "resnet20"\ndataset = "cifar10"\nseeds = "0"\n')
    text = sweep.read_text()
    sweep.write_text(text + 'settings = {precision = "auto"}\n')
    assert main(["sweep", str(sweep), "--out", str(tmp_path), "--cluster", "slurm", "--dry-run"]) == 2
    assert "--set precision=fp32 or bf16" in capsys.readouterr().err
    sweep.write_text(text + 'settings = {precision = "bf16"}\n')
    assert main(["sweep", str(sweep), "--out", str(tmp_path), "--cluster", "inline", "--dry-run"]) == 0
