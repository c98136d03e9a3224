"""Training as a build step: `fit` trains once, resumes exactly after a kill, and loads what is done."""

from labkit.training.failures import OutOfMemory
from labkit.training.features import features, features_of_each
from labkit.training.fitting import fit
from labkit.training.folds import out_of_fold
from labkit.training.rates import Rates, find_lr

__all__ = ["OutOfMemory", "Rates", "features", "features_of_each", "find_lr", "fit", "out_of_fold"]
