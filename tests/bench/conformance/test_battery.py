"""The battery: who keeps the contract passes it, who breaks it fails the check that is there for that."""

import ast
from unittest import SkipTest

import pytest
import torch
from support.paths import PLUGINS
from support.plugins import known, shared_bases

from bench.conformance import check_declared, check_reached, check_remains, tiny_networks
from bench.conformance.checks import Broken, Check
from bench.conformance.runner import CHECKS, LEAST, Report, Result, checks_for, examine
from bench.errors import UsageError
from bench.spec.recipe import load_recipe, recipe_names
from bench.spec.registry import METHODS, add_plugin

BROKEN = {
    "undocumented": ("documented", "no docstring"),
    "half_a_paper": ("documented", "lacks authors, year, title or venue"),
    "wrong_default": ("config", "default of option batches is not of its type"),
    "thawed": ("config", "not a frozen dataclass"),
    "divides_options": ("options", "-p every=0 ends in ZeroDivisionError"),
    "moody_plan": ("plan", "another plan when asked again"),
    "warm_up_part": ("plan", "'warmup': train or finetune"),
    "from_scratch": ("starting_point", "'scratch': init or base"),
    "crashes": ("runs", "KeyError: 'no such site' (nonconforming.py:"),
    "exits": ("runs", "SystemExit: 3"),
    "nan_scores": ("scores", "site 0 on check_chain are not finite"),
    "wrong_shape": ("scores", "have shape [11], not [12]"),
    "missing_site": ("scores", "no scores for site 0"),
    "whole_numbers": ("scores", "int64, not floating point"),
    "min_max": ("scores", "on check_narrow are not finite"),
    "per_norm": ("scores_of_a_dead_unit", "with a unit of zero weights are not finite"),
    "needs_norms": ("every_network", "check_concatenation: TypeError"),
    "over_budget": ("budget_macs", "the budget of 0.75 of the MACs"),
    "scales_by_width": ("gate_is_slice", "check_chain: gated and sliced network differ"),
    "pays_back": ("record", "training: Expected `int` >= 0"),
    "moves_the_goal": ("runs", "the budget of 0.5 of the MACs"),
    "macs_only": ("budget_params", "TypeError"),
    "no_first_reader": ("blocks_and_widths", "IndexError"),
    "half_steps": ("round_to", "--round-to 4 asks for a multiple of 4"),
    "one_unit": ("min_keep", "keeps 1 units; --min-keep is 3"),
    "one_producer": ("full_coupling", "KeyError: '0.0'"),
    "not_really_native": ("native", "AssertionError"),
    "first_come": ("order_of_units", "do not follow its units"),
    "vector_penalty": ("penalty", "shape [1], it must be a scalar"),
    "detached_penalty": ("penalty", "no gradient"),
    "diverges": ("penalty", "not finite"),
    "square_root": ("penalty_of_a_dead_unit", "gradient is not finite"),
    "tidies_up": ("network_untouched", "scores changes '0.weight'"),
    "leaves_gradients": ("network_untouched", "scores leaves a gradient on"),
    "starts_over": ("starting_weights", "prepare changes the weights of the base"),
    "steps_back": ("trains", "no parameter of the network changes in epoch 1 of step 0"),
    "looks_while_training": ("statistics", "on_batch_start makes a forward pass"),
    "freezes": ("modes", "on_phase_end leaves modules in another mode, or parameters frozen"),
    "peeks": ("test_set", "asks for the split 'test'"),
    "chatty": ("quiet", "prints 'epoch 0 epoch 1 epoch 2 epoch 3'"),
    "hooks_for_good": ("nothing_left", "leaves a hook on module ''"),
    "renames_itself": ("nothing_left", "modules ['mine']"),
    "hooks_until_the_end": ("nothing_left_after_an_error", "after an error in on_phase_start: a hook on"),
    "sleepy": ("overhead", "times as long as a plain one"),
    "counts_runs": ("deterministic", "other units are kept"),
    "dice": ("own_generator", "draw from ctx.rng"),
    "fixed_seed": ("own_generator", "prepare seeds torch's global generator"),
    "seed_zero_only": ("seeds", "ValueError: try seed 0"),
    "forgetful": ("resume", "what must survive belongs into a buffer"),
    "late_buffer": ("state", "'seen' is registered after prepare"),
    "share_of_epochs": ("no_epochs", "ZeroDivisionError"),
    "full_batches": ("one_batch", "RuntimeError"),
    "to_numpy": ("bfloat16", "TypeError: Got unsupported ScalarType BFloat16"),
    "sole_owner": ("composition", "RuntimeError: not my plan"),
    "tunes_half": ("runs", "RuntimeError: the hook ran"),
    "tunes_a_quarter": ("runs", "RuntimeError: the hook ran"),
    "no_such_coupling": ("starting_point", "couplings = ('outer',): a tuple of full and inner"),
    "one_kind_as_text": ("starting_point", "kinds = 'conv': a tuple of block and conv and linear"),
    "needs_something": ("starting_point", "needs = ('luck',): a tuple of foldable and maps and relu and scaled_norm"),
    "writes_anywhere": ("starting_point", "writes = ('on_batch_start',): a tuple of on_epoch_end"),
    "two_rankings": ("hooks_ran", "scores of two_rankings is not called in a run of 4 + 4 epochs"),
    "late_step": ("hooks_ran", "40 + 20 epochs: the hook waits for 'ctx.epoch < 100'"),
    "long_recipes_only": ("hooks_ran", "the hook waits for 'ctx.recipe.train.epochs >= 150'"),
    "reads_digits_when_it_is_late": ("full_recipe", "the method reads_digits_when_it_is_late "),
    "zero_penalty": ("penalty", "penalty is 0 in every step"),
    "later_penalty": ("penalty", "penalty is 0 in every step"),
    "zero_objective": ("objective", "the gradient of objective for the logits is 0 in every step"),
    "starves_a_layer": ("phases_train", "'0.weight' is the same after step 0 of the plan"),
    "starts_again": ("phase_hooks", "on_phase_start of starts_again runs 5 times in 1 phases"),
    "refuses_late": ("declared", "it refuses check_flatten once the base is trained (ValueError: convolutions only"),
    "reads_labels_elsewhere": ("declared", "it declares labels = False, and "),
    "computes_past_the_ledger": ("charged", "multiply-adds, 0 of them are charged: pass images by ctx.forward"),
    "changes_the_context": ("facade", "on_phase_start changes 'rank' of the context's class"),
    "remembers_the_dense_size": ("after_prune", "as remembers_the_dense_size+check_cuts: RuntimeError"),
}
SLOW = {
    *("tunes_a_quarter", "moves_the_goal", "whole_numbers", "min_max", "later_penalty", "diverges"),
    *(
        "leaves_gradients",
        "renames_itself",
        "fixed_seed",
        "no_such_coupling",
        "writes_anywhere",
        "late_step",
        "long_recipes_only",
    ),
}
"""Further ways to fail a check that another of these methods fails."""
PLUGIN_FILES = ("broken", "nonconforming", "disturbing", "dormant", "declaring", "reading", "further")
ONLY = (
    "starves_a_layer",
    "starts_again",
    "computes_past_the_ledger",
    "changes_the_context",
    "remembers_the_dense_size",
)
"""Methods that pass every other check."""
APART = {"gpu", "imports", "context", "device", "files"}
"""Checks of texts, which have a test of their own below, and the one that needs a device."""


