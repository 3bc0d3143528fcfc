"""Many linear probes at once: the same features under many labellings and penalties, in torch.

A sweep fits the same matrix of activations over and over: for each penalty, fold and permutation
of the labels. `design` does once what these share (standardising, the eigenbasis of the features'
covariance), and the fits are batched over the rest. scikit-learn is the reference: each solver is
tested to give its weights.
"""

from probes.solvers.design import Design, Moments, design
from probes.solvers.discriminant import fit_discriminant
from probes.solvers.linear import Linear
from probes.solvers.logistic import fit_logistic
from probes.solvers.ridge import fit_ridge

__all__ = ["Design", "Linear", "Moments", "design", "fit_discriminant", "fit_logistic", "fit_ridge"]
