"""Progress: a line per epoch in a log, with the time left; nothing when quiet."""

from bench import progress
from bench.progress import Progress


def test_a_line_per_epoch_with_the_time_left(capsys, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    shown = Progress("run")
    shown.start(10)
    shown.skip(4)  # trained before a resume: it took no time now
    now[0] = 3.0
    shown.epoch("train", 5, 10, 1.25, 0.5)
    shown.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "run: train epoch 5/10 loss 1.2500 val 50.00 %, 15 s left\n"


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    shown = Progress("run")
    shown.start(2)
    for _ in range(4):
        shown.step(0.25)
    shown.epoch("train", 1, 2, 0.5, 0.75)
    shown.note("measuring")
    shown.close()
    err = capsys.readouterr().err
    assert "run" in err
    assert "measuring" in err


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


def test_counting_is_a_line_in_a_log_and_a_bar_on_a_terminal(capsys, monkeypatch):
    with Progress("run").counting(60_000, "decoding train images") as bar:
        bar.update(60_000)
    assert capsys.readouterr().err == "run: decoding train images: 60,000\n"
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    with Progress("run").counting(60_000, "decoding train images") as bar:
        bar.update(600)
        bar.refresh()
    assert "decoding train images:   1%" in capsys.readouterr().err


def test_the_bar_is_full_when_measuring_is_done(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    shown = Progress("run")
    shown.start(4)
    for epoch in range(1, 5):
        shown.epoch("train", epoch, 4, 0.5, 0.75)
    shown.note("measuring")
    assert shown.bar.n / shown.bar.total < 1
    shown.close()
    assert shown.bar.n == shown.bar.total


def test_the_bar_of_an_interrupted_run_stays_where_it_is(monkeypatch, capsys):
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    shown = Progress("run")
    shown.start(4)
    shown.epoch("train", 1, 4, 0.5, 0.75)
    shown.close()
    assert shown.bar.n == 1