@pytest.fixture(autouse=True, scope="module")
def _own_plugins():
    files = (PLUGINS / f"{name}.py" for name in PLUGIN_FILES)
    with known(*files, tiny_networks.__file__), shared_bases():
        yield


def outcome(name, check):
    """The one result of one check."""
    (result,) = examine(name, [check]).results
    return result


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in BROKEN])
def test_broken_method_fails_its_check(name, monkeypatch):
    monkeypatch.setattr(check_remains, "SLOWEST", 2)
    monkeypatch.setattr(check_reached, "WHOLE", {"train__epochs": "50", "finetune__epochs": "1"})
    check, said = BROKEN[name]
    result = outcome(name, check)
    assert (result.outcome, said in result.detail) == ("FAILED", True), result
    assert "\n" not in result.detail


@pytest.mark.slow
@pytest.mark.parametrize("name", ONLY)
def test_only_this_check_finds_it(name):
    failed = [r.name for r in examine(name, limit=300).results if r.outcome in ("FAILED", "not run")]
    assert failed == [BROKEN[name][0]]


def test_whole_recipe_is_as_long_as_any_of_the_suite():
    recipes = [load_recipe(name) for name in recipe_names()]
    for part in ("train", "finetune"):
        longest = max(getattr(recipe, part).epochs for recipe in recipes)
        assert int(check_reached.WHOLE[f"{part}__epochs"]) >= longest, part


