//! Training data, recipes and their numbers.
