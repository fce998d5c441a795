"""IGDMRec, its parts and losses; `peers` are the models that it is compared with."""