def test_every_check_can_fail():
    assert set(CHECKS) == {check for name, (check, _) in BROKEN.items() if name not in SLOW} | APART


TEXTS = {
    "imports": ("from bench.data.loading import load_test", "load_test; of the harness only bench.api is for methods"),
    "imports digits": ("def late():\n    from sklearn.datasets import load_digits", "images come from ctx.batches"),
    "imports mnist": ("def late():\n    import torchvision.datasets as sets", "images come from ctx.batches"),
    "imports loader": ("from torch.utils.data import DataLoader", "images come from ctx.batches"),
    "imports gc": ("import gc", "a way around ctx"),
    "imports late": ("def late():\n    import importlib", "a way around ctx"),
    "context": ("def peek(ctx): return ctx._data.train", "uses ctx._data, which is private"),
    "context network": ("def peek(ctx): return ctx.network", "uses ctx.network, which a context does not have"),
    "context alias": ("def peek(c): return c._model.optimizer", "uses c._model, which is private"),
    "context kept": ("def peek(self): return self.ctx._now", "uses self.ctx._now, which is private"),
    "context getattr": ("def peek(c): return getattr(c, '_data')", "which is private"),
    "context name": ("def peek(ctx, name): return getattr(ctx, name)", "which is private"),
    "context dict": ("def peek(c): return c.__dict__['_data']", "uses c.__dict__, which is private"),
    "context vars": ("def peek(c): return vars(c)['_data']", "uses vars(), which no reader can follow"),
    "context import": ("def peek(): return __import__('sklearn')", "uses __import__(), which no reader can follow"),
    "context recipe": ("def set(c): object.__setattr__(c.recipe, 'augment', 'none')", "__setattr__, which is private"),
    "context hook": (
        "from torch.nn.modules.module import register_module_forward_hook as watch",
        "register_module_forward_hook, which is for the whole process",
    ),
    "context dtype": ("def change(torch): torch.set_default_dtype(torch.float64)", "which is for the whole process"),
    "device": ("def move(x): return x.cuda()", "x.cuda() names a device; use ctx.device"),
    "files": ("def keep(x): return open('x', 'w')", "reads or writes a file"),
}


def test_text_that_reaches_nothing_is_left_alone():
    for text in ("self._kept = 1", "cls._kept", "torch._foreach_norm(x)", "x.__class__", "getattr(site, 'norms')"):
        assert not any(check_declared.reaching(node, {"torch"}) for node in ast.walk(ast.parse(text))), text


def test_text_that_reaches_too_far_fails_its_check(tmp_path):
    for case, (line, said) in TEXTS.items():
        name, check = f"reaching_{case.replace(' ', '_')}", case.split()[0]
        file = tmp_path / f"{name}.py"
        function = "def reach(site):\n    return site.rows().norm(dim=1)\n"
        file.write_text(f"from bench.api import importance\n\n{line}\n\n@importance('{name}')\n{function}")
        add_plugin(str(file))
        result = outcome(name, check)
        assert (result.outcome, said in result.detail) == ("FAILED", True), (case, result)


@pytest.mark.parametrize(("name", "limit", "patience"), [("hangs", 0.3, 100), ("waits", 100, 0.007)])
def test_battery_ends_what_hangs_without_a_verdict(name, limit, patience):
    report = examine(name, ["documented", "runs", "deterministic"], limit=limit, patience=patience)
    assert [(r.outcome, r.detail[:11]) for r in report.results[1:]] == [("not run", "out of time")] * 2
    assert report.verdict == "INCOMPLETE"


@pytest.mark.slow
def test_battery_reaches_late_epochs_in_a_longer_run():
    assert outcome("late_but_reached", "hooks_ran").outcome == "ok"


