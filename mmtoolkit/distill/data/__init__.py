"""What is learned from: readers, data set types, and the embedded set."""
