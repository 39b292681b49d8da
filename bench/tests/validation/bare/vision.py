"""Bare loops of images and clicks: ResNet-50, ViT-B/16, DiT-S/2 and DLRM."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from bench.tests.validation.bare.loop import (
    Bare,
    Loop,
    Parameters,
    adamw,
    autocast,
    inference,
    rotating,
    training,
)

if TYPE_CHECKING:
    from torch import Tensor, dtype

RESNET_RATE = 1e-4
VIT_RATE = 1e-6
DIT_RATE = 2e-6
DLRM_RATE = 1e-4


def _resnet50() -> Any:
    from transformers.models.resnet.configuration_resnet import ResNetConfig
    from transformers.models.resnet.modeling_resnet import ResNetForImageClassification

    return ResNetForImageClassification(ResNetConfig(num_labels=1000))


def _images(p: Parameters) -> Tensor:
    import torch

    return torch.randn(p["batch_size"], 3, p["image_size"], p["image_size"])


def _classify(model: Any, p: Parameters, kind: dtype) -> Loop:
    """Images to logits."""
    model = model.eval().to(kind)
    batches = rotating(lambda: _images(p).to(kind))
    return inference(lambda: model(next(batches)), model)


def _learn(model: Any, optimizer: Any, p: Parameters, kind: dtype) -> Loop:
    """Images with labels."""
    import torch

    batches = rotating(lambda: (_images(p), torch.randint(0, 1000, (p["batch_size"],))))

    def loss() -> Tensor:
        images, labels = next(batches)
        return torch.nn.functional.cross_entropy(model(images).logits.float(), labels)

    return training(model, optimizer, loss, kind)


def resnet50_infer(p: Parameters, kind: dtype) -> Loop:
    """Images to logits."""
    return _classify(_resnet50(), p, kind)


def resnet50_train(p: Parameters, kind: dtype) -> Loop:
    """SGD with momentum."""
    import torch

    model = _resnet50().train()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RESNET_RATE, momentum=0.9, weight_decay=1e-4, fused=True
    )
    return _learn(model, optimizer, p, kind)


def _vit(p: Parameters) -> Any:
    from transformers.models.vit.configuration_vit import ViTConfig
    from transformers.models.vit.modeling_vit import ViTForImageClassification

    return ViTForImageClassification(
        ViTConfig(num_labels=1000, num_hidden_layers=p["layers"], image_size=p["image_size"])
    )


def vit_infer(p: Parameters, kind: dtype) -> Loop:
    """Images to logits."""
    return _classify(_vit(p), p, kind)


def vit_train(p: Parameters, kind: dtype) -> Loop:
    """AdamW."""
    model = _vit(p).train()
    return _learn(model, adamw(model, VIT_RATE), p, kind)


def _dit() -> Any:
    from diffusers.models.transformers.dit_transformer_2d import DiTTransformer2DModel

    model: Any = DiTTransformer2DModel(
        num_attention_heads=6,
        attention_head_dim=64,
        in_channels=4,
        out_channels=8,
        num_layers=12,
        sample_size=32,
        patch_size=2,
        num_embeds_ada_norm=1000,
    )
    for block in model.transformer_blocks:  # one embedding of timestep and class, as published
        block.norm1.emb = model.transformer_blocks[0].norm1.emb
    model.transformer_blocks[0].norm1.emb.class_embedder.dropout_prob = 0.0
    return model


def _latents(p: Parameters, kind: dtype) -> dict[str, Tensor]:
    """A model's arguments: latents, timesteps and classes."""
    import torch

    batch = p["batch_size"]
    return {
        "hidden_states": torch.randn(batch, 4, 32, 32).to(kind),
        "timestep": torch.randint(0, 1000, (batch,)),
        "class_labels": torch.randint(0, 1000, (batch,)),
    }


def dit_infer(p: Parameters, kind: dtype) -> Loop:
    """Latents to noise and variance."""
    model = _dit().eval().to(kind)
    batches = rotating(lambda: _latents(p, kind))
    return inference(lambda: model(**next(batches)).sample, model)


def dit_train(p: Parameters, kind: dtype) -> Loop:
    """AdamW; the loss leaves the variance out."""
    import torch

    model = _dit().train()
    batches = rotating(
        lambda: (_latents(p, torch.float32), torch.randn(p["batch_size"], 4, 32, 32))
    )

    def loss() -> Tensor:
        given, noise = next(batches)
        return torch.nn.functional.mse_loss(model(**given).sample[:, :4].float(), noise)

    return training(model, adamw(model, DIT_RATE), loss, kind)


def _mlp(*widths: int, last: Any) -> Any:
    from torch import nn

    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1], last)


def _clicks(p: Parameters) -> Any:
    """What follows the lookup: dense features [B, 13] and rows [B, 26, L, d] to logits [B]."""
    import torch
    from torch import nn

    wide = p["embedding_dim"]
    left, right = torch.tril_indices(27, 27, offset=-1)

    class Clicks(nn.Module):
        places: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.bottom = _mlp(13, 512, 256, wide, last=nn.ReLU())
            self.top = _mlp(wide + 27 * 13, 1024, 1024, 512, 256, 1, last=nn.Identity())
            self.register_buffer("places", left * 27 + right)

        def forward(self, dense: Tensor, found: Tensor) -> Tensor:
            hidden = self.bottom(dense)
            vectors = torch.cat((hidden[:, None], found.sum(2).to(hidden.dtype)), 1)
            products = (vectors @ vectors.mT).flatten(1).index_select(1, self.places)
            logits: Tensor = self.top(torch.cat((hidden, products), 1)).squeeze(1)
            return logits

    return Clicks()


def dlrm_train(p: Parameters, kind: dtype) -> Loop:
    """Plain SGD; rows that were looked up are updated by hand, in place."""
    import torch
    from torch.nn import functional

    batch, rows, wide = p["batch_size"], p["rows"], p["embedding_dim"]
    tables, model = torch.randn(26 * rows, wide), _clicks(p)
    first = rows * torch.arange(26)[:, None]

    def drawn() -> tuple[Tensor, Tensor, Tensor]:
        index = torch.randint(0, rows, (batch, 26, p["lookups"])) + first
        return torch.randn(batch, 13), index, torch.randint(0, 2, (batch,)).float()

    batches = rotating(drawn)
    optimizer = torch.optim.SGD(model.parameters(), lr=DLRM_RATE, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        dense, index, clicks = next(batches)
        found = functional.embedding(index, tables).requires_grad_()
        with autocast(kind):
            logits = model(dense, found)
        functional.binary_cross_entropy_with_logits(logits.float(), clicks).backward()
        optimizer.step()
        assert found.grad is not None
        tables.index_add_(0, index.flatten(), found.grad.view(-1, wide), alpha=-DLRM_RATE)

    return Loop(step, (model,))


BARE: dict[str, Bare] = {
    "resnet50-infer": resnet50_infer,
    "resnet50-train": resnet50_train,
    "vit-b16-infer": vit_infer,
    "vit-b16-train": vit_train,
    "diffusion-infer": dit_infer,
    "diffusion-train": dit_train,
    "dlrm-train": dlrm_train,
}
