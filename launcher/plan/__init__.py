"""The plan of a run: from a config to the layouts that fit, what laws say of it, and a config to train with."""
