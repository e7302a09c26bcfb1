"""Profiles: every form of a time, wrong keys and values, and those that come with the suite."""

import math

import pytest
from hypothesis import example, given
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


sixty = st.integers(0, 59)


@given(st.integers(0, 60), st.integers(0, 500), sixty, sixty)
def test_time_is_rounded_up_to_minutes(d, h, m, s):
    """SLURM counts in minutes: never less than what was asked, never a whole one more."""
    seconds = (h * 60 + m) * 60 + s
    if seconds <= 60:
        with pytest.raises(ValueError, match="at least 2 minutes"):
            Profile(time=f"{h}:{m:02}:{s:02}")
    else:
        assert Profile(time=f"{h}:{m:02}:{s:02}").minutes == math.ceil(seconds / 60)
        assert Profile(time=f"{h:02}:{m:02}:{s:02}").minutes == math.ceil(seconds / 60)
    minutes = h * 60 + m + 2
    assert Profile(time=minutes).minutes == Profile(time=str(minutes)).minutes == minutes
    assert Profile(time=f"{minutes}:{s:02}").minutes == minutes + (s > 0)
    d, h = d + 1, h % 24
    assert Profile(time=f"{d}-{h:02}:{m:02}:{s:02}").minutes == math.ceil((((d * 24 + h) * 60 + m) * 60 + s) / 60)
    assert Profile(time=f"{d}-{h}:{m:02}").minutes == (d * 24 + h) * 60 + m
    assert Profile(time=f"{d}-{h}").minutes == (d * 24 + h) * 60


@given(st.integers(2, 10_000), st.integers(1, 100_000))
@example(60, 90)
@example(2, 90)
def test_warning_leaves_most_of_a_short_limit(minutes, warning):
    delay = Profile(time=minutes, warning_s=warning).signal_delay_s
    assert 1 <= delay <= warning
    assert delay <= minutes * 60 / 3
    if warning <= minutes * 20:
        assert delay == warning


# --- what is wrong -------------------------------------------------------------------------------------------


WRONG = {
    "tiem = 3": "'tiem': did you mean time",
    "time = 04:00:00": "time = ",  # a time of day to TOML
    "time = -5": "time = -5: at least 2 minutes",
    'time = "0"': "time = 0: at least 2 minutes",
    "time = 1": "time = 1: at least 2 minutes; SLURM may warn a minute early",
    "time = true": "time = True",
    "gpus = -1": "gpus = -1: at least 0",
    'gpus = 1\ngres = "gpu:1"': "gpus and gres: give one",
    "minutes_per_job = -1": "minutes_per_job = -1: above 0",
    "minutes_per_job = 10\nruns_per_job = 2": "runs_per_job and minutes_per_job: give one",
    "jobs = 2\nruns_per_job = 2": "runs_per_job and jobs: give one",
    "jobs = 2\nminutes_per_job = 2": "minutes_per_job and jobs: give one",
    "measured = true": "measured: give gpus, or gres with their number, such as gpu:a100:8",
    "measured = true\njobs = 1\nruns_at_once = 4": "measured: give gpus",
    "measured = true\njobs = 1\nruns_at_once = 4\ngpus = 4": "runs_at_once = 4 leaves nothing to measure",
    "runs_at_once = 2": "runs_at_once = 2: a job has 1",
    "runs_at_once = 4\nruns_per_job = 3": "runs_at_once = 4: a job has 3",
    'setup = "module load cuda"': "setup = ",
    "setup = [1]": "setup = ",
    **{f"{key} = 3": f"{key} = 3" for key in ("srun", "sbatch", "partition")},
    "sbatch = { comment = [1] }": "sbatch.comment = [1]",
    "sbatch = { requeue = false }": "sbatch.requeue = False",  # sbatch has no way to say it
    "partition = ": "Invalid value",
}
ABOVE_0 = ("cpus", "warning_s", "at_once", "runs_per_job", "runs_at_once", "jobs", "array_size")


def test_profile_error_names_file_and_key(load, tmp_path):
    cases = WRONG | {f"{key} = 0": f"{key} = 0: at least 1" for key in ABOVE_0}
    cases |= {f"mem_gb = {gb}": f"mem_gb = {gb}: above 0" for gb in ("0", "nan", "inf")}
    cases |= {f'time = "{time}"': f"time = '{time}'" for time in ("", "4h", "1-", "1:2:3:4", "-5")}
    cases |= {f"{key} = {value}": f"{key} = {value}" for key in ("time", "gpus") for value in ("1.5", "'one'")}
    for text, said in cases.items():
        with pytest.raises(UsageError) as caught:
            load(text)
        assert str(tmp_path / "mine.toml") in str(caught.value), text
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


def test_profile_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"profile .*none\.toml: No such file"):
        load_profile(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="Is a directory"):
        load_profile(tmp_path)
    (tmp_path / "mine.toml").write_bytes(b"qos = '\xff'")
    with pytest.raises(UsageError, match=r"mine\.toml"):
        load_profile(tmp_path / "mine.toml")


# --- what is right -------------------------------------------------------------------------------------------


def test_profile_has_every_key_and_defaults(load):
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
    profile = load("gpus = 8\njobs = 2\nruns_at_once = 32\nmeasured = true\narray_size = 50")
    assert (profile.jobs, profile.runs_at_once, profile.measured, profile.array_size) == (2, 32, True, 50)
    assert load("") == load_profile(None) == Profile()
    assert Profile().minutes == 60


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


def test_profiles_of_the_suite_can_be_read():
    assert {path.stem for path in SHIPPED} >= {"cpu", "example"}
    for path in SHIPPED:
        assert load_profile(path).minutes >= 2
        assert "description" in path.read_text()
