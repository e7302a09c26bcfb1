"""Profiles: every form of a time, wrong keys and values, and those that come with the suite."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.paths import ROOT

from bench.errors import UsageError
from slurm.profile import Profile, load_profile

SHIPPED = sorted((ROOT / "slurm" / "profiles").glob("*.toml"))


@pytest.fixture
def load(tmp_path):
    """The profile with this text."""

    def read(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return load_profile(path)

    return read


# --- time ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "minutes"),
    [
        ("90", 90),
        ('"90"', 90),
        ('"90:00"', 90),
        ('"90:01"', 91),
        ('"4:00:00"', 240),
        ('"04:30:00"', 270),
        ('"36:00:01"', 36 * 60 + 1),
        ('"1-0"', 24 * 60),
        ('"1-12"', 36 * 60),
        ('"1-12:30"', 36 * 60 + 30),
        ('"2-01:00:30"', 49 * 60 + 1),
    ],
)
def test_forms_of_a_time(load, text, minutes):
    assert load(f"time = {text}").minutes == minutes


hours, sixty = st.integers(0, 500), st.integers(0, 59)


@given(hours, sixty, sixty)
def test_hours_minutes_and_seconds(h, m, s):
    """SLURM counts in minutes: never less than what was asked, never a whole one more."""
    seconds = (h * 60 + m) * 60 + s
    if seconds <= 60:
        with pytest.raises(ValueError, match="at least 2 minutes"):
            Profile(time=f"{h}:{m:02}:{s:02}")
        return
    assert Profile(time=f"{h}:{m:02}:{s:02}").minutes == math.ceil(seconds / 60)
    assert Profile(time=f"{h:02}:{m:02}:{s:02}").minutes == math.ceil(seconds / 60)


@given(st.integers(1, 60), st.integers(0, 23), sixty, sixty)
def test_days(d, h, m, s):
    seconds = ((d * 24 + h) * 60 + m) * 60 + s
    assert Profile(time=f"{d}-{h:02}:{m:02}:{s:02}").minutes == math.ceil(seconds / 60)
    assert Profile(time=f"{d}-{h}:{m:02}").minutes == (d * 24 + h) * 60 + m
    assert Profile(time=f"{d}-{h}").minutes == (d * 24 + h) * 60


@given(st.integers(2, 10_000), sixty)
def test_minutes(m, s):
    assert Profile(time=m).minutes == Profile(time=str(m)).minutes == m
    assert Profile(time=f"{m}:{s:02}").minutes == m + (s > 0)


@given(st.integers(2, 10_000), st.integers(1, 100_000))
def test_the_warning_leaves_most_of_a_short_limit(minutes, warning):
    delay = Profile(time=minutes, warning_s=warning).signal_delay_s
    assert 1 <= delay <= warning
    assert delay <= minutes * 60 / 3
    if warning <= minutes * 20:
        assert delay == warning


def test_the_warning_of_the_defaults():
    assert Profile().signal_delay_s == 90
    assert Profile(time=2).signal_delay_s == 40


# --- what is wrong -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tiem = 3", "'tiem': did you mean time"),
        ('partiton = "gpu"', "'partiton': did you mean partition"),
        ("runs_per_jobs = 2", "'runs_per_jobs': did you mean runs_per_job"),
        ('time = ""', "time = ''"),
        ('time = "soon"', "time = 'soon'"),
        ('time = "4h"', "time = '4h'"),
        ('time = "1-"', "time = '1-'"),
        ('time = "1:2:3:4"', "time = '1:2:3:4'"),
        ('time = "-5"', "time = '-5'"),
        ("time = 04:00:00", "time = "),  # a time of day to TOML
        ("time = 0", "time = 0: at least 2 minutes"),
        ("time = -5", "time = -5: at least 2 minutes"),
        ('time = "0"', "time = 0: at least 2 minutes"),
        ("time = 1", "time = 1: at least 2 minutes; SLURM may warn a minute early"),
        ('time = "0:30"', "time = 0:30: at least 2 minutes"),
        ('time = "00:01:00"', "time = 00:01:00: at least 2 minutes"),
        ("time = 1.5", "time = 1.5"),
        ("time = true", "time = True"),
        ("gpus = -1", "gpus = -1: at least 0"),
        ("gpus = 1.5", "gpus = 1.5"),
        ('gpus = "one"', "gpus = 'one'"),
        ('gpus = 1\ngres = "gpu:1"', "gpus and gres: give one"),
        ("cpus = 0", "cpus = 0: at least 1"),
        ("warning_s = 0", "warning_s = 0: at least 1"),
        ("at_once = 0", "at_once = 0: at least 1"),
        ("runs_per_job = 0", "runs_per_job = 0: at least 1"),
        ("runs_at_once = 0", "runs_at_once = 0: at least 1"),
        ("mem_gb = 0", "mem_gb = 0: above 0"),
        ("mem_gb = nan", "mem_gb = nan: above 0"),
        ("mem_gb = inf", "mem_gb = inf: above 0"),
        ("minutes_per_job = -1", "minutes_per_job = -1: above 0"),
        ("minutes_per_job = 10\nruns_per_job = 2", "runs_per_job and minutes_per_job: give one"),
        ("jobs = 0", "jobs = 0: at least 1"),
        ("array_size = 0", "array_size = 0: at least 1"),
        ("jobs = 2\nruns_per_job = 2", "runs_per_job and jobs: give one"),
        ("jobs = 2\nminutes_per_job = 2", "minutes_per_job and jobs: give one"),
        ("measured = true", "measured: give gpus, or gres with their number, such as gpu:a100:8"),
        ("measured = true\njobs = 1\nruns_at_once = 4", "measured: give gpus"),
        ("measured = true\njobs = 1\nruns_at_once = 4\ngpus = 4", "runs_at_once = 4 leaves nothing to measure"),
        ("runs_at_once = 2", "runs_at_once = 2: a job has 1"),
        ("runs_at_once = 4\nruns_per_job = 3", "runs_at_once = 4: a job has 3"),
        ('setup = "module load cuda"', "setup = "),
        ("setup = [1]", "setup = "),
        ("srun = 3", "srun = 3"),
        ("sbatch = 3", "sbatch = 3"),
        ("sbatch = { comment = [1] }", "sbatch.comment = [1]"),
        ("sbatch = { requeue = false }", "sbatch.requeue = False"),  # sbatch has no way to say it
        ("partition = 3", "partition = 3"),
        ("partition = ", "Invalid value"),
    ],
)
def test_profile_error_names_file_and_key(load, tmp_path, text, said):
    with pytest.raises(UsageError) as caught:
        load(text)
    assert str(tmp_path / "mine.toml") in str(caught.value)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match=r"profile .*none\.toml: No such file"):
        load_profile(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="Is a directory"):
        load_profile(tmp_path)
    (tmp_path / "mine.toml").write_bytes(b"qos = '\xff'")
    with pytest.raises(UsageError, match=r"mine\.toml"):
        load_profile(tmp_path / "mine.toml")


# --- what is right -------------------------------------------------------------------------------------------


def test_every_key(load):
    profile = load("""
        description = "not a key of the profile, but of its file"
        partition = "gpu"
        account = "me"
        qos = "high"
        constraint = "a100"
        nodelist = "n[1-4]"
        exclude = "n9"
        reservation = "today"
        gres = "gpu:a100:1"
        cpus = 8
        mem_gb = 24
        time = "1-00:00:00"
        warning_s = 120
        at_once = 16
        minutes_per_job = 30
        runs_at_once = 3
        setup = ["module load cuda", "export A=1"]
        python = "apptainer exec image.sif python"
        srun = ["--mpi=none"]
        sbatch = { mail-type = "END", nice = 100, exclusive = true }
        data_dir = "/scratch/data"
        device = "cuda"
    """)
    assert (profile.partition, profile.qos, profile.gres, profile.mem_gb) == ("gpu", "high", "gpu:a100:1", 24)
    assert profile.setup == ("module load cuda", "export A=1")
    assert profile.sbatch == {"mail-type": "END", "nice": 100, "exclusive": True}
    assert (profile.minutes, profile.signal_delay_s, profile.runs_at_once) == (1440, 120, 3)


def test_keys_of_a_whole_node(load):
    profile = load("gpus = 8\njobs = 2\nruns_at_once = 32\nmeasured = true\narray_size = 50")
    assert (profile.jobs, profile.runs_at_once, profile.measured, profile.array_size) == (2, 32, True, 50)


@pytest.mark.parametrize(
    ("values", "processes", "gpus", "gres"),
    [
        ({"gpus": 8, "runs_at_once": 8, "runs_per_job": 8}, 3, 3, None),
        ({"gpus": 8, "runs_at_once": 32, "runs_per_job": 32}, 9, 3, None),
        ({"gpus": 1, "runs_at_once": 3, "runs_per_job": 3}, 1, 1, None),
        ({"gpus": 2}, 1, 2, None),
        ({"gres": "gpu:a100:8", "runs_at_once": 8, "runs_per_job": 8}, 1, 1, "gpu:a100:1"),
        ({"gres": "gpu:4", "runs_at_once": 2, "runs_per_job": 2}, 1, 2, "gpu:2"),
        ({"gres": "shard:8"}, 1, 0, "shard:8"),
    ],
)
def test_gpus_of_a_job_with_fewer_processes(values, processes, gpus, gres):
    profile = Profile(**values)
    assert (profile.gpus_for(processes), profile.gres_for(processes)) == (gpus, gres)


def test_without_a_file_all_is_as_the_defaults_say():
    assert load_profile(None) == Profile()
    assert Profile().minutes == 60


def test_an_empty_file_is_the_defaults(load):
    assert load("") == Profile()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_profiles_that_come_with_the_suite(path):
    profile = load_profile(path)
    assert profile.minutes >= 2
    assert "description" in path.read_text()


def test_there_are_such_profiles():
    assert {path.stem for path in SHIPPED} >= {"cpu", "example"}
