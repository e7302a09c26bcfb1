"""A network whose units are several channels each."""

from support.networks import all_kinds

from bench.models.build import architecture


@architecture("all_kinds")
def kinds(shape, num_classes):
    """A grouped convolution with an excitation, and an encoder."""
    return all_kinds(shape[0], num_classes)
