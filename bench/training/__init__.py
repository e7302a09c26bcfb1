"""The method contract, the context and masked model that a method works with, and the training loop."""
