"""Runs that prune blocks: recorded, verified, repeated, copied by others and exported (B3, B4, B5, B8)."""

import copy
import dataclasses
import json
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file
from support.plugins import known
from support.records import line, seal
from support.requested import request_of, specs_of
from torch import nn

from bench.conformance import tiny_networks
from bench.conformance.tiny_networks import SHAPE, depth
from bench.errors import Unsupported, UsageError, WordsError
from bench.measure.onnx_export import convert
from bench.pruning import site_discovery
from bench.pruning.site_discovery import find_sites
from bench.records import bits, store
from bench.records.latency import shape_of
from bench.runs import rerun
from bench.runs.artifacts import RunArtifacts
from bench.runs.execute import execute
from bench.runs.pipeline import RunPipeline
from bench.runs.resolve import resolve
from bench.runs.verify import verify_file
from bench.spec.request import RunRequest
from bench.spec.spec import Budget, Spec


@pytest.fixture(autouse=True)
def _tiny_networks(plugins):
    with known(tiny_networks.__file__):
        yield


@pytest.fixture
def ran(finished):
    """A finished run on the network with blocks: its specification, record and options."""
    return lambda method="random", units="both", keep=0.5, **more: finished(
        method, "check_depth", "check_images", keep=keep, units=units, **more
    )


def checks(spec, options):
    return {
        c.name: (c.outcome, c.detail) for c in verify_file(store.path_of(options.out, spec), options.out, options.out)
    }


def removed(structure):
    """Numbers of the blocks that are gone, in check_depth."""
    names = {"1": (1, 2, 3), "5": (5, 6)}
    return [name for site, text in structure.blocks.items() for name, bit in zip(names[site], text) if bit == "0"]


# --- B3: record, verify, rerun ----------------------------------------------------------------------------------------


def test_blocks_and_widths_are_recorded_and_verified(ran):
    """B3: widths of absent sites are 0; the stored masks have the blocks."""
    spec, done, options = ran()
    structure = done.structure
    assert set(structure.blocks) == {"1", "5"} and removed(structure)
    assert {name for name, (_, after) in structure.widths.items() if not after} == {
        f"{k}.body.0" for k in removed(structure)
    }
    assert structure.widths["1"] == (3, structure.blocks["1"].count("1"))
    assert structure.gate_slice_difference <= 1e-6
    assert 0.45 <= done.cost.final.macs / done.cost.dense.macs <= 0.5  # a channel is 2 %
    assert {outcome for outcome, _ in checks(spec, options).values()} == {"ok"}
    stored = load_file(options.out / "artifacts" / spec.id / "masks.safetensors")
    assert "".join(map(str, stored["1"].tolist())) == structure.blocks["1"]
    final = RunArtifacts(done, options.out).final()
    assert all(isinstance(final[k], nn.Identity) for k in removed(structure))


def test_blocks_alone_are_recorded_and_verified(ran):
    spec, done, options = ran(units="depth", keep=0.7)
    assert set(done.structure.widths) == set(done.structure.blocks) == {"1", "5"}
    assert done.structure.units_after == sum(text.count("1") for text in done.structure.blocks.values())
    assert {outcome for outcome, _ in checks(spec, options).values()} == {"ok"}


def test_record_is_run_again_alike(ran, tmp_path):
    """B3: the command of the record makes its specification; another run gives the same bits."""
    for units, budget in (
        ("both", Budget(keep_macs=0.4, keep_blocks=0.6, min_blocks=1)),
        ("depth", Budget(keep_macs=0.5, min_blocks=0)),
    ):
        spec, done, options = ran(units=units, keep=budget)
        request, _ = rerun.request_of(done)
        assert resolve(request)[0] == [spec]
        words = request.to_words()
        assert words[words.index("--units") + 1] == units and "--min-blocks" in words
        again = execute(spec, dataclasses.replace(options, out=tmp_path / units))
        assert rerun.parts_that_differ(done, again) == []


def test_run_is_the_same_when_it_was_stopped(ran, tmp_path):
    """B3: after every checkpoint, also the one behind the prune."""
    from bench.training.loop import PhaseTrainer

    spec, done, options = ran()
    save, stops = PhaseTrainer.save, []

    def stop(self, position):
        save(self, position)
        stops.append(position)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PhaseTrainer, "save", stop)
        while True:
            try:
                again = execute(spec, dataclasses.replace(options, out=tmp_path / "stopped"))
                break
            except KeyboardInterrupt:
                assert len(stops) < 20
    assert len(stops) >= 3
    assert rerun.parts_that_differ(done, again) == []


