"""One untrained model of each application, small enough to draw with in a moment."""

import pytest
import torch

from jitflow.apps.images.module import JiTLightningModule
from jitflow.apps.microdoppler.module import UserConditionedDiT
from jitflow.apps.text.module import TextLightningModule
from jitflow.codec.linear import LinearCodec

NET = {"patch_size": 1, "hidden_size": 32, "depth": 1, "num_heads": 2, "use_rope": True, "use_rmsnorm": True}


@pytest.fixture(scope="module")
def images():
    torch.manual_seed(0)
    module = JiTLightningModule(model_name="JiT-N/4", img_size=8, num_classes=5, num_sampling_steps=4).eval()
    with torch.no_grad():
        for p in module.parameters():
            if p.requires_grad:
                p.add_(0.1 * torch.randn_like(p))
    return module


@pytest.fixture(scope="module")
def users():
    pictures = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    linear = LinearCodec.fit([pictures], num_components=4, patch_size=4)
    module = UserConditionedDiT(num_users=3, model_name="LightningDiT", latent_shape=(4, 2, 2), net_settings=NET)
    module.user_ids, module.codec_record = [1, 4, 7], {"id": linear.id, "checksum": linear.checksum, "img_size": [8, 8]}
    module.latents.attach(linear)
    return module.eval()


@pytest.fixture(scope="module")
def text():
    net = {"hidden_size": 32, "depth": 1, "num_heads": 2, "bottleneck_dim": 16}
    return TextLightningModule("bytes", img_size=16, net_settings=net).eval()
