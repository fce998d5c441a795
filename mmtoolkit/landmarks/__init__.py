"""106-point facial landmarks with the format and protocol of the JD-landmark challenge.

Liu et al., "Grand Challenge of 106-Point Facial Landmark Localization", arXiv 1905.03469.
"""
