"""What the processes of attempts.py have imported when they are forked. Nothing else imports this."""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""  # CUDA does not survive a fork
os.environ["DS_ACCELERATOR"] = "cpu"

import deepspeed  # noqa: F401
import wandb  # noqa: F401

import training.train  # noqa: F401
