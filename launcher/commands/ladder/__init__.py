"""The commands of `lehr ladder`, a file each."""
