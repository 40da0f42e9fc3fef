"""The datatrove blocks that the filters build. They are imported only when a filter is built."""
