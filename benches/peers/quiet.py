"""PyTorch and transformers on all cores, offline, without messages."""
import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["CUDA_VISIBLE_DEVICES"] = ""
os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count()))
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
import transformers

transformers.utils.logging.disable_progress_bar()
transformers.utils.logging.set_verbosity_error()
