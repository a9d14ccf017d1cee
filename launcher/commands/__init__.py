"""The commands of `calsweep`: each module has its arguments (`add_arguments`) and what it does (`run`)."""
