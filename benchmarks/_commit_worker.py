"""Training steps of a digits-size network, some for each line read; `bench_commits.py` runs it at two commits.

It uses only what the library has had from its first commit on. Prints the milliseconds of each step, and at the end a
checksum of the weights.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time

import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.core.ema import copy_parameters, update_ema_
from jitflow.host import keep_freed_memory

keep_freed_memory()
torch.set_num_threads(1)
settings = json.loads(sys.argv[1])
torch.manual_seed(0)
module = JiTLightningModule("JiT-N/4", 16, 10, learning_rate=1e-3, in_channels=1, **settings)
module.log = module.log_dict = lambda *args, **kwargs: None
optimizer = module.configure_optimizers()
weights = dict(module.named_parameters())
averages = copy_parameters(weights)
generator = torch.Generator().manual_seed(1)
images = torch.randint(0, 256, (64, 1, 16, 16), dtype=torch.uint8, generator=generator)
labels = torch.arange(64) % 10
for line in sys.stdin:
    start = time.process_time()
    for _ in range(int(line)):
        loss = module.training_step((images, labels), 0)["loss"]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        update_ema_(averages, weights, 0.999)
    print(1000 * (time.process_time() - start) / int(line), flush=True)
digest = hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in weights.values()))
print(digest.hexdigest(), flush=True)