@pytest.mark.parametrize(
    ("name", "checks"),
    [
        ("inner_only", ["full_coupling"]),
        ("few_units_only", ["every_network", "full_coupling"]),
        pytest.param("convs_only", ["every_network", "full_coupling"], marks=pytest.mark.slow),
    ],
)
def test_declared_support_is_no_failure(name, checks):
    results = examine(name, checks).results
    assert {r.outcome for r in results} <= {"ok", "not run"}, results


@pytest.mark.slow
def test_method_of_linear_layers_is_run_on_some():
    """On a chain of convolutions it exempts every site."""
    results = examine("neurons_only", ["runs", "budget_macs", "min_keep", "every_network", "record"]).results
    assert {r.outcome for r in results} == {"ok"}, results
    assert results[0].detail.startswith("40-20 units become")


def test_battery_uses_one_thread_and_restores_the_number(monkeypatch):
    torch.set_num_threads(2)
    used = []
    monkeypatch.setattr(check_remains, "left_clean", lambda run: used.append(torch.get_num_threads()))
    outcome("l1_norm", "nothing_left")
    assert (used, torch.get_num_threads()) == ([1], 2)


def test_method_that_does_not_run_is_not_checked_further():
    report = examine("crashes", ["runs", "seeds", "documented"])
    assert {r.name: r.outcome for r in report.results} == {"documented": "ok", "runs": "FAILED", "seeds": "not run"}
    assert report.verdict == "FAILED"
    assert "resume" in report.missing


def test_control_that_keeps_everything_skips_with_reasons():
    report = examine("dense", ["runs", "order_of_units", "penalty"])
    assert [(r.outcome, r.detail) for r in report.results if r.name != "runs"] == [
        ("skipped", "the method keeps every unit"),
        ("skipped", "it has no penalty"),
    ]
    assert report.count("ok") == 1
    assert str(report).startswith("dense: INCOMPLETE: 1 checks ran, 1 passed, 0 failed, 2 skipped")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS.entries()))
def test_every_method_of_the_suite_passes(name):
    report = examine(name, limit=300)
    assert report.verdict == "PASSED", [r for r in report.results if r.outcome in ("FAILED", "not run")]
    assert report.count("ok") >= LEAST


# --- what a verdict takes -----------------------------------------------------------------------------------------


def report_of(outcomes):
    return Report("x", results=[Result(name, outcome) for name, outcome in outcomes.items()])


def test_nothing_but_the_whole_battery_passes():
    passed = dict.fromkeys(CHECKS, "ok")
    assert report_of(passed).verdict == "PASSED"
    optional = next(name for name, check in CHECKS.items() if not check.mandatory)
    assert report_of({k: v for k, v in passed.items() if k != optional}).verdict == "PASSED"
    assert report_of({k: v for k, v in passed.items() if k != "resume"}).verdict == "INCOMPLETE"
    assert report_of(passed | {"resume": "not run"}).verdict == "INCOMPLETE"
    assert report_of(passed | {"resume": "FAILED"}).verdict == "FAILED"
    assert report_of(dict.fromkeys(CHECKS, "skipped")).verdict == "INCOMPLETE"
    assert report_of({}).verdict == "INCOMPLETE"


def test_the_battery_has_at_least_twenty_checks_each_with_its_reason():
    assert sum(check.mandatory for check in CHECKS.values()) >= 20 <= LEAST
    for check in CHECKS.values():
        assert isinstance(check, Check)
        assert check.why.endswith(".") and len(check.why) > 30, check.name
        assert check.function.__doc__


# --- as parameters of a test -----------------------------------------------------------------------------------


def test_checks_for_a_test_pass_fail_and_skip():
    good = {check.__name__: check for check in checks_for("l1_norm")}
    assert list(good) == list(CHECKS)
    good["documented"]()
    with pytest.raises(SkipTest, match="it has no penalty"):
        good["penalty"]()
    bad = {check.__name__: check for check in checks_for("undocumented", PLUGINS / "nonconforming.py")}
    with pytest.raises(Broken, match=r"documented: .*no docstring"):
        bad["documented"]()
    with pytest.raises(UsageError, match="unknown method"):
        checks_for("no_such_method")[0]()
