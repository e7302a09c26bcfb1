"""Distillation as a part; numbers are those of the tests (g) of section 18 of methods_related.md."""

import numpy as np
import pytest
import torch
from support.plugins import known
from support.whole_runs import verified

from bench.conformance import tiny_networks
from bench.conformance.subject import Subject, difference
from bench.data import loading
from bench.errors import UsageError
from bench.measure.accuracy import logits_of, quality
from bench.runs.method_factory import make_method
from bench.runs.pipeline import RunPipeline
from methods.distillation import Distill


@pytest.fixture(scope="module", autouse=True)
def _networks():
    with known(tiny_networks.__file__):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("distilled")


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def by_hand(student, teacher, labels, a, t):
    """Loss and its gradient by the student's logits, float64, from the definition."""
    n = len(student)
    hard, soft, wanted = softmax(student), softmax(student / t), softmax(teacher / t)
    one_hot = np.eye(student.shape[1])[labels]
    entropy = -(one_hot * np.log(hard)).sum(axis=1).mean()
    divergence = (wanted * (np.log(wanted) - np.log(soft))).sum(axis=1).mean()
    gradient = ((1 - a) * (hard - one_hot) + a * t * (soft - wanted)) / n
    return (1 - a) * entropy + a * t**2 * divergence, gradient


class Given:
    """A context with a teacher's logits."""

    def __init__(self, logits, y, smoothing=0.0):
        self.given, self.y = logits, y
        self.recipe = type("", (), {"label_smoothing": smoothing})

    def teacher(self):
        return self.given


@pytest.mark.parametrize(("a", "t"), [(0.9, 4.0), (0.5, 1.0), (1.0, 20.0), (0.0, 4.0)])
def test_mr_18g2_loss_and_gradient_are_those_of_the_definition(a, t):
    """MR 18(g)2: the gradient of the term is ``a T (softmax(z_s / T) - softmax(z_t / T)) / B``."""
    generator = torch.Generator().manual_seed(1)
    student, teacher = (3 * torch.randn(16, 10, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.arange(16) % 10
    student.requires_grad_(True)
    loss = Distill(Distill.Config(weight=a, temperature=t)).objective(Given(teacher, labels), student)
    loss.backward()
    expected, gradient = by_hand(student.detach().numpy(), teacher.numpy(), labels.numpy(), a, t)
    assert loss.item() == pytest.approx(expected, abs=1e-12)
    assert np.abs(student.grad.numpy() - gradient).max() < 1e-12


def test_mr_18g2_equal_logits_have_no_term():
    """MR 18(g)2: for z_s = z_t the term and its gradient are 0; label smoothing is in the other term alone."""
    logits = torch.randn(8, 10, requires_grad=True)
    method = Distill(Distill.Config(weight=1.0))
    loss = method.objective(Given(logits.detach(), torch.arange(8), 0.3), logits)
    loss.backward()
    assert abs(loss.item()) < 1e-6 and logits.grad.abs().max() < 1e-6


def test_mr_18g1_weight_0_is_the_ranking_alone_to_the_bit(folder, monkeypatch):
    """MR 18(g)1 and 18(g)5: so is, with any weight, what is pruned and not fine-tuned."""
    plain, composed = (Subject(name, folder).run() for name in ("l1_norm", "l1_norm+distill"))
    one, two = (run.done.now.prune_result["pruned"] for run in (plain, composed))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert "weights" not in (found := difference(plain, composed)) and "finetune" in found
    monkeypatch.setattr(Distill.Config, "__init__", lambda self: None)
    monkeypatch.setattr(Distill.Config, "weight", 0.0)
    assert difference(plain, Subject("l1_norm+distill", folder).run()) is None


def test_mr_18g3_teacher_is_the_recorded_dense_network(make_run):
    """MR 18(g)3: bit-equal to the base after training, with the accuracy that the record gives dense."""
    spec, options = make_run("l1_norm+distill", "check_chain", "tiny8")
    run = RunPipeline(spec, options)
    run.go()
    ((_, teacher),) = run.training.ctx._teachers._networks.values()
    assert all(torch.equal(teacher.state_dict()[name], value) for name, value in run.base.state.items())
    test, _ = loading.load_test(run.dataset, options.data_dir, run.data.train, run.cache, run.progress)
    dense = run.result.metrics.dense
    assert quality(logits_of(teacher, test), test.labels)["loss"] == dense.loss


def test_mr_18g4_costs_a_dense_forward_for_each_example(make_run):
    """MR 18(g)4; the record has it in parts that add up, and verifies."""
    plain, taught = (verified(make_run(name, dataset="tiny8")) for name in ("l1_norm", "l1_norm+distill"))
    tuned = taught.training.examples - taught.training.base.examples
    assert taught.training.macs - plain.training.macs == tuned * taught.cost.dense.macs
    assert taught.training.macs_by == plain.training.macs_by | {"teacher": tuned * taught.cost.dense.macs}
    assert [(extra.what, extra.name) for extra in taught.training.extras] == [
        ("objective", "distill"),
        ("teacher", "base"),
    ]
    assert plain.training.extras is None


def test_method_that_only_asks_the_base_pays_for_it(make_run):
    """From init: epochs, examples and MACs of the teacher's training count."""
    plain, taught = (verified(make_run(name, dataset="tiny8")).training for name in ("dropout", "dropout+distill"))
    assert (plain.starts_from, taught.starts_from) == ("init", "init")
    assert taught.epochs == plain.epochs + taught.base.epochs
    assert taught.examples == plain.examples + taught.base.examples
    assert taught.macs == plain.macs + taught.base.macs + taught.macs_by["teacher"]


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [("weight", "1.5", "from 0 to 1"), ("weight", "-0.1", "from 0 to 1"), ("temperature", "0", "above 0")],
)
def test_bad_options_are_answered_with_the_range(option, value, said):
    with pytest.raises(UsageError, match=rf"{option} {float(value)}: {said}"):
        make_method("distill", {option: value})
