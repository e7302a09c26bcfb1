"""Progress: a line per epoch in a log, with the time left; nothing when quiet."""

from bench import progress
from bench.progress import Progress


def use_terminal(monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)


def test_log_has_a_line_per_epoch_with_the_time_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress("run")
    shown.start(10)
    shown.skip(4)  # trained before a resume: it took no time now
    now[0] = 3.0
    shown.epoch("train", 5, 10, 1.25, 0.5)
    shown.close()
    expected = "run: train epoch 5/10 loss 1.2500 val 50.00 %, 15 s left\n"
    assert capsys.readouterr() == ("", expected)


def test_quiet_says_nothing(capsys):
    shown = Progress("run", quiet=True)
    shown.start(2)
    shown.step(0.5)
    shown.epoch("train", 1, 2, 0.5, 0.5)
    shown.say("something")
    shown.note("something")
    with shown.counting(5, "checking") as bar:
        bar.update(5)
    shown.close()
    assert capsys.readouterr() == ("", "")


def test_counting_is_a_line_in_a_log(capsys):
    with Progress("run").counting(60_000, "decoding train images") as bar:
        bar.update(60_000)
    assert capsys.readouterr().err == "run: decoding train images: 60,000\n"


def test_counting_is_a_bar_on_a_terminal(capsys, monkeypatch):
    use_terminal(monkeypatch)
    with Progress("run").counting(60_000, "decoding train images") as bar:
        bar.update(600)
        bar.refresh()
    assert "decoding train images:   1%" in capsys.readouterr().err


def test_bar_is_full_when_measuring_is_done(capsys, monkeypatch):
    use_terminal(monkeypatch)
    shown = Progress("run")
    shown.start(4)
    shown.step(0.25)
    for epoch in range(1, 5):
        shown.epoch("train", epoch, 4, 0.5, 0.75)
    shown.note("measuring")
    assert shown.bar.n / shown.bar.total < 1
    shown.close()
    assert shown.bar.n == shown.bar.total
    err = capsys.readouterr().err
    assert "run" in err and "measuring" in err


def test_bar_of_an_interrupted_run_stays_where_it_is(capsys, monkeypatch):
    use_terminal(monkeypatch)
    shown = Progress("run")
    shown.start(4)
    shown.epoch("train", 1, 4, 0.5, 0.75)
    shown.close()
    assert shown.bar.n == 1
