"""The datatrove steps of a build, which are imported only when a build runs."""
