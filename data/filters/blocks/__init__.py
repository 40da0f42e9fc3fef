"""The datatrove blocks that the filters build. Reading a config does not import them: importing datatrove is slow."""
