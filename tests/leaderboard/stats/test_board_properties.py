"""What must not change on a board when records come, go or move, whatever they hold."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from support.boards import CONTROLS, load, plan_for, planned_boards, row_of, table_of
from support.made_records import made, put, seeds

from leaderboard.stats.boards import build

SLOW = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
counts = some.lists(some.integers(0, 60), min_size=5, max_size=5)
rows = some.dictionaries(some.sampled_from(["random", "l1_norm", "new", "other"]), counts, min_size=1).filter(
    lambda wanted: len({*map(tuple, wanted.values())}) == len(wanted)  # rows with the same images right are one row
)


def fresh(tmp_path):
    return tmp_path / str(len(list(tmp_path.iterdir())))


def means(table):
    return {r.name: r.top1 for r in table.rows}


@SLOW
@given(rows, some.randoms())
def test_the_order_of_records_changes_nothing(tmp_path, wanted, order):
    records = [*CONTROLS[:5], *(r for name, wrong in wanted.items() for r in seeds(name, wrong))]
    one = planned_boards(fresh(tmp_path), *records)
    order.shuffle(records)
    frame = load(put(fresh(tmp_path), *records))
    plan = plan_for(records)
    assert build(frame, [plan]) == one
    assert build(frame.sample(frac=1, random_state=1), [plan]) == one


@SLOW
@given(rows, some.data())
def test_a_dominated_method_moves_no_leader(tmp_path, wanted, data):
    best = [min(wrong[s] for wrong in wanted.values()) for s in range(5)]
    worse = [b + data.draw(some.integers(1, 50)) for b in best]
    records = [r for name, wrong in wanted.items() for r in seeds(name, wrong)]
    before = table_of(fresh(tmp_path), *records)
    after = table_of(fresh(tmp_path), *records, *seeds("dominated", [w + 60 for w in worse]))
    leader = next(r.name for r in before.rows if r.rank is not None)
    assert next(r.name for r in after.rows if r.rank is not None) == leader
    assert means(before).items() <= means(after).items()


@SLOW
@given(rows, some.integers(0, 4), some.sampled_from(["failed", "diverged"]))
def test_a_failed_run_never_improves_a_mean_or_a_rank(tmp_path, wanted, seed, status):
    records = [r for name, wrong in wanted.items() for r in seeds(name, wrong)]
    name = sorted(wanted)[0]
    before = table_of(fresh(tmp_path), *records)
    changed = [
        made(name, seed, status=status) if (r["spec"]["method"], r["spec"]["seed"]) == (name, seed) else r
        for r in records
    ]
    boards, _ = planned_boards(fresh(tmp_path), *changed)
    after = boards[0].tables[0]
    assert row_of(after, name).top1 is None
    assert row_of(after, name).rank is None
    others = {k: v for k, v in means(before).items() if k != name}
    assert {k: v for k, v in means(after).items() if k != name} == others


@SLOW
@given(rows, some.integers(0, 60))
def test_one_more_seed_of_one_method_changes_no_other_mean(tmp_path, wanted, wrong):
    records = [r for name, counts in wanted.items() for r in seeds(name, counts)]
    name = sorted(wanted)[0]
    before, after = table_of(fresh(tmp_path), *records), table_of(fresh(tmp_path), *records, made(name, 9, wrong))
    assert {k: v for k, v in means(after).items() if k != name} == {k: v for k, v in means(before).items() if k != name}
