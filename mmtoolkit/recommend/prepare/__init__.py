"""Turn raw shop data into a data set folder: read, filter, split, encode, write."""
