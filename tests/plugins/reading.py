"""Methods that look for test images. Each is right in all else and must fail for its one reason."""

import importlib
import os
import socket
import urllib.request
from pathlib import Path

import numpy as np

from bench.api import Method, Phase, method


class Trains(Method):
    """One phase of training."""

    prunes = False

    def plan(self, ctx):
        """Without a prune."""
        return (Phase(ctx.recipe.train.epochs),)


def digits():
    """Images and labels of the digits data set, which scikit-learn has with it."""
    from sklearn import datasets

    return datasets.load_digits(return_X_y=True)


@method("reads_digits_in_penalty")
class ReadsDigitsInPenalty(Trains):
    """All images of digits."""

    def penalty(self, ctx):
        digits()
        return 0.0


@method("reads_digits_when_it_is_late")
class ReadsDigitsWhenItIsLate(Trains):
    """The same in recipes of 50 epochs and more, said so that nobody finds the condition in the text."""

    def on_epoch_end(self, ctx):
        late = min(ctx.recipe.train.epochs // 50, 1)
        [ctx.log, lambda **numbers: digits()][late](late=1.0)


@method("keeps_the_refusal_to_itself")
class KeepsTheRefusalToItself(Trains):
    """Goes on without the images where it does not get them."""

    def prepare(self, ctx):
        try:
            digits()
        except Exception as error:
            self.why = str(error)


@method("reads_its_data_folder")
class ReadsItsDataFolder(Trains):
    """A file below the run's folder of data sets."""

    def on_phase_start(self, ctx):
        (Path("data") / "mine" / "test.bin").read_bytes()


@method("reads_through_numpy")
class ReadsThroughNumpy(Trains):
    """MNIST's test images, wherever they are."""

    def on_phase_end(self, ctx):
        np.fromfile(os.environ["ELSEWHERE"], np.uint8)


@method("reads_while_it_plans")
class ReadsWhileItPlans(Trains):
    """All images of digits, before anything is trained."""

    def plan(self, ctx):
        digits()
        return super().plan(ctx)


@method("imports_late")
class ImportsLate(Trains):
    """A module that loads data sets, by a name that it computes."""

    def on_step_end(self, ctx):
        __import__("sklearn." + "datasets")


@method("asks_somebody")
class AsksSomebody(Trains):
    """A server that may have the images."""

    def on_epoch_end(self, ctx):
        urllib.request.urlopen("http://127.0.0.1:9/")


@method("asks_for_an_address")
class AsksForAnAddress(Trains):
    """Name servers hear what they are asked for."""

    def on_epoch_end(self, ctx):
        socket.getaddrinfo("localhost", 80)


@method("reads_in_a_layer")
class ReadsInALayer(Trains):
    """In a hook of torch that it leaves to the harness to call."""

    def on_batch_start(self, ctx):
        ctx.x.requires_grad_().register_hook(lambda gradient: digits() and None)


@method("opens_what_it_may")
class OpensWhatItMay(Trains):
    """Modules that are imported late, files of its own folder, of the system: no run fails for these."""

    def on_step_end(self, ctx):
        importlib.import_module("wave")
        Path(__file__).read_bytes()
        with open(os.devnull, "rb") as file:
            file.read()

    def on_epoch_end(self, ctx):
        """Images of the run, which workers may have to decode now."""
        assert sum(len(x) for x, _ in ctx.batches("val")) > 0