@pytest.mark.parametrize(
    ("forge", "why"),
    [
        (lambda s: s["blocks"].update({"1": "111"}), "structure.masks keep the blocks"),
        (lambda s: s["blocks"].update({"7": "1"}), "structure.blocks: '7' has no widths"),
        (lambda s: s["blocks"].update({"1": "1x1"}), "a 1 or a 0 for each block"),
        (lambda s: s.pop("blocks"), "structure.blocks: spec prunes both"),
    ],
)
def test_forged_blocks_are_refused(ran, forge, why):
    _, done, _ = ran()
    table = copy.deepcopy(store.as_table(done))
    table.pop("record_sha256", None)
    forge(table["structure"])
    with pytest.raises(store.RecordError, match=why):
        store.decode(line(seal(table)), "x")


def test_absent_sites_that_are_not_are_found(ran):
    """A width of 0 in a block that stays, with masks and sums that fit: the network tells."""
    spec, done, options = ran()
    table = copy.deepcopy(store.as_table(done))
    structure = table["structure"]
    gone, there = f"{removed(done.structure)[0]}.body.0", "4.body.0"
    widths = structure["widths"]
    widths[gone], widths[there] = [widths[gone][0], 2], [widths[there][0], 0]
    kept = {n: [k < after for k in range(before)] for n, (before, after) in widths.items()}
    kept |= {n: [bit == "1" for bit in text] for n, text in structure["blocks"].items()}
    structure["masks"] = bits.pack([bit for n in sorted(kept) for bit in kept[n]])
    structure["units_after"] = sum(sum(mask) for mask in kept.values())
    del table["record_sha256"]
    store.path_of(options.out, spec).write_bytes(line(table))
    found = checks(spec, options)["MACs and params from widths"]
    assert found[0] == "FAILED" and "removed blocks have 0 units left" in found[1]


def test_latency_belongs_to_the_blocks_that_stay(ran):
    """Two networks with as many blocks in each site are two shapes where others stay."""
    _, done, _ = ran(units="depth", keep=0.7)
    assert shape_of(done.structure) == {
        f"{site} {k}": (1, int(bit)) for site, text in done.structure.blocks.items() for k, bit in enumerate(text)
    }


# --- copies -----------------------------------------------------------------------------------------------------------


def test_another_run_takes_widths_and_blocks(ran, tmp_path):
    spec, done, options = ran()
    path = store.path_of(options.out, spec)
    words = ("--method", "check_importance+random", "--arch", "check_depth", "--dataset", "check_images")
    (like,) = specs_of(*words[:1], "random", *words[2:], "--recipe", "synthetic", "--units", "both", "--like", path)
    assert like.budget.blocks == tuple(text for _, text in sorted(done.structure.blocks.items()))
    recipe = spec.recipe
    copied = execute(
        dataclasses.replace(like, recipe=recipe, seed=1), dataclasses.replace(options, out=tmp_path / "like")
    )
    assert copied.structure.widths == done.structure.widths
    assert copied.structure.blocks == done.structure.blocks
    assert copied.structure.masks != done.structure.masks
    assert copied.cost.final.macs == done.cost.final.macs
    for units in ("width", "depth"):
        with pytest.raises(UsageError, match="that run has --units both"):
            specs_of("--method", "random", *words[2:], "--recipe", "synthetic", "--units", units, "--like", path)


def test_blocks_of_another_run_count_by_their_number(ran, tmp_path):
    spec, done, options = ran(units="depth", keep=0.7)
    (like,) = specs_of(
        *("--method", "random", "--arch", "check_depth", "--dataset", "check_images", "--recipe", "synthetic"),
        *("--units", "depth", "--like", store.path_of(options.out, spec)),
    )
    assert like.budget.widths == tuple(after for _, (_, after) in sorted(done.structure.widths.items()))
    assert not like.budget.blocks
    seeds = {}
    for seed in range(1, 4):
        run = dataclasses.replace(like, recipe=spec.recipe, seed=seed)
        seeds[seed] = execute(run, dataclasses.replace(options, out=tmp_path / "like")).structure
    assert {tuple(s.widths.items()) for s in seeds.values()} == {tuple(done.structure.widths.items())}
    assert len({tuple(s.blocks.values()) for s in seeds.values()}) > 1


