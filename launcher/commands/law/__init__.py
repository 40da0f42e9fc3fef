"""`lehr law`: one file per command or per group of related ones, their arguments and their plots."""
