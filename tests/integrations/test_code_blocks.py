"""Every block of Python in docs/integrations.md runs, section by section, where its framework is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch.distributed as dist
from torch import nn

import clrfast
import tests.helpers.torchvision_operators  # noqa: F401 - so that timm can import torchvision
from tests.helpers.code_blocks import FRAMEWORKS, execute, names_at_hand, sections

Names = dict[str, Any]

SECTIONS = sections(FRAMEWORKS)
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:The number of training batches .* is smaller than the logging interval"),
    pytest.mark.filterwarnings("ignore:'pin_memory' argument is set as true but no accelerator"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of what torch and the frameworks import
]


def lightning(names: Names) -> Names:
    L = pytest.importorskip("lightning")

    class Module(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = names["model"]

        def training_step(self, batch, batch_idx):
            inputs, targets = batch
            return nn.functional.cross_entropy(self.net(inputs), targets)

        def configure_optimizers(self):
            return clrfast.SGD(self.parameters(), lr=0.1, momentum=0.9)

    class Data(L.LightningDataModule):
        def train_dataloader(self):
            return names["train_loader"]

    return {"module": Module(), "datamodule": Data()}


def transformers(names: Names) -> Names:
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from tests.helpers.language_models import bert, classification_samples

    return {"model": bert(), "dataset": classification_samples()}


def accelerate(names: Names) -> Names:
    pytest.importorskip("accelerate")
    return {}


def fastai(names: Names) -> Names:
    pytest.importorskip("fastai")
    from fastai.basics import DataLoader, DataLoaders

    train, valid = DataLoader(names["train_set"], bs=16, shuffle=True), DataLoader(names["val_set"], bs=16)
    return {"dls": DataLoaders(train, valid)}


def ignite(names: Names) -> Names:
    pytest.importorskip("ignite")
    return {}


def skorch(names: Names) -> Names:
    pytest.importorskip("skorch")
    return {"X": names["images"].numpy(), "y": names["labels"].numpy()}


def timm(names: Names) -> Names:
    size = {"img_size": 8, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    create_model = pytest.importorskip("timm").create_model
    return {"model": create_model("vit_tiny_patch16_224", num_classes=10, in_chans=1, **size)}


def one_rank(names: Names) -> Names:
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("needs gloo")
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    return {}


def tensorboard(names: Names) -> Names:
    pytest.importorskip("tensorboard")
    return {}


WRITTEN_BY_THE_READER = {
    "Lightning": lightning,
    "Hugging Face Trainer": transformers,
    "Accelerate": accelerate,
    "fastai": fastai,
    "Ignite": ignite,
    "skorch": skorch,
    "timm": timm,
    "DistributedDataParallel, FSDP2, ZeroRedundancyOptimizer": one_rank,
    "TensorBoard, W&B, MLflow, trackio": tensorboard,
}
"""Returns what the blocks of a section assume besides the names of all pages, or skips the test."""


@pytest.fixture
def _no_process_group():
    yield
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@pytest.mark.usefixtures("_no_process_group")
@pytest.mark.parametrize("heading", SECTIONS)
def test_all_blocks_of_a_section_run(heading, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # for what they save
    names = names_at_hand()
    names |= WRITTEN_BY_THE_READER[heading](names)
    execute(SECTIONS[heading], FRAMEWORKS, names)


def test_all_frameworks_have_blocks():
    assert SECTIONS.keys() == WRITTEN_BY_THE_READER.keys()
