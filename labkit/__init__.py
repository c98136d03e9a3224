"""The Keras package under Image Labs: data, labels, models, training, evaluation and plots."""

import logging
import os
import sys
from importlib.util import find_spec

__version__ = "0.1.0"

_BACKENDS = {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}


def _choose_backend() -> None:
    """Point Keras at a backend that is installed, since its own default fails where TensorFlow is missing."""
    if "KERAS_BACKEND" in os.environ or "keras" in sys.modules:
        return
    installed = [package for package in _BACKENDS if find_spec(package)]
    if not installed:
        return  # data, labels, runs and plots work without a backend; Keras itself will say what is missing
    os.environ["KERAS_BACKEND"] = installed[0]
    if installed[0] != "tensorflow":
        sys.stderr.write(f"labkit: TensorFlow is not installed, Keras runs on {_BACKENDS[installed[0]]}\n")


_choose_backend()
# TensorFlow computes by oneDNN where the processor has AVX-512; without, oneDNN is the faster one, too.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
# TensorFlow warns of this wherever one process trains several models, as a chapter does.
logging.getLogger("tensorflow").addFilter(lambda record: "retracing" not in record.getMessage())
