"""The hyperparameter search: spaces, study, Ray Tune's part, results. Knows `core`; contains no physics."""
