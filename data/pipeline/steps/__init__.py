"""The datatrove steps of a build. They are imported only when a build or an inspection runs."""
