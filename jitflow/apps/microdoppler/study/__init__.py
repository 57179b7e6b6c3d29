"""Augmentation study: does generated data help a classifier of users, for how many real samples, against what?

The modules: ``settings`` (options), ``campaign`` (simulated data), ``data`` (real spectrograms and their disjoint
sides), ``plan`` (arms and cells), ``generator`` (one for each training subset), ``sift``, ``fitted`` (simulated samples
of a user's gait), ``augmentation`` (classical), ``classifiers``, ``work`` (a worker's share), ``curve`` (intervals and
the picture), ``report`` (the sentence, the tables), ``runner`` and ``command``.
"""
