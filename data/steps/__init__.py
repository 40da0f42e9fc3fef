"""The datatrove steps a build is made of. Nothing here is imported before a build or an inspection needs it."""
