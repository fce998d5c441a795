"""What is learned from: data set types, readers, and the embedded set."""
