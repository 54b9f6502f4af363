"""A study: several ways to train on one cache, with several seeds, ranked by what can be told apart."""
