"""The commands of `lehr slurm`, a file each."""