# --- asked for and refused --------------------------------------------------------------------------------------------


def test_words_that_do_not_go_together():
    for words, why in (
        (("--min-blocks", "1"), "--min-blocks: blocks are pruned with --units depth or both"),
        (("--units", "depth", "--keep-blocks", "0.5"), "--keep-blocks: with --units both"),
        (("--units", "depth", "--native", "--min-blocks", "1"), "without --ranking and --min-keep and --min-blocks"),
        (("--units", "both", "--like", "x", "--keep-blocks", "0.5"), "--like: the record says which blocks stay"),
        (("--units", "both", "--keep-blocks", "1.5"), "--keep-blocks 1.5: give the share to keep"),
    ):
        with pytest.raises((WordsError, UsageError), match=why):
            resolve(request_of("-m", "random", "-a", "resnet20", *words))
    with pytest.raises(WordsError, match="--units all: width or depth or both"):
        RunRequest("random", "resnet20", units="all")


def test_refusals_come_before_any_training(make_run, tmp_path):
    """B5: below the floor; networks without blocks; methods that do not work on them."""
    for method, arch, units, keep, kind, why in (
        ("random", "check_depth", "depth", 0.4, UsageError, "2 of the 5 blocks, which stay, already cost 0.5"),
        ("random", "two_layers", "depth", 0.5, UsageError, "no block that can be removed"),
        ("random", "two_layers", "both", 0.5, UsageError, "no block that can be removed"),
        ("l1_norm", "check_depth", "depth", 0.7, Unsupported, "l1_norm does not work on site 1: it is of kind block"),
        ("block_l1", "check_depth", "width", 0.7, Unsupported, "it is of kind conv, not block"),
        ("block_l1+l1_norm", "check_depth", "depth", 0.7, Unsupported, "l1_norm ranks conv and linear sites"),
    ):
        with pytest.raises(kind, match=why):
            execute(*make_run(method, arch, "check_images", keep=keep, units=units))
    assert not list(tmp_path.rglob("*.json")) and not list(tmp_path.rglob("bases/*"))


# --- B4: nothing changes for widths -----------------------------------------------------------------------------------


def test_specifications_of_widths_have_no_word_of_blocks(make_run, monkeypatch):
    """B4: neither the hash nor the record's text, and blocks are not looked for."""
    spec, options = make_run("random", "check_depth", "check_images")
    again = dataclasses.replace(spec, budget=Budget(keep_macs=0.5))
    assert spec.id == again.id == Spec.from_dict(json.loads(json.dumps(spec.as_dict()))).id
    assert not {"units", "keep_blocks", "min_blocks", "blocks"} & {*spec.as_dict(), *spec.as_dict()["budget"]}
    asked = request_of("-m", "random", "-a", "resnet20")
    assert resolve(asked)[0][0].id == resolve(request_of("-m", "random", "-a", "resnet20", "--units", "width"))[0][0].id

    def looked(*args):
        raise AssertionError("blocks are looked for")

    monkeypatch.setattr(site_discovery, "_blocks", looked)
    run = RunPipeline(spec, options)
    run._find_sites()
    done = execute(spec, options)
    text = store.encode(done).decode()
    assert done.status == "ok" and '"blocks"' not in text and '"units"' not in text


# --- B8 ---------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("onnx_extra")
def test_exported_network_has_no_node_of_a_removed_block():
    """B8: its operators are those of a network that was written without the block."""
    import onnx

    kept = "101"
    network = depth("A").eval()
    sites = find_sites(network, SHAPE, units="depth")
    masks = sites.ones() | {"1": torch.tensor([bit == "1" for bit in kept])}
    without = nn.Sequential(*(part for k, part in enumerate(network) if k not in (1, 2, 3) or kept[k - 1] == "1"))

    def operators(network):
        graph = onnx.load_model_from_string(convert(network, SHAPE)).graph
        return Counter(node.op_type for node in graph.node), {tensor.name for tensor in graph.initializer}

    sliced, names = operators(sites.slice(network, masks))
    assert sliced == operators(without)[0] and "Identity" not in sliced
    assert not any(name.startswith(f"{k + 1}.") for name in names for k, bit in enumerate(kept) if bit == "0")
