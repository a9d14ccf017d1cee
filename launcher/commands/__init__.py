"""The commands of `calsweep`, a file each."""
