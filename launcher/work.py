"""Pickles of submitted tasks name `launcher.work.run_task`; the function itself is in `launcher.job.work`."""

from launcher.job.work import run_task

__all__ = ["run_task"]
